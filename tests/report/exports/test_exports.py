import json
import math
import subprocess
import sys
from pathlib import Path

import pyarrow.json
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import samples

from reskill_jax.codec import decode, encode
from reskill_jax.creator.proposal import Proposal
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.report.exports.__main__ import export
from reskill_jax.report.exports.atif import trajectory
from reskill_jax.report.exports.cards import model_card, skill_card
from reskill_jax.report.exports.skill_creator import benchmark, history
from reskill_jax.report.page.reading import TrialLine
from reskill_jax.skills.operations import Add, Delete
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.workdir import Workdir

SKILL = HELPFUL[0].skill()

# Where no group had both arms: see `skills.contrast`.
UNSURE = {"effect": 0.2, "standard_error": None, "probability": 0.8}


def episode(step, index, bank, success, **changes):
    """An episode of two turns, the second without an action, as files hold it."""
    return {
        "task": "train/a",
        "kind": "look",
        "goal": "find a mug",
        "bank": bank,
        "step": step,
        "success": success,
        "actions": ["go to desk 1", ""],
        "observations": ["A room.", "A desk.", "Nothing happens."],
        "active_skills": [[], [SKILL.name]],
        "valid": [True, False],
        "split": "train",
        "arm": int(bank == "new"),
        "group": 0,
        "index": index,
        "reward": float(success),
        "scores": {},
        "lost": "",
        "responses": ["<action>go to desk 1</action>", "hm"],
        "rewards": [0.0, float(success)],
        "prompt_tokens": [10, 20],
        "response_tokens": [3, 2],
        "stopped": [True, True],
        "versions": [4, 4],
    } | changes


def trial(step, parent, candidate, accepted, **changes):
    proposal = encode(Proposal((Add(SKILL),), ("r",), ("e",), parent))
    contrast = {"effect": 0.5, "standard_error": 0.1, "probability": 0.9}
    contrast |= {"exposed_effect": 0.5, "exposed_standard_error": 0.1}
    return {
        "step": step,
        "start": step - 2,
        "proposal": proposal,
        "candidate": candidate,
        "accepted": accepted,
        "contrast": contrast,
        "rates": [0.5, 1.0],
        "stop_reason": "clear",
    } | changes


def decided(*values, **changes):
    return decode(TrialLine, trial(*values, **changes), fields="any")


@pytest.fixture
def workdir(tmp_path):
    """A run whose only trial took steps 1 and 2."""
    place = Workdir(tmp_path / "a run")
    place.episodes.mkdir(parents=True)
    config = {"policy": {"path": "tiny"}, "warm_start": {"recipe": ""}}
    place.config.write_text(json.dumps(config | {"env": {"name": "alfworld"}}))
    for name, steps in (("train", (1, 2, 3)), ("eval", (0, 2))):
        for step in steps:
            lines = [
                episode(step, index, bank, success)
                for index, (bank, success) in enumerate(
                    [("old", False), ("old", True), ("new", True), ("new", True)]
                )
            ]
            path = place.episodes / f"{name}-{step:05d}.jsonl"
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    place.trials.write_text(json.dumps(trial(2, "old", "new", True)) + "\n")
    save_bank(SkillBank((SKILL,)), place.skills)
    return place


