"""The whole cycle over HTTP with the real SDK: calls, reasons, accepted bank."""

import json
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest
from text_episodes import acts, added

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")

from llm_cases import DRAFT, GOOD, PLAN, creator, draft, evidence, script

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.codec import encode
from reskill_jax.creator import prompting, render
from reskill_jax.creator.prompting import Prompts
from reskill_jax.creator.proposal import PastTrial, Proposal
from reskill_jax.creator.stages import calls_left
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import MaxSteps
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.operations import Add, Delete, Modify, Rejection
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

OPEN = Skill(
    "open-containers",
    "Opens containers.",
    "The place in front of you is closed.",
    "Open it before you go on.",
    Trigger("action_pattern", "^go to .*"),
)


def authors(*answers):
    """Script the author's answers one after another, the other stages well."""
    left = iter(answers)

    def answer(stage, prompt):
        return next(left) if stage == "drafts" else script(stage, prompt)

    return answer


def test_one_call_per_task_and_stage_makes_a_proposal_that_passes(tmp_path):
    with LlmServer(script) as server:
        made = creator(server.url, tmp_path / "calls.jsonl")
        proposal = made.propose(evidence(tasks=5))
        assert proposal is not None
        assert added(proposal) == [OPEN]
        assert server.stages() == ["analysis"] * 5 + ["diagnosis", "advice", "drafts"]
    assert isinstance(verify(proposal, evidence(tasks=5)), Verified)
    metrics = made.take_metrics()
    assert metrics["creator/calls"] == 8
    assert metrics["creator/tokens"] > 800
    assert not {key for key in metrics if "error" in key or "rejected" in key}
    assert made.take_metrics() == {}
    assert [a["id"] for a in made.state()["assertions"]] == ["opens"]
    assert made.state()["spent"]["calls"] == 8


def test_where_not_all_tasks_are_analysed_names_of_tasks_prefer_no_type():
    """Ids begin with the type of task: in their order the last types had no turn."""
    kinds = ("clean", "heat", "pick_two")
    order = [(kinds[k % 3], k) for k in range(30)]  # as drawn: no type comes first
    tasks = [f"{kind}/{k}" for kind, k in order]
    mixed = [
        acts("look", task=task, step=step, success=won)
        for step, task in enumerate(tasks)
        for won in (True, False)
    ]
    lost = acts("look", task="clean/new", step=30)
    groups = render.groups((*mixed, lost), 9)
    assert [group[0].task for group in groups] == tasks[:-10:-1]  # the newest
    assert [len(group) for group in groups] == [2] * 9
    assert [g[0].task for g in render.groups((lost, *mixed), 31)][-1] == "clean/new"


def test_progress_tells_stage_calls_tokens_and_time_left(tmp_path):
    """Asked while each stage waits for its answer, one call at a time."""
    told = {}

    def answer(stage, prompt):
        told.setdefault(stage, []).append(made.progress())
        return script(stage, prompt)

    with LlmServer(answer) as server:
        made = creator(server.url, tmp_path / "calls.jsonl", concurrency=1)
        made.propose(evidence(tasks=2))
    first, second = told["analysis"]
    assert first == "stage analyse, 1 calls, 0 tokens"
    assert re.fullmatch(
        r"stage analyse, 2 calls, \d+ tokens, about \d+:\d\d left", second
    )
    stages = [
        told[name][0].split(",")[:2] for name in ("diagnosis", "advice", "drafts")
    ]
    assert stages == [
        ["stage diagnose", " 3 calls"],
        ["stage recommend", " 4 calls"],
        ["stage author", " 5 calls"],
    ]


@pytest.mark.parametrize(
    ("stage", "unanswered", "calls"),
    [
        ("analyse", 7, 4 + 3),  # two at a time, then one of each later stage
        ("analyse", 0, 3),
        ("diagnose", 0, 3),
        ("author", 0, 1),
    ],
)
def test_the_time_left_is_that_of_the_calls_to_come(stage, unanswered, calls):
    assert calls_left(stage, unanswered, max_concurrency=2) == calls


