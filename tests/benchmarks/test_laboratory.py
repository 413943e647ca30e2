"""What the laboratory reads from finished runs, and what it concludes."""

import math

import pytest

from reskill_jax.benchmarks import laboratory, runs
from reskill_jax.benchmarks.laboratory import Outcome
from reskill_jax.metrics import MetricWriter
from reskill_jax.workdir import Workdir

STEPS = 2


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    monkeypatch.setattr(laboratory, "directory", lambda name, seed: tmp_path)
    return Workdir(tmp_path)


def write(workdir, *, finished):
    writer = MetricWriter(workdir.metrics, workdir.tensorboard)
    writer.write(0, {"valid_unseen/success": 0.25}, phase="eval")
    writer.write(1, {"rollout/success": 0.2})
    writer.write(2, {"rollout/success": 0.4})
    if finished:
        writer.write(2, {"valid_unseen/success": 0.75}, phase="eval")
    writer.close()


def test_an_outcome_is_success_before_after_and_while_training(workdir):
    write(workdir, finished=True)
    outcome = laboratory.outcome("grpo", 0, STEPS)
    assert outcome == Outcome(before=0.25, after=0.75, training=pytest.approx(0.3))


def test_a_run_counts_only_when_its_last_state_was_evaluated(workdir):
    assert laboratory.outcome("grpo", 0, STEPS) is None
    write(workdir, finished=False)
    assert not runs.is_finished(workdir.root, STEPS)
    assert laboratory.outcome("grpo", 0, STEPS) is None


def test_the_table_has_means_and_standard_errors():
    found = {"grpo": [Outcome(0.1, 0.4, 0.2), Outcome(0.1, 0.6, 0.4)], "reskill": []}
    values = laboratory.figures(found)
    assert values["grpo/after"] == pytest.approx(0.5)
    assert values["grpo/after_se"] == pytest.approx(0.1)  # sd 0.1414 over sqrt 2
    assert values["grpo/training"] == pytest.approx(0.3)
    assert not any(key.startswith("reskill") for key in values)
    header, _, *rows = laboratory.table(found).splitlines()
    assert header.split()[:3] == ["experiment", "seeds", "before"]
    assert [row.split()[0] for row in rows] == ["grpo"]


def test_one_seed_has_no_standard_error():
    values = laboratory.figures({"grpo": [Outcome(0.1, 0.4, 0.2)]})
    assert math.isnan(values["grpo/after_se"])


@pytest.mark.parametrize(("after", "met"), [(0.31, True), (0.29, False)])
def test_grpo_must_gain_twenty_points(after, met):
    bars = laboratory.bars({"grpo": [Outcome(0.1, after, 0.2)]})
    assert {name: bar.met for name, bar in bars.items()} == {
        "grpo over warm start": met
    }


def test_strategies_are_compared_only_where_both_have_runs():
    found = {
        "grpo": [Outcome(0.1, 0.4, 0.2)],
        "reskill": [Outcome(0.1, 0.5, 0.2)],
        "reskill, half harmful": [Outcome(0.1, 0.3, 0.2)],
        "auto_accept, half harmful": [],
    }
    assert set(laboratory.bars(found)) == {"grpo over warm start", "reskill over grpo"}
    found["auto_accept, half harmful"] = [Outcome(0.1, 0.35, 0.2)]
    bar = laboratory.bars(found)["reskill over auto_accept, half harmful"]
    assert bar.value == pytest.approx(-0.05)
    assert not bar.met
