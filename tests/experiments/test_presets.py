"""What is read of runs with other objectives, and how they are compared."""

import json
import subprocess
import sys

import pytest
from programs import ROOT

from reskill_jax.benchmarks.runs import identity
from reskill_jax.experiments import presets
from reskill_jax.experiments.presets import PRESETS, RunFigures
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.workdir import Workdir

STEPS = 12


def write(workdir, *, finished):
    writer = MetricWriter(workdir.metrics)
    writer.write(0, {"dev/success": 0.25}, phase="eval")
    for step in range(1, STEPS + 1):
        figures = {
            "rollout/success": step / 10,
            "rollout/pass@8": float(step > 2),
            "rollout/frac_reward_zero_std": 0.5,
            "time/update": float(step == 7),
        }
        writer.write(step, figures)
    if finished:
        writer.write(STEPS, {"dev/success": 0.75}, phase="eval")


def test_an_outcome_is_the_area_and_what_stands_at_the_end(tmp_path):
    write(Workdir(tmp_path), finished=True)
    assert presets.outcome(Workdir(tmp_path), STEPS) == RunFigures(
        area=pytest.approx(0.65),
        before=0.25,
        after=0.75,
        pass_at_8=1.0,
        zero_variance=0.5,
        update_s=0.0,
    )


def test_an_unfinished_run_has_none(tmp_path):
    write(Workdir(tmp_path), finished=False)
    with pytest.raises(ValueError, match=r"metrics.*: an evaluation is missing"):
        presets.outcome(Workdir(tmp_path), STEPS)


def test_gains_are_paired_by_seed():
    def run(area):
        return RunFigures(area, 0.0, 0.0, 1.0, 0.0, 1.0)

    first, second = {0: run(0.1), 1: run(0.5)}, {1: run(0.6), 2: run(0.9)}
    assert presets.gain(second, first)[0] == pytest.approx(0.1)
    both = {0: run(0.3), 1: run(0.6)}
    assert presets.gain(both, first) == (pytest.approx(0.15), pytest.approx(0.05))
    found = {"default": first, "dapo": both, "gspo": {}}
    assert "+15.0% ±5.0%" in presets.table(found)
    assert presets.figures(found)["dapo/area_gain_se"] == pytest.approx(0.05)


def test_every_objective_is_a_configuration_of_its_own():
    hashes = {identity(dict(changes)) for changes in PRESETS.values()}
    assert len(hashes) == len(PRESETS) == 6


@pytest.mark.slow
def test_the_command_runs_and_keeps_what_is_done(tmp_path):
    command = [
        sys.executable, "-m", "reskill_jax.experiments.presets", "--tiny",
        "--seeds=1", "--steps=1", "--presets=default,dapo",
        f"--workdir={tmp_path}", f"--results={tmp_path}/presets.jsonl",
    ]  # fmt: skip
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert json.loads(done.stdout.splitlines()[-1])["figures"]["dapo/seeds"] == 1
    assert "reskill_jax.main" not in done.stdout  # nothing was trained again
    assert len((tmp_path / "presets.jsonl").read_text().splitlines()) == 2