def written(output: Path) -> dict[str, str]:
    return {
        str(path.relative_to(output)): path.read_text()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


def test_trajectories_are_those_of_the_published_format(workdir, tmp_path):
    atif = pytest.importorskip("atif")
    assert export(workdir, "atif", tmp_path / "out") == 4
    documents = [json.loads(text) for text in written(tmp_path / "out").values()]
    for document in documents:
        atif.Trajectory.model_validate(document)
    assert len({document["trajectory_id"] for document in documents}) == 4
    first = documents[0]
    assert first["final_metrics"]["extra"]["success"] is False
    assert [step["source"] for step in first["steps"]] == ["user", "agent", "agent"]
    with_action, without = first["steps"][1:]
    assert with_action["tool_calls"][0]["arguments"] == {"command": "go to desk 1"}
    (result,) = with_action["observation"]["results"]
    assert result == {"content": "A desk.", "source_call_id": "t0"}
    assert "tool_calls" not in without
    assert without["observation"]["results"] == [{"content": "Nothing happens."}]


def test_the_newest_evaluation_is_that_of_the_largest_step(workdir, tmp_path):
    """From 100,000 on, steps have more digits than their files' names are padded to."""
    for step in (99999, 100000):
        path = workdir.episodes / f"eval-{step}.jsonl"
        path.write_text(json.dumps(episode(step, 0, "old", True)) + "\n")
    export(workdir, "atif", tmp_path / "out")
    assert [*written(tmp_path / "out")] == ["eval-100000/00000.json"]


@given(st.lists(st.text(max_size=8), max_size=4), st.integers(-1, 1))
@settings(max_examples=50, deadline=None)
def test_any_texts_and_a_missing_last_observation_are_valid(texts, missing):
    atif = pytest.importorskip("atif")
    turns = len(texts)
    line = episode(
        1,
        0,
        "b",
        False,
        actions=texts,
        responses=texts,
        observations=["", *texts][: turns + min(missing, 0) + 1],
    )
    for key, value in (("active_skills", []), ("valid", True), ("rewards", 0.0)):
        line[key] = [value] * turns
    for key in ("prompt_tokens", "response_tokens", "versions"):
        line[key] = [1] * turns
    document = trajectory(line, session="s", phase="train", model="m")
    atif.Trajectory.model_validate_json(json.dumps(document))
    assert len(document["steps"]) == turns + 1


def test_a_trial_is_the_comparison_of_its_own_episodes(workdir, tmp_path):
    assert export(workdir, "benchmark", tmp_path / "out") == 1
    (text,) = written(tmp_path / "out").values()
    found = json.loads(text)
    assert list(found["run_summary"])[:2] == ["new_skill", "old_skill"]
    assert found["run_summary"]["delta"]["pass_rate"] == "+0.50"
    assert found["run_summary"]["old_skill"]["pass_rate"]["stddev"] == 0.5
    assert len(found["runs"]) == 8  # steps 1 and 2, not 3
    assert found["metadata"]["runs_per_configuration"] == 2
    one = found["runs"][0]
    assert one["result"]["tokens"] == 5
    assert (one["result"]["tool_calls"], one["result"]["errors"]) == (2, 1)
    assert any("+0.500, standard error 0.100" in note for note in found["notes"])


def test_a_trial_that_could_not_measure_all_is_written_all_the_same(workdir, tmp_path):
    """Errors and effects on some tasks are None where there is nothing to go by."""
    line = trial(2, "old", "new", False, contrast=UNSURE)
    workdir.trials.write_text(json.dumps(line) + "\n")
    export(workdir, "benchmark", tmp_path / "out")
    (text,) = written(tmp_path / "out").values()
    assert any(
        note.startswith("Effect within groups +0.200, probability that")
        and note.endswith("no changed skill could be shown.")
        for note in json.loads(text)["notes"]
    )


@pytest.mark.parametrize("to", ["benchmark", "history", "cards"])
def test_a_trial_of_any_number_of_steps_ends(workdir, tmp_path, to):
    line = trial(10**18, "old", "new", True, start=-(10**18))
    workdir.trials.write_text(json.dumps(line) + "\n")
    export(workdir, to, tmp_path / "out")


def test_a_damaged_trial_is_named(workdir, tmp_path):
    with workdir.trials.open("a") as file:
        file.write('{"step": "two"}\n')
    with pytest.raises(ValueError, match=r"^trials.jsonl, line 2"):
        export(workdir, "cards", tmp_path / "out")


def test_lost_episodes_and_other_banks_take_no_part():
    lines = [
        episode(1, 0, "old", True),
        episode(1, 1, "other", True),
        episode(1, 2, "new", True, lost="broken"),
    ]
    found = benchmark(decided(2, "old", "new", True), lines, model="m", created="t")
    assert [run["configuration"] for run in found["runs"]] == ["old_skill"]


def test_the_lineage_names_each_bank_its_parent_and_the_current_one():
    trials = [
        decided(2, "a", "b", True),
        decided(4, "b", "c", False),
        decided(6, "b", "d", False, not_chosen=True),
        decided(8, "b", "e", False, rates=None, contrast=None),
    ]
    found = history(trials, started="t")
    rows = [
        (x["version"], x["parent"], x["grading_result"]) for x in found["iterations"]
    ]
    assert rows == [
        ("a", None, "baseline"),
        ("b", "a", "won"),
        ("c", "b", "lost"),
        ("d", "b", "tie"),
        ("e", "b", "lost"),
    ]
    assert found["current_best"] == "b"
    best = [x["version"] for x in found["iterations"] if x["is_current_best"]]
    assert best == ["b"]
    assert found["iterations"][0]["expectation_pass_rate"] == 0.5


def test_a_card_holds_the_evidence_of_its_skill_and_no_other(workdir):
    deletes = encode(Proposal((Delete("another"),), ("r",), ("e",), "b"))
    trials = [
        decided(2, "a", "b", True),
        decided(9, "b", "z", False, proposal=deletes),
        decided(4, "b", "c", False, contrast=None),
        decided(5, "b", "c", False, contrast=UNSURE, not_chosen=True),
    ]
    card = skill_card(SKILL, trials, measured_with="policy 'tiny'")
    rows = [line for line in card.splitlines() if line.startswith("| ")][1:]
    assert rows == [
        f"| 2 | add {SKILL.name} | +50.0% ± 10.0% | 90% | accepted |",
        f"| 4 | add {SKILL.name} | not measured | not measured | rejected |",
        f"| 5 | add {SKILL.name} | +20.0% | 80% | not chosen |",
    ]
    assert "policy 'tiny' only" in card


def test_a_model_card_gives_errors_panels_and_void_figures():
    line = {"panels": {"seen": "100:abc", "unseen": "50:def"}, "seen/success": 0.5}
    line |= {"unseen/success": 0.1, "unseen/void": 1.0} | samples("seen", 0.25)
    card = model_card(
        base="tiny",
        environment="sql",
        strategy="grpo",
        step=7,
        evaluation=line,
        shown="Nothing.",
    )
    assert "Nothing." in card
    assert "| seen | 50.0% | 5.0% | 100:abc |" in card
    assert "| seen | mean@2 | 0.7 | 25.0% | 5.0% to 45.0% |" in card
    assert "| unseen | void: too many tasks failed for good | | 50:def |" in card
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "transformers"


def test_a_dataset_declares_its_phases_and_keeps_all_turns(workdir, tmp_path):
    assert export(workdir, "dataset", tmp_path / "out", "all") == 6
    files = written(tmp_path / "out")
    head = yaml.safe_load(files["README.md"].split("---")[1])
    assert [c["config_name"] for c in head["configs"]] == ["eval", "train"]
    row = json.loads(files["data/train/train-00001.jsonl"].splitlines()[0])
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert row["messages"][0]["content"] == "Goal: find a mug\n\nA room."


def test_a_dataset_has_types_that_fit_files_of_a_time_without_skills(workdir, tmp_path):
    path = workdir.episodes / "train-00001.jsonl"
    line = episode(1, 0, "old", False, active_skills=[[], []])
    path.write_text(json.dumps(line) + "\n")
    export(workdir, "dataset", tmp_path / "out", "all")
    head = yaml.safe_load((tmp_path / "out/README.md").read_text().split("---")[1])
    assert [info["config_name"] for info in head["dataset_info"]] == ["eval", "train"]
    schema = pyarrow.schema(_arrow(head["dataset_info"][1]["features"]))
    guessed, tables = set(), []
    for file in sorted((tmp_path / "out/data/train").glob("*.jsonl")):
        table = pyarrow.json.read_json(file)
        guessed.add(str(table.schema.field("active_skills").type))
        tables.append(table.cast(schema))
    assert len(guessed) == 2  # what `datasets` takes for a damaged file
    rows = pyarrow.concat_tables(tables).to_pylist()
    assert [row["active_skills"][1] for row in rows] == [[], *8 * [[SKILL.name]]]


def _arrow(feature):
    """The type that a card of the Hub declares."""
    if isinstance(feature, list):
        fields = [(field.pop("name"), _arrow(field)) for field in feature]
        return pyarrow.struct(fields)
    if isinstance(feature, str):
        return pyarrow.type_for_alias(feature)
    if "list" in feature:
        return pyarrow.list_(_arrow(feature["list"]))
    return _arrow(feature["dtype"])


def test_a_text_that_looks_like_a_secret_breaks_no_line_of_a_dataset(workdir, tmp_path):
    (path,) = workdir.episodes.glob("train-00001.jsonl")
    lines = path.read_text().splitlines()
    first = json.loads(lines[0])
    first["observations"][0] = 'It says "the password: swordfish" in red.'
    first["observations"][1] = "-----BEGIN PRIVATE KEY-----"
    path.write_text("\n".join([json.dumps(first), *lines[:1]]) + "\n")
    export(workdir, "dataset", tmp_path / "out", "train-00001")
    text = written(tmp_path / "out")["data/train/train-00001.jsonl"]
    hidden, other = map(json.loads, text.splitlines())
    assert "swordfish" not in str(hidden)
    assert other["messages"][0]["content"] == "Goal: find a mug\n\nA room."


def test_secrets_of_the_environment_are_replaced(workdir, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "find a mug")
    for to in ("atif", "dataset"):
        export(workdir, to, tmp_path / to)
        assert "find a mug" not in "".join(written(tmp_path / to).values())


@pytest.mark.parametrize("to", ["atif", "benchmark", "dataset"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"versions": "x"}, r"line 2.versions: Expected `array`, got `str`"),
        ({"success": None}, r"line 2.success: Expected `bool`, got `null`"),
        ({"versions": [4]}, r"line 2.versions: 1 entries for 2 turns"),
        ({"versions": None}, r"line 2.versions: "),
        ({"reward": None}, r"line 2.reward: this field is missing"),
        ({"observations": [["A room."], "x"]}, r"line 2.observations\[0\]: Expected"),
    ],
)
def test_a_damaged_or_foreign_episode_is_named(workdir, tmp_path, to, changes, message):
    for path in workdir.episodes.glob("*.jsonl"):
        lines = path.read_text().splitlines()
        lines[1] = json.dumps(json.loads(lines[1]) | changes)
        path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        export(workdir, to, tmp_path / "out", "all")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("to", ["atif", "dataset"])