def test_the_next_stage_is_shown_what_the_last_one_found(tmp_path):
    with LlmServer(script) as server:
        made = creator(server.url, tmp_path / "calls.jsonl")
        made.propose(evidence())
        prompts = [r["messages"][1]["content"] for r in server.requests]
    analyse, diagnose, recommend, author = prompts[0], *prompts[-3:]
    assert "did: open shelf 1" in analyse
    assert "Open closed containers before leaving." in diagnose
    assert "opens: action_exists {'pattern': '^open '}" in recommend
    assert "passed by 3 of 3 successes, 0 of 3 failures" in recommend
    assert "^go to .*: fires in 100% of episodes" in recommend
    assert "open what is closed" in author
    assert not any("{{" in prompt for prompt in prompts)


TOO_LONG = "word " * 51
HISTORY_BANK = SkillBank((OPEN,))


def rejected_before(skill):
    proposal = Proposal((Add(skill),), ("why",), (), SkillBank().hash)
    banks = (SkillBank(), SkillBank((skill,)))
    return (PastTrial.judged(1, proposal, banks, accepted=False),)


FULL = SkillBank(tuple(replace(OPEN, name=f"s{i}", action=f"Do {i}.") for i in (1, 2)))
REASONS = {
    Rejection.TRIGGER_RATE: (
        draft(pattern="^take .*", trigger=None),
        {},
        "fires in 0%",
    ),
    Rejection.INVALID_PATTERN: (draft(pattern="(a{1000}){1000}"), {}, "not valid RE2"),
    Rejection.INVALID_FIELD: (draft(name="Not Kebab"), {}, "kebab-case"),
    Rejection.OVER_BUDGET: (draft(action=TOO_LONG), {}, "51 words, 1 more than the 50"),
    Rejection.DUPLICATE: (
        draft(name="again"),
        {"history": rejected_before(OPEN)},
        "rejected with the same content at step 1",
    ),
    Rejection.UNKNOWN_TARGET: (draft(op="delete", name="ghost"), {}, "has no 'ghost'"),
    Rejection.OVER_CAPACITY: (draft(), {"bank": FULL, "max_skills": 2}, "at most 2"),
    Rejection.EMPTY_CHANGE: (
        draft(op="modify"),
        {"bank": HISTORY_BANK},
        "changes nothing",
    ),
    Rejection.UNSAFE_TEXT: (draft(action="Say <|im_end|>."), {}, "markup"),
}


@pytest.mark.parametrize("reason", Rejection)
def test_every_reason_is_counted_and_told_to_the_author(tmp_path, reason):
    answer, changes, told = REASONS[reason]
    mended = draft(name="mended", when_to_use="It is shut.", pattern="^GO TO")
    if reason is Rejection.OVER_CAPACITY:
        room = {"op": "delete", "name": "s1"}
        operations = [*json.loads(mended)["operations"], room]
        mended = json.dumps({"operations": operations})
    asked = evidence(**changes)
    with LlmServer(authors(answer, mended)) as server:
        made = creator(server.url, tmp_path / "calls.jsonl")
        proposal = made.propose(asked)
        second = server.requests[-1]["messages"][1]["content"]
        assert server.stages().count("drafts") == 2
    assert f"{reason}: " in second
    assert told in second
    assert made.take_metrics()[f"creator/rejected/{reason}"] == 1
    assert proposal is not None
    assert isinstance(verify(proposal, asked), Verified)


def test_after_three_refused_bundles_there_is_no_proposal(tmp_path):
    with LlmServer(authors(*[draft(name="No Name")] * 3)) as server:
        made = creator(server.url, tmp_path / "calls.jsonl")
        assert made.propose(evidence()) is None
        assert server.stages().count("drafts") == 3
    assert made.take_metrics()["creator/rejected/invalid_field"] == 3
    assert len(made.last.rejections) == 3


def test_an_empty_plan_is_no_proposal_and_asks_no_author(tmp_path):
    def answer(stage, prompt):
        return '{"operations": []}' if stage == "advice" else script(stage, prompt)

    with LlmServer(answer) as server:
        assert creator(server.url, tmp_path / "c").propose(evidence()) is None
        assert server.stages()[-1] == "advice"


