"""A run is described from its files, whatever is in them."""

import json
import re
import sys

import pytest
from programs import start

from reskill_jax.codec import encode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.laboratory.known_proposals import addition
from reskill_jax.report.show import _trials, show
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.workdir import Workdir

BANKS = (SkillBank(), SkillBank((HELPFUL[0].skill(),)))


def test_trials_are_shown_as_far_as_they_measured_anything(tmp_path):
    found = (
        Contrast(0.123, 0.04, 0.9, exposed_effect=0.2, exposed_standard_error=0.05),
        Contrast(-0.05, 0.04, 0.1),  # no changed skill could have fired
        Contrast(0.0, None, 0.5),  # no group had both arms
        None,
    )
    lines = [
        PastTrial.judged(step, addition(HELPFUL[0]), BANKS, step == 0, contrast)
        for step, contrast in enumerate(found)
    ]
    text = "".join(json.dumps(encode(past)) + "\n" for past in lines)
    (tmp_path / "trials.jsonl").write_text(text)
    head, *shown = _trials(Workdir(tmp_path))
    assert head == "Trials decided: 4, accepted: 1"
    words = [" ".join(line.split()[2:-2]) for line in shown]
    assert words == [
        "accepted +12.3% ±4.0% exposed +20.0% ±5.0%",
        "rejected -5.0% ±4.0% exposed -",
        "rejected - exposed -",
        "rejected untested",
    ]
    assert len({line.index("add ") for line in shown}) == 1


CONFIG = {"strategy": {"name": "grpo"}, "num_steps": 3, "eval": {"splits": ["seen"]}}
BAD = "\x1b[2J\u202e\x9b\ud83d"


def made(root, config=CONFIG, **files):
    """Make a run of some files; a name's first underscore is a slash."""
    root.mkdir()
    (root / "config.json").write_text(json.dumps(config))
    for name, lines in files.items():
        path = root / f"{name.replace('_', '/', 1).replace('_', '-')}.jsonl"
        path.parent.mkdir(exist_ok=True)
        text = "".join(
            (line if isinstance(line, str) else json.dumps(line)) + "\n"
            for line in lines
        )
        path.write_text(text)
    return Workdir(root)


TRAIN = {"phase": "train", "step": 1, "rollout/success": 0.5}
EVAL = {"phase": "eval", "step": 1, "seen/success": 0.25}
EPISODE = {"task": "t", "success": True, "actions": ["look"]}


def test_a_run_is_shown_from_whatever_it_has_written(tmp_path):
    empty = show(made(tmp_path / "empty"))
    assert "grpo, step 0 of 3" in empty
    assert "No episode yet" in empty
    workdir = made(
        tmp_path / "run",
        metrics=[TRAIN, EVAL],
        episodes_train_00001=[EPISODE | {"observations": ["a\n\nroom"]}],
    )
    shown = show(workdir)
    assert "     1     50.0%         25.0%" in shown
    assert shown.endswith("  a\n  \n  room\n  > look")
    silent = made(tmp_path / "silent", CONFIG | {"eval": {"splits": []}})
    assert "Greedy success" not in show(silent)


def test_the_mean_reward_stands_beside_a_success_that_it_is_not(tmp_path):
    graded = [
        TRAIN | {"rollout/reward": 0.75},
        TRAIN | {"rollout/reward": 0.25},
        EVAL | {"seen/reward": 0.625},
    ]
    shown = show(made(tmp_path / "graded", metrics=graded))
    assert "     1     50.0%  25.0% (0.62)" in shown
    assert "in brackets: mean reward" in shown
    same = [TRAIN | {"rollout/reward": 0.5}, EVAL | {"seen/reward": 0.25}]
    shown = show(made(tmp_path / "same", metrics=same))
    assert "(" not in shown.split("tasks")[0]
    assert "in brackets" not in shown


def test_a_method_without_a_bank_is_shown_without_one(tmp_path):
    files = {"metrics": [TRAIN, EVAL], "episodes_train_00001": [EPISODE]}
    workdir = made(tmp_path / "run", **files)
    shown = show(workdir)
    assert "Bank" not in shown
    assert "accepted bank" not in shown
    assert ", bank" not in shown
    assert "Trials" not in shown
    save_bank(SkillBank(), workdir.skills)
    shown = show(workdir)
    assert "Greedy success of the accepted bank" in shown
    assert "Trials decided: 0" in shown
    assert "Bank: 0 skills" in shown


def test_a_last_line_that_is_being_written_is_left_out(tmp_path):
    workdir = made(tmp_path / "run", metrics=[TRAIN])
    (workdir.trials).write_text('{"step": 3, "acc')
    assert "Trials decided: 0" in show(workdir)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config": {}}, "config.json: strategy.name: Expected `str`, got `null`"),
        ({"config": {**CONFIG, "num_steps": "3"}}, "config.json: num_steps: Expected"),
        ({"config": {**CONFIG, "eval": 5}}, "config.json: eval.splits: Expected"),
        ({"config": []}, "config.json is not a JSON object"),
        ({"metrics": ["[1]"]}, "metrics.jsonl, line 1 is damaged"),
        ({"metrics": [TRAIN, {"step": 1}]}, "metrics.jsonl, line 2 is damaged"),
        ({"metrics": [TRAIN | {"a": "b"}]}, "metrics.jsonl, line 1 is damaged"),
        ({"metrics": [TRAIN | {"a": None}]}, "metrics.jsonl, line 1 is damaged"),
        ({"trials": ["{"]}, "trials.jsonl, line 1: not JSON"),
        ({"trials": [{"step": 3}]}, "trials.jsonl, line 1: Object missing required"),
        (
            {"metrics": [TRAIN], "episodes_train_00001": [EPISODE, {"task": 5}]},
            "train-00001.jsonl, line 2.task: Expected `str`",
        ),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, files, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        show(made(tmp_path / "run", **files))


def test_nothing_that_a_run_holds_acts_on_the_terminal(tmp_path):
    skill = Skill("a", f"d {BAD[:3]}", "When \x1b[2J", "Do \u202e", example="x")
    config = {"strategy": {"name": BAD}, "num_steps": 3, "eval": {"splits": [BAD]}}
    episode = EPISODE | {
        "goal": BAD,
        "bank": BAD,
        "actions": [BAD],
        "observations": [BAD, f"{BAD}\nBank: 99 skills"],
        "active_skills": [[BAD]],
    }
    workdir = made(
        tmp_path / "run",
        config,
        metrics=[TRAIN, EVAL],
        trials=[encode(PastTrial.judged(1, addition(HELPFUL[0]), BANKS, True))],
        episodes_train_00001=[episode],
    )
    save_bank(SkillBank((skill,)), workdir.skills)
    shown = show(workdir)
    assert all(line.isprintable() for line in shown.split("\n"))
    assert r"\x1b[2J\u202e\x9b" in shown
    assert "\nBank: 99 skills" not in shown  # nor does it forge our own lines
    done = start(sys.executable, "-m", "reskill_jax.main", "--mode=show",
                 f"--workdir={workdir.root}")  # fmt: skip
    assert done.stdout == shown + "\n"


def test_an_error_with_values_of_a_file_is_harmless(tmp_path):
    workdir = made(tmp_path / "run", metrics=[TRAIN | {"a": BAD}])
    done = start(sys.executable, "-m", "reskill_jax.main", "--mode=show",
                 f"--workdir={workdir.root}")  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert r"\x1b[2J" in done.stderr
    assert all(line.isprintable() for line in done.stderr.split("\n"))
