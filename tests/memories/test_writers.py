"""Both writers, and the desk that they work at."""

import json
import signal
import threading
from functools import partial

import pytest
from llm_cases import caller
from text_episodes import acts

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")

from method_cases import Game, make, resumed

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.creator.prompting import Prompts
from reskill_jax.environments.alfworld.rules import FAMILY, HELPFUL
from reskill_jax.llm.call_log import CallLog
from reskill_jax.llm.caller import Caller
from reskill_jax.memories.desk import Desk
from reskill_jax.memories.llm_writer import LlmWriter
from reskill_jax.memories.rules import RuleEdit
from reskill_jax.memories.skill_entries import Entry, EntryEdit
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.skills.rule import RuleTable
from reskill_jax.termination import TerminatedError, Termination

TABLE = RuleTable(HELPFUL, FAMILY)
LOST = acts("go to shelf 1", "look", "look", "look")
WON = acts("go to shelf 1", "open shelf 1", "take mug 1", success=True)
ANSWERS = {
    "lesson": {"lesson": "Open <it>."},
    "script": {"steps": ["go", "open", "take", "a", "b", "too many"]},
    "principle": {"principle": "Open what is closed."},
    "same": {"same": True},
    "edits": {"operations": [{"op": "add", "target": -1, "text": "Open it."}] * 5},
    "skills": {
        "operations": [
            {
                "op": "add",
                "target": "",
                "category": "general",
                "title": "Open <it>",
                "principle": "Open what is closed.",
                "when": "",
            }
        ]
        * 5
    },
    "instructions": {"instructions": ["One.", "One.", "Two.", "Three.", "Four."]},
}


def script(stage, prompt):
    return json.dumps(ANSWERS[stage])


def llm_writer(server, path, **options):
    return LlmWriter(caller(server.url, path, **options), Prompts())


def desk(server, path, work, wait):
    writer = llm_writer(server, path)
    return Desk(writer, work, background=True, delay_steps=1, wait=wait)


def test_a_lesson_by_rule_answers_what_went_wrong_and_is_not_repeated():
    writer = OfflineWriter(TABLE)
    said = []
    while text := writer.lesson(LOST, said):
        assert text not in said
        said.append(text)
    rules = [f"{when} {action}" for rule in HELPFUL for when, action in rule.wordings]
    assert said[0] in rules
    assert "'look' was tried 3 times: try something else." in said
    assert OfflineWriter().lesson(acts(), ()).startswith("Act:")


def test_scripts_and_principles_by_rule_are_short():
    writer = OfflineWriter()
    assert writer.script(WON) == "1. go to shelf 1; 2. open shelf 1; 3. take mug 1"
    long = acts(*(f"verb{chr(97 + k)} {k}" for k in range(9)), success=True)
    assert writer.script(long).count(";") == 4
    assert writer.principle(WON) == "What works: go to, then open, then take."
    assert writer.principle(LOST) == writer.lesson(LOST, ())
    assert writer.same("Open it!", "open IT")
    assert not writer.same("open it", "close it")


def test_rules_are_agreed_with_where_they_are_there_and_instructions_grow():
    writer = OfflineWriter(TABLE)
    (lost, won) = writer.edits((), [WON], [LOST])
    assert (lost.op, won.op) == ("add", "add")
    again = writer.edits([won.text], [WON], [LOST])
    assert again == (RuleEdit("add", text=lost.text), RuleEdit("agree", 0))
    first, second = writer.instructions("Base.", [LOST], 2)
    assert first != second
    assert first.startswith("Base. ")
    assert writer.instructions(first, [LOST], 1)[0].startswith(first)


def test_a_language_model_writes_everything_and_is_cleaned(tmp_path):
    with LlmServer(script) as server:
        writer = llm_writer(server, tmp_path / "calls.jsonl")
        writer.begin(1)
        assert writer.lesson(LOST, ["said before"]) == "Open \u2039it\u203a."
        assert writer.script(WON) == "1. go; 2. open; 3. take; 4. a; 5. b"
        assert writer.principle(WON) == "Open what is closed."
        assert writer.same("a", "b")
        assert (
            writer.edits(["rule"], [WON], [LOST])
            == (RuleEdit("add", -1, "Open it."),) * 4
        )
        assert len(writer.skills((), [WON], [LOST], ("heat",), 3)) == 3
        assert writer.instructions("", [LOST], 3) == ("One.", "Two.", "Three.")
        assert server.stages() == [*ANSWERS]
        prompts = [r["messages"][-1]["content"] for r in server.requests]
    assert "said before" in prompts[0]
    assert "go to shelf 1" in prompts[0]
    assert "rule" in prompts[4]
    metrics = writer.take_metrics()
    assert metrics["writer/calls"] == 7
    assert writer.state()["spent"]["calls"] == 7


def test_no_answer_is_nothing_said_and_counted(tmp_path):
    with LlmServer(lambda stage, prompt: "no JSON") as server:
        writer = llm_writer(server, tmp_path / "calls.jsonl")
        writer.begin(1)
        assert writer.lesson(LOST, ()) == writer.script(WON) == ""
        assert writer.edits((), [WON], ()) == writer.instructions("", [LOST], 2) == ()
        assert not writer.same("a", "b")
    assert writer.take_metrics()["writer/errors/bad_answer"] == 10