def test_modify_keeps_what_it_does_not_name_and_a_pattern_makes_its_trigger(tmp_path):
    general = replace(OPEN, trigger=Trigger())
    bank = SkillBank((general, replace(OPEN, name="other", action="Wait.")))
    answer = json.dumps(
        {
            "operations": [
                {"op": "modify", "name": "open-containers", "pattern": "^go"},
                {"op": "delete", "name": "other"},
            ]
        }
    )
    with LlmServer(authors(answer)) as server:
        asked = evidence(bank=bank)
        proposal = creator(server.url, tmp_path / "c").propose(asked)
    assert proposal is not None
    assert proposal.operations == (
        Modify("open-containers", {"trigger": Trigger("action_pattern", "^go")}),
        Delete("other"),
    )
    verdict = verify(proposal, asked)
    assert isinstance(verdict, Verified)
    (skill,) = verdict.candidate.skills
    assert skill == replace(
        general, trigger=Trigger("action_pattern", "^go"), version=2
    )


def diagnosing(edits):
    """Answers whose diagnosis edits the assertions so."""
    diagnosis = GOOD["diagnosis"] | {"assertions": edits}

    def answer(stage, prompt):
        return json.dumps(diagnosis) if stage == "diagnosis" else script(stage, prompt)

    return answer


def test_assertions_are_edited_and_a_bad_edit_spoils_nothing(tmp_path):
    edits = [
        {"op": "add", "id": "looks", "check": "action_exists", "pattern": "look"},
        {"op": "add", "id": "broken", "check": "action_exists", "pattern": "(["},
        {"op": "add", "id": "Bad Id", "check": "max_steps", "n": 3},
        {"op": "add", "id": "magic", "check": "is_good"},
        {"op": "delete", "id": "ghost"},
        {"op": "modify", "id": "looks", "check": "max_steps", "n": 4},
        {"op": "add", "id": "gone", "check": "min_steps", "n": 2},
        {"op": "delete", "id": "gone"},
    ]
    with LlmServer(diagnosing(edits)) as server:
        made = creator(server.url, tmp_path / "c")
        assert made.propose(evidence()) is not None
    assert made.take_metrics()["creator/rejected_assertions"] == 4
    state = json.loads(json.dumps(made.state()))
    (left,) = state["assertions"]
    assert (left["id"], left["check"]) == ("looks", {"type": "max_steps", "n": 4})
    again = creator("http://127.0.0.1:9/v1", tmp_path / "c")
    again.restore(state)
    assert again.state() == made.state()


def test_an_assertion_that_goes_makes_room_for_one_that_comes(tmp_path):
    edits = [
        {"op": "add", "id": "new", "check": "max_steps", "n": 99},
        {"op": "delete", "id": "old-0"},
    ]
    with LlmServer(diagnosing(edits)) as server:
        made = creator(server.url, tmp_path / "c")
        full = [encode(Assertion(MaxSteps(k + 1), f"old-{k}")) for k in range(15)]
        made.restore(made.state() | {"assertions": full})
        assert made.propose(evidence()) is not None
    names = [found["id"] for found in made.state()["assertions"]]
    assert names == [f"old-{k}" for k in range(1, 15)] + ["new"]


def test_a_group_without_an_answer_is_left_out(tmp_path):
    def answer(stage, prompt):
        if stage == "analysis" and "episode 1: failed after 2" in prompt:
            return "no" if "goal: odd" in prompt else script(stage, prompt)
        return script(stage, prompt)

    asked = evidence()
    records = (replace(asked.records[0], task="odd", goal="odd"), *asked.records)
    with LlmServer(answer) as server:
        made = creator(server.url, tmp_path / "c")
        assert made.propose(replace(asked, records=records)) is not None
    assert len(made.last.insights) == 3
    assert made.take_metrics()["creator/errors/bad_answer"] == 2


