"""The creator as a tool of its own: recorded episodes in, a skill directory out."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pydantic", reason="needs the extra llm: pip install '.[llm]'")

from llm_cases import evidence, script
from text_episodes import acts, many

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.codec import encode
from reskill_jax.creator import render
from reskill_jax.creator.episodes import as_evidence, read_episodes
from reskill_jax.creator.offline import OfflineCreator
from reskill_jax.environments.alfworld.rules import HELPFUL, TABLE
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import load_bank, save_bank

ANY_TEXT = st.one_of(
    st.text(max_size=9),
    st.sampled_from(["go to sink 1", "open it", "\ud83d go", "\x00\x1b[2J", "(", ""]),
)


def tool(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "reskill_jax.creator", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def run_records():
    return [encode(record) for record in evidence(tasks=4).records]


def test_a_model_improves_a_bank_and_its_log_replays(tmp_path):
    pytest.importorskip("openai", reason="needs the extra llm")
    write(tmp_path / "episodes" / "train-00001.jsonl", run_records())
    write(tmp_path / "episodes" / "eval-00001.jsonl", [{"held": "out"}])
    save_bank(SkillBank(), tmp_path / "bank")
    arguments = [f"--episodes={tmp_path / 'episodes'}", f"--bank={tmp_path / 'bank'}"]
    with LlmServer(script) as server:
        done = tool(
            *arguments, f"--output={tmp_path / 'a'}", "--llm=openai:m",
            f"--base_url={server.url}", "--api_key_variable=KEY", KEY="hush-hush",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert len(server.requests) == 4 + 3
    (skill,) = load_bank(tmp_path / "a" / "skills").skills
    assert skill.name == "open-containers"
    report = (tmp_path / "a" / "report.md").read_text()
    for words in (
        "Most failures never open anything.",
        "opens: action_exists",
        "add open-containers",
        "calls: 7",
    ):
        assert words in report
    calls = tmp_path / "a" / "calls.jsonl"
    assert len(calls.read_text().splitlines()) == 7
    for path in (tmp_path / "a").rglob("*.*"):
        assert "hush" not in path.read_text()
    again = tool(*arguments, f"--output={tmp_path / 'b'}", f"--llm=replay:{calls}")
    assert again.returncode == 0, again.stderr
    for name in ("proposal.json", "skills/open-containers/SKILL.md"):
        assert (tmp_path / "a" / name).read_text() == (
            tmp_path / "b" / name
        ).read_text()


def test_other_systems_episodes_and_no_model(tmp_path):
    """A plain format with nothing but what is needed; the rules make the proposal."""
    lost = ["go to drawer 1", "go to shelf 1", "go to drawer 1"]
    won = ["go to drawer 1", "open drawer 1", "take pen 1 from drawer 1", "look"]
    lines = [
        {"task": f"t{i}", "success": s, "actions": won if s else lost}
        | {"observations": ["", "The drawer 1 is closed.", "x", "x"]}
        for i in range(15)
        for s in (True, False)
    ]
    path = write(tmp_path / "e.jsonl", lines)
    out = tmp_path / "out"
    done = tool(f"--episodes={path}", f"--output={out}", "--rules=alfworld")
    assert done.returncode == 0, done.stderr
    assert "opens: action_exists" in done.stdout
    names = set(load_bank(out / "skills").names())
    assert names <= {rule.name for rule in HELPFUL}
    assert names


def test_without_rules_advice_comes_from_what_successful_episodes_do(tmp_path):
    lines = [
        {"task": f"t{i}", "success": s, "actions": ["search shirt", *["buy"] * s]}
        for i in range(15)
        for s in (True, False)
    ]
    path = write(tmp_path / "e.jsonl", lines)
    done = tool(f"--episodes={path}", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "use-buy" in load_bank(tmp_path / "out" / "skills").names()
    done = tool(f"--episodes={path}", "--rules=nowhere")
    assert done.returncode == 1
    assert "--rules='nowhere': there is no reskill_jax.environments" in done.stderr


def test_a_service_that_is_down_is_an_error_with_a_report(tmp_path):
    pytest.importorskip("openai", reason="needs the extra llm")
    path = write(tmp_path / "e.jsonl", run_records())
    done = tool(
        f"--episodes={path}", f"--output={tmp_path / 'o'}", "--llm=openai:m",
        "--base_url=http://127.0.0.1:9", "--api_key_variable=PATH", "--calls=4",
    )  # fmt: skip
    assert done.returncode == 1
    assert "APIConnectionError" in (tmp_path / "o" / "report.md").read_text()
    assert not (tmp_path / "o" / "skills").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "e.jsonl, line 2: not JSON: "),
        ("[" * 100_000, "line 2: not JSON: maximum recursion"),
        ('{"task": null, "success": true, "actions": []}', "episode.task: Expected"),
        ('{"task": "t", "success": null, "actions": []}', "episode.success: Exp"),
        ('{"task": "t", "success": true, "actions": null}', "episode.actions: Exp"),
        ('{"task": "t", "success": true, "actions": [null]}', "episode.actions[0]: E"),
        ("[]", "line 2: episode: Expected `object`, got `array`"),
        ('{"success": true, "actions": []}', "missing required field `task`"),
        ('{"task": "t", "success": 1, "actions": []}', "episode.success: Expected"),
        ('{"task": "t", "success": true, "actions": "go"}', "episode.actions: Exp"),
        ('{"task": "t", "success": true, "actions": [1]}', "episode.actions[0]: Exp"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, line, message):
    good = '{"task": "t", "success": true, "actions": []}'
    path = tmp_path / "e.jsonl"
    path.write_text(f"{good}\n{line}\n")
    with pytest.raises(ValueError, match=r"line 2") as error:
        read_episodes(path)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("observations", 5),
        ("observations", [None]),
        ("active_skills", [None, None]),
        ("active_skills", ["a"]),
        ("goal", 5),
        ("step", 1.5),
        ("step", float("nan")),
        ("valid", [0]),
    ],
)
def test_an_optional_key_of_another_type_is_named(tmp_path, key, value):
    good = {"task": "t", "success": True, "actions": ["look"]}
    path = write(tmp_path / "e.jsonl", [good, good | {key: value}])
    with pytest.raises(ValueError, match=rf"line 2: episode\.{key}(\[0\])*: Expected"):
        read_episodes(path)


def test_what_is_not_needed_may_be_null(tmp_path):
    needed = {"task": "t", "success": True, "actions": ["look"]}
    names = [field.name for field in dataclasses.fields(EpisodeRecord)]
    nulls = dict.fromkeys([*names, "reward", "model"]) | needed
    path = write(tmp_path / "e.jsonl", [needed, nulls])
    first, second = read_episodes(path)
    assert first == second


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "task": st.sampled_from(["t1", "t2", "\ud83d"]),
                "success": st.booleans(),
                "actions": st.lists(ANY_TEXT, max_size=4),
            },
            optional={
                "observations": st.none() | st.lists(ANY_TEXT, max_size=6),
                "goal": st.none() | ANY_TEXT,
                "kind": st.none() | ANY_TEXT,
                "bank": st.none() | ANY_TEXT,
                "step": st.none() | st.integers(),
                "active_skills": st.none() | st.lists(st.lists(ANY_TEXT), max_size=6),
                "valid": st.none() | st.lists(st.booleans(), max_size=6),
            },
        ),
        min_size=1,
        max_size=30,
    )
)
def test_episodes_of_any_system_become_evidence(tmp_path_factory, lines):
    """Whatever lengths lists have, and whatever is in their texts."""
    path = write(tmp_path_factory.mktemp("e") / "e.jsonl", lines)
    found = as_evidence(read_episodes(path), SkillBank(), max_skills=8)
    OfflineCreator(TABLE, min_records=1, min_support=1).propose(found)
    for text in (
        render.assertions(TABLE.assertions, found),
        *(render.episodes(group, "") for group in render.groups(found.records, 5)),
        render.outcomes(found),
        render.actions(found.records),
    ):
        text.encode()


def test_recorded_episodes_become_evidence_as_in_a_run(tmp_path):
    records = [*many(acts("look", step=3), 2, "t"), acts("look", step=7, task="t-0")]
    path = write(tmp_path / "e.jsonl", [encode(r) for r in reversed(records)])
    found = as_evidence(read_episodes(path), SkillBank(), max_skills=4)
    assert [(r.task, r.step) for r in found.records] == [("t-1", 3), ("t-0", 7)]
    assert sum(tally.episodes for tally in found.tallies) == 3
    with pytest.raises(ValueError, match="holds no episodes"):
        read_episodes(write(tmp_path / "none.jsonl", []))