def test_what_json_cannot_hold_is_named_and_leaves_no_part(workdir, tmp_path, to):
    (path,) = workdir.episodes.glob("eval-00002.jsonl")
    lines = path.read_text().splitlines()
    lines.append(json.dumps(episode(2, 4, "old", True, reward=math.nan)))
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"eval-00002.*: .* NaN or infinity"):
        export(workdir, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_another_program_is_refused_in_words(workdir, tmp_path):
    workdir.config.write_text(json.dumps({"policy": None}))
    with pytest.raises(ValueError, match=r"config.json has policy.path=None"):
        export(workdir, "cards", tmp_path / "out")


def test_no_text_of_a_run_names_a_place_outside_the_output(workdir, tmp_path):
    candidate = "/../../elsewhere"
    workdir.trials.write_text(json.dumps(trial(2, "old", candidate, True)) + "\n")
    for path in workdir.episodes.glob("train-*.jsonl"):
        path.write_text(path.read_text().replace('"new"', f'"{candidate}"'))
    with pytest.raises(ValueError, match=f"candidate='{candidate}', which is no hash"):
        export(workdir, "benchmark", tmp_path / "out")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("to", "episodes", "message"),
    [
        ("atif", "eval-00009", "episodes='eval-00009': .* has no such file"),
        ("history", "", "nothing for to='history' yet"),
        ("atif", "", "no evaluation: name files"),
    ],
)
def test_what_is_not_there_is_named(workdir, tmp_path, to, episodes, message):
    workdir.trials.unlink()
    if not episodes:
        for path in workdir.episodes.glob("eval-*"):
            path.unlink()
    with pytest.raises((OSError, ValueError), match=message):
        export(workdir, to, tmp_path / "out", episodes)


def test_the_command_overwrites_nothing(workdir, tmp_path):
    (tmp_path / "out").mkdir()
    module = "reskill_jax.report.exports"
    flags = [f"--workdir={workdir.root}", "--to=cards", f"--output={tmp_path / 'out'}"]
    done = subprocess.run(
        [sys.executable, "-m", module, *flags],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "is there already: remove it or choose another" in done.stderr
