"""A live run is told line by line, and only until it ends."""

import json

import pytest
from report_runs import samples, write_run

from reskill_jax.report.follow import follow
from reskill_jax.report.metrics import MetricWriter


def test_what_is_written_meanwhile_is_told_until_the_run_ends(tmp_path):
    workdir = write_run(tmp_path / "run")
    trial = workdir.trials.read_text()
    with workdir.lock():
        told = follow(workdir, pause_s=0.01)
        with workdir.metrics.open("a") as file:
            line = {"phase": "train", "step": 4, "rollout/success": 0.5}
            file.write(json.dumps(line) + "\n")
        assert next(told) == "step 4 | success 50%"
        with workdir.metrics.open("a") as file:
            line = {"phase": "eval", "step": 4, "seen/success": 0.25}
            line |= samples("seen", 0.5)
            file.write(json.dumps(line) + '\n{"phase":')
        workdir.trials.write_text(trial + trial)
        assert {next(told), next(told)} == {
            "evaluation after 4 steps: seen 25.0% at temperature 0.7 "
            "mean@2 50.0% [30%, 70%], pass@2 60.0% [40%, 80%]",
            "step 2: accepted (effect +10.0%) add first-look",
        }
    assert list(told) == ["no process writes this run"]


def test_a_figure_that_is_not_finite_is_told(tmp_path):
    workdir = write_run(tmp_path / "run")
    told = follow(workdir, pause_s=0.01)
    writer = MetricWriter(workdir.metrics, start=9)
    writer.write(9, {"rollout/success": float("nan")})
    assert next(told).startswith("step 9 | success nan%")


def test_what_was_there_before_is_not_told(tmp_path):
    workdir = write_run(tmp_path / "run")
    assert list(follow(workdir)) == ["no process writes this run"]


def test_a_resumed_run_is_told_from_where_it_goes_on(tmp_path):
    workdir = write_run(tmp_path / "run")
    told = follow(workdir, pause_s=0.01)
    first, *_ = workdir.metrics.read_text().splitlines()
    workdir.metrics.write_text(first + "\n")
    assert next(told) == "resumed: metrics.jsonl goes on after line 1"


@pytest.mark.parametrize("line", ["nonsense", "{}", "[]", "3", "null", '"x"'])
def test_a_line_that_cannot_be_told_is_named(tmp_path, line):
    workdir = write_run(tmp_path / "run")
    told = follow(workdir, pause_s=0.01)
    with workdir.metrics.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 6"):
        next(told)
