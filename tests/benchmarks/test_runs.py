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
    commit,
    configuration,
    identity,
    refuse_other,
)
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.workdir import Workdir

CHANGES = {"seed": 3, "num_steps": 2, "strategy.name": "grpo"}
FINISH = runs.finish


@pytest.fixture
def program(monkeypatch):
    """Stand for the main program: writes what a finished run leaves; counts runs."""
    made = []

    def finish(workdir, changes, variant="cpu", *, config=runs.CONFIG):
        made.append(workdir)
        Workdir(workdir).bind(configuration(changes, variant, config).to_dict())
        writer = MetricWriter(workdir / "metrics.jsonl")
        writer.write(changes["num_steps"], {"x": 0.5 + len(made)}, phase="eval")
        writer.close()

    monkeypatch.setattr(runs, "finish", finish)
    return made


def read(workdir):
    return {"x": runs.read_metrics(workdir.metrics)[-1]["x"]}


def test_a_run_is_made_once_also_when_its_workdir_is_gone(tmp_path, program):
    results = Results(tmp_path / "results" / "r.jsonl")
    first = tmp_path / "first"
    assert results.obtain("a", CHANGES, first, read, train=False) is None
    assert results.obtain("a", CHANGES, first, read, train=True) == {"x": 1.5}
    elsewhere = tmp_path / "elsewhere"
    assert results.obtain("a", CHANGES, elsewhere, read, train=True) == {"x": 1.5}
    assert program == [first]


def test_a_finished_workdir_is_read_where_no_training_is_wanted(tmp_path, program):
    runs.finish(tmp_path, CHANGES)
    results = Results(tmp_path / "r.jsonl")
    assert results.obtain("a", CHANGES, tmp_path, read, train=False) == {"x": 1.5}
    assert results.find("a", identity(CHANGES)) == {"x": 1.5}


def test_a_finished_workdir_of_another_configuration_is_refused(tmp_path, program):
    runs.finish(tmp_path / "a", CHANGES)
    results = Results(tmp_path / "r.jsonl")
    other = CHANGES | {"env.houses_train": 7, "engine.max_sequences": 4}
    with pytest.raises(ValueError, match=r"finished, with another.*\n.*7 now\n"):
        results.obtain("a", other, tmp_path / "a", read, train=False)
    with pytest.raises(ValueError, match=r"config.env.houses_train: \d+ there, 7 now"):
        FINISH(tmp_path / "a", other)
    with pytest.raises(ValueError, match=r"config.adapt.frozen: false there, true now"):
        FINISH(tmp_path / "a", CHANGES, mode="adapt")
    assert not results.path.exists()


def test_keys_that_are_new_or_say_where_do_not_make_another_configuration(tmp_path):
    stored = configuration(CHANGES).to_dict()
    del stored["report"], stored["grpo"]["kl_coef"]
    stored["strategy"]["memrl"]["key"] = "***"  # an export hides it
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