def figures(learned):
    """All but the seconds, which a log rounds."""
    return {k: v for k, v in learned.metrics.items() if k != "writer/seconds"}


@pytest.mark.parametrize(
    "name", ["memrl", "evolver", "inspo", "reflexion", "expel", "skillrl"]
)
def test_with_a_language_model_a_killed_run_ends_the_same(name, tmp_path):
    """Calls are found in the log; `delay_steps` fixes when they count."""
    quick = {
        "inspo": {"every": 2, "least_groups": 1, "checks": 2},
        "expel": {"gather_steps": 3},
        "skillrl": {"every": 2, "least": 2, "weak": 0.9, "duplicate": 1.0},
    }

    def answer(stage, prompt):
        if stage == "instructions":
            return json.dumps({"instructions": [f"Way {len(prompt) % 7}."]})
        if stage == "skills":
            [skill] = ANSWERS[stage]["operations"][:1]
            made = [skill | {"title": f"Way {len(prompt)}"}]
            return json.dumps({"operations": made})
        return script(stage, prompt)

    with LlmServer(answer) as server:

        def fresh(log):
            return make(name, desk=partial(desk, server, tmp_path / log), **quick)

        straight = Game(fresh("a"))
        learned = list(map(figures, straight.run(6)))
        broken = Game(fresh("b"))
        for step in range(1, 7):
            broken.strategy = resumed(broken.strategy, fresh("b"))
            assert broken.step(step).metrics.keys() >= {"memory/items"}
        assert broken.strategy.incumbent == straight.strategy.incumbent
        assert [p.contexts for p in broken.plans] == [
            p.contexts for p in straight.plans
        ]
        assert any(x.get("writer/calls") for x in learned)
        for game in (straight, broken):
            game.strategy._desk.take(99)

    # And from the log alone, without the server.
    def replayed(work, wait):
        replay = Caller(None, CallLog(tmp_path / "c", tmp_path / "a"))
        writer = LlmWriter(replay, Prompts())
        return Desk(writer, work, background=True, delay_steps=1, wait=wait)

    again = Game(make(name, desk=replayed, **quick))
    assert list(map(figures, again.run(6))) == learned


class Slow(OfflineWriter):
    """Waits until it may go on."""

    def script(self, record):
        assert gate.wait(30)
        return super().script(record)


gate = threading.Event()


def work(writer, job):
    if job == "fail":
        raise RuntimeError("no")
    return writer.script(WON) if job == "slow" else job


def test_a_slow_writer_stops_nothing_and_jobs_keep_their_order():
    gate.clear()
    made = Desk(Slow(), work, background=True)
    made.submit(1, "slow")
    made.submit(1, "quick")
    assert made.take(1) == []
    assert not made.idle
    assert made.take_metrics() == {"writer/pending": 2}
    held = made.state()
    assert [job["job"] for job in held["jobs"]] == ["slow", "quick"]
    gate.set()
    for delayed in ({"wait": True}, {"delay_steps": 1}):
        other = Desk(Slow(), work, background=True, **delayed)
        other.restore(json.loads(json.dumps(held)))
        assert [job for job, _ in other.take(2)] == ["slow", "quick"]
        assert other.idle


def test_with_a_delay_a_result_counts_exactly_so_many_steps_later():
    made = Desk(OfflineWriter(), work, background=True, delay_steps=2)
    made.submit(3, "quick")
    assert made.take(3) == made.take(4) == []
    assert made.take_metrics() == {"writer/pending": 1}
    assert made.take(5) == [("quick", "quick")]
    assert made.take_metrics() == {}


def test_a_writer_that_fails_is_told_and_the_next_job_is_done(caplog):
    for background in (True, False):
        made = Desk(OfflineWriter(), work, background=background, wait=True)
        made.submit(1, "fail")
        made.submit(1, "quick")
        assert made.take(1) == [("quick", "quick")]
        assert made.take_metrics() == {"writer/errors/internal": 1}
    assert "the writer failed" in caplog.text


def test_a_run_that_must_end_is_no_failure_of_the_writer():
    def ended(writer, job):
        signal.raise_signal(signal.SIGTERM)

    made = Desk(OfflineWriter(), ended)
    with (
        Termination() as termination,
        termination.interrupts(),
        pytest.raises(TerminatedError),
    ):
        made.submit(1, "job")


def test_a_language_model_distils_skills_of_whole_episodes(tmp_path):
    known = Entry("general", "Look around", "Look first.")
    with LlmServer(script) as server:
        writer = llm_writer(server, tmp_path / "calls.jsonl")
        writer.begin(1)
        found = writer.skills((known,), (WON,), (LOST,), ("heat", "cool"), 3)
        (request,) = server.requests
    new = Entry("general", "Open \u2039it\u203a", "Open what is closed.")
    assert found == (EntryEdit("add", new),) * 3
    prompt = request["messages"][-1]["content"]
    assert f"[{known.id}] general: Look around: Look first." in prompt
    assert prompt.count("  did: ") == len(WON.actions) + len(LOST.actions)
    assert "failed after 4 actions" in prompt
    assert "heat, cool" in prompt
    assert writer.take_metrics()["writer/calls"] == 1
