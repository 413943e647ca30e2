"""Runs of benchmarks are made once: their figures are kept, and only theirs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from reskill_jax.benchmarks import runs
from reskill_jax.benchmarks.runs import (
    Results,
    UnusableResultError,
    commit,
    configuration,
    finish,
    identity,
    refuse_other,
)
from reskill_jax.workdir import Workdir

CHANGES = {"seed": 3, "num_steps": 2, "strategy.name": "grpo"}


@pytest.fixture
def finished(tmp_path):
    """A workdir as a finished run leaves it."""
    Workdir(tmp_path / "a").bind(configuration(CHANGES).to_dict())
    saved = Workdir(tmp_path / "a").checkpoints / f"{CHANGES['num_steps']:08d}"
    saved.mkdir(parents=True)
    evaluated = {"phase": "eval", "step": CHANGES["num_steps"]}
    Workdir(tmp_path / "a").metrics.write_text(json.dumps(evaluated) + "\n")
    return tmp_path / "a"


def test_figures_are_made_once(tmp_path):
    results = Results(tmp_path / "results" / "r.jsonl")
    made = iter([{"x": 1.5}])
    assert results.obtain("a", "0123", lambda: next(made)) == {"x": 1.5}
    assert results.obtain("a", "0123", lambda: next(made)) == {"x": 1.5}


def test_nothing_is_made_when_the_time_is_over(tmp_path):
    late = Results(tmp_path / "r.jsonl", minutes=1, started=time.monotonic() - 61)
    assert late.obtain("a", "0123", lambda: pytest.fail("made")) is None
    late.add("a", "0123", {"x": 1.5})
    assert late.obtain("a", "0123", lambda: pytest.fail("made")) == {"x": 1.5}
    in_time = Results(tmp_path / "other.jsonl", minutes=1)
    assert in_time.obtain("a", "0123", lambda: {"x": 2.5}) == {"x": 2.5}


def test_a_finished_run_is_left_alone_unless_it_is_of_another_configuration(
    finished, monkeypatch
):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("trained"))
    finish(finished, CHANGES)
    other = CHANGES | {"env.houses_train": 7, "engine.max_sequences": 4}
    with pytest.raises(ValueError, match=r"finished, with another.*\n.*7 now\n"):
        finish(finished, other)
    with pytest.raises(ValueError, match=r"config.adapt.frozen: false there, true now"):
        finish(finished, CHANGES, mode="adapt")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", r"is not JSON.*: restore .* or remove .*/a to make it again"),
        ("metrics.jsonl", "line 1 is damaged .*: remove that line"),
    ],
)
def test_a_damaged_file_of_a_finished_run_is_named(finished, name, told):
    (finished / name).write_text("{\n")
    with pytest.raises(UnusableResultError, match=rf"a/{name}.* {told}"):
        finish(finished, CHANGES)


def test_a_missing_configuration_of_a_finished_run_is_told(finished):
    (finished / "config.json").unlink()
    with pytest.raises(UnusableResultError, match=r"config\.json does not exist: rest"):
        finish(finished, CHANGES)


def test_a_run_that_was_ended_in_its_last_evaluation_is_not_finished(
    finished, monkeypatch
):
    """SIGTERM then saves the last step first."""
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda x, **_: commands.append(x))
    Workdir(finished).metrics.write_text('{"phase": "train", "step": 2}\n')
    finish(finished, CHANGES)
    assert len(commands) == 1
    silent = CHANGES | {"eval.splits": ()}
    stored = configuration(silent).to_dict()
    Workdir(finished).config.write_text(json.dumps(stored))
    finish(finished, silent)  # it evaluates nothing
    assert len(commands) == 1


def test_keys_that_are_new_or_say_where_do_not_make_another_configuration(tmp_path):
    stored = configuration(CHANGES).to_dict()
    del stored["report"], stored["grpo"]["kl_coef"]
    stored["strategy"]["memrl"]["keyed_by"] = "***"  # as an export hides secrets
    path = tmp_path / "config.json"
    path.write_text(json.dumps(stored))
    refuse_other(path, CHANGES | {"engine.max_sequences": 4})
    with pytest.raises(ValueError, match=r"config.num_steps: 2 there, 3 now"):
        refuse_other(path, CHANGES | {"num_steps": 3})


def test_figures_of_another_name_or_configuration_do_not_count(tmp_path):
    results = Results(tmp_path / "r.jsonl")
    results.add("a", "0123", {"x": 1.0})
    assert results.find("b", "0123") is None
    assert results.find("a", "0124") is None
    assert results.find("a", "0123") == {"x": 1.0}
    entry = json.loads(results.path.read_text())
    assert entry["commit"].rstrip("+") == commit().rstrip("+")


def test_an_identity_depends_on_values_that_count_and_on_the_policy(monkeypatch):
    assert identity(CHANGES) == identity(
        CHANGES | {"strategy.max_skills": 6}
    )  # default
    assert identity(CHANGES) != identity(CHANGES | {"strategy.max_skills": 5})
    before = identity(CHANGES)
    recipe = runs.RECIPES["alfworld-small"]
    other = type(recipe)(seed=recipe.seed + 1)
    monkeypatch.setitem(runs.RECIPES, "alfworld-small", other)
    assert identity(CHANGES) != before


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ValueError, match="line 1 is no result"):
        Results(path).find("a", "0123")


def test_a_last_line_without_an_end_does_not_take_the_next_one_with_it(tmp_path):
    results = Results(tmp_path / "r.jsonl")
    results.add("a", "0123", {"x": 1.0})
    results.path.write_text(results.path.read_text().rstrip("\n"))
    results.add("b", "0123", {"x": 2.0})
    assert results.find("a", "0123") == {"x": 1.0}
    assert results.find("b", "0123") == {"x": 2.0}


_COMMAND = """
import subprocess, sys
from reskill_jax.benchmarks.runs import Results, start
from pathlib import Path

what, path = sys.argv[1:]
del sys.argv[1:]

def main():
    print("begun", flush=True)
    if what == "damaged":
        Results(Path(path)).find("a", "0123")
    subprocess.run([sys.executable, "-c", what], check=True)

start(main)
"""


@pytest.mark.parametrize(
    ("what", "code", "told"),
    [
        ("import time; time.sleep(60)", 130, "interrupted; the same command goes on"),
        ("raise SystemExit(3)", 1, "error: -c raise SystemExit(3) ended with 3, see"),
        ("damaged", 1, "r.jsonl, line 2 is no result of a run: delete it"),
    ],
)
def test_a_command_says_in_a_line_how_it_ended(tmp_path, what, code, told):
    path = tmp_path / "r.jsonl"
    Results(path).add("b", "0123", {})
    path.write_text(path.read_text() + '{"run": "a", "conf')  # the power went
    process = subprocess.Popen(
        (sys.executable, "-c", _COMMAND, what, str(path)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "begun\n"
    if code == 130:
        time.sleep(1)
        os.killpg(process.pid, signal.SIGINT)
    shown = process.communicate(timeout=60)[1]
    assert process.returncode == code
    assert told in shown.splitlines()[-1]
    assert "runs.py" not in shown