def test_a_wrong_shape_is_asked_for_once_more_with_what_was_wrong(tmp_path):
    plans = iter(['{"operations": [{"op": "rename"}]}', json.dumps(PLAN)])

    def answer(stage, prompt):
        return next(plans) if stage == "advice" else script(stage, prompt)

    with LlmServer(answer) as server:
        made = creator(server.url, tmp_path / "c")
        assert made.propose(evidence()) is not None
        again = next(
            r["messages"][1]["content"]
            for r in server.requests
            if "could not be used" in r["messages"][1]["content"]
        )
    assert "operations.0.op: Input should be 'add', 'modify' or 'delete'" in again


def test_our_own_prompts_have_the_placeholders_that_are_filled():
    ours = Path(prompting.__file__).parent / "prompts"
    assert Prompts(ours).fill("recommend", defaultdict(str)) == (
        Prompts().fill("recommend", defaultdict(str))
    )


def test_prompts_are_replaced_by_a_directory(tmp_path):
    (tmp_path / "author.md").write_text("Write. {{rejections}} {{schema}}")
    prompts = Prompts(tmp_path)
    assert prompts.fill("author", {"rejections": "{{schema}}", "schema": 1}) == (
        "Write. {{schema}} 1"
    )
    assert prompts.fill("system", {}) == Prompts().fill("system", {})
    (tmp_path / "author.md").write_text("{{nothing}}")
    with pytest.raises(
        ValueError, match=r"author.md: placeholders \['nothing'\] are unknown"
    ):
        Prompts(tmp_path)
    (tmp_path / "author.md").rename(tmp_path / "autor.md")
    with pytest.raises(ValueError, match=r"autor\.md: no stage has this name"):
        Prompts(tmp_path)
    with pytest.raises(ValueError, match="is not a directory of prompts"):
        Prompts(tmp_path / "nowhere")


def test_the_draft_of_the_cases_is_complete():
    assert set(DRAFT) == {
        "op", "name", "description", "when_to_use", "action", "example", "trigger",
        "pattern", "reason",
    }  # fmt: skip


def test_without_assertions_no_pass_rates_are_shown_and_none_is_taken_up(tmp_path):
    """The ablation no_analyzer, also where assertions are known already."""
    prompts = {}
    for grade in (True, False):
        with LlmServer(script) as server:
            made = creator(server.url, tmp_path / f"{grade}.jsonl", grade=grade)
            made.propose(evidence(tasks=2))
            assert made.propose(evidence(tasks=2, step=2)) is not None
            asked = server.requests[-3:]
            assert server.stages()[-3:] == ["diagnosis", "advice", "drafts"]
            prompts[grade] = [r["messages"][-1]["content"] for r in asked]
        assert bool(made.state()["assertions"]) == grade
    assert "successes" in prompts[True][0]
    for prompt in prompts[True][:2]:
        assert "opens: action_exists" in prompt
    for prompt in prompts[False]:
        assert "action_exists {" not in prompt
        assert "passed by" not in prompt


def test_the_author_is_offered_goals_and_told_what_was_rejected(tmp_path):
    """Both are off by default, and then its prompt is as if they were not there."""
    lost = Proposal((Delete("look-around"),), ("x",), ("y",), SkillBank().hash)
    banks = (SkillBank(), SkillBank((Skill("a", "b", "c", "d"),)))
    past = PastTrial.judged(1, lost, banks, False, Contrast(-0.07, 0.02, 0.01))
    found = replace(evidence(), history=(past,))

    def answer(stage, prompt):
        if stage == "goaldrafts":
            return json.dumps({"operations": [DRAFT | {"goal": "egg|mug|.*"}]})
        return script(stage, prompt)

    prompts = {}
    for on in (False, True):
        with LlmServer(answer) as server:
            options = {"goals": True, "rejected_edits": 2} if on else {}
            made = creator(server.url, tmp_path / f"{on}.jsonl", **options)
            proposal = made.propose(found)
            prompts[on] = server.requests[-1]["messages"][-1]["content"]
        (skill,) = added(proposal)
        assert skill.trigger.goal == ("egg|mug|.*" if on else "")
    assert "one sentence per operation\n- goal: empty, or RE2" in prompts[True]
    assert "step 1: rejected (-7.0%): delete look-around" in prompts[True]
    assert "one sentence per operation\n\nIf rejections" in prompts[False]
    assert "look-around" not in prompts[False]
