"""What the laboratory reads from finished runs, and what it concludes."""

import json
import math

import pytest

from reskill_jax.experiments import laboratory
from reskill_jax.experiments.laboratory import RunFigures
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.workdir import Workdir

STEPS = 3


@pytest.fixture
def workdir(tmp_path):
    return Workdir(tmp_path)


def write(workdir, *, finished):
    writer = MetricWriter(workdir.metrics)
    writer.write(0, {"valid_unseen/success": 0.25}, phase="eval")
    writer.write(1, {"rollout/success": 0.2})
    writer.write(2, {"rollout/success": 0.4})
    writer.write(3, {"rollout/failed_groups": 3})  # nothing was played
    if finished:
        writer.write(STEPS, {"valid_unseen/success": 0.75}, phase="eval")
    writer.close()


def result(before, after, training=0.2):
    return RunFigures(before, after, training, trials=3, accepted=1)


def test_an_outcome_is_success_before_after_and_while_training(workdir):
    write(workdir, finished=True)
    assert laboratory.outcome(workdir, STEPS) == RunFigures(
        before=0.25, after=0.75, training=pytest.approx(0.3), trials=0, accepted=0
    )
    lines = [json.dumps({"accepted": accepted}) for accepted in (True, False, True)]
    (workdir.root / "trials.jsonl").write_text("\n".join(lines))
    outcome = laboratory.outcome(workdir, STEPS)
    assert (outcome.trials, outcome.accepted) == (3, 2)


@pytest.mark.parametrize(("before", "step"), [("void", 0), ("success", STEPS)])
def test_a_void_evaluation_has_no_outcome(workdir, before, step):
    writer = MetricWriter(workdir.metrics)
    writer.write(0, {f"valid_unseen/{before}": 1}, phase="eval")
    writer.write(1, {"rollout/success": 0.2})
    writer.write(STEPS, {"valid_unseen/success" if step == 0 else "x": 1}, phase="eval")
    writer.close()
    with pytest.raises(
        ValueError, match=rf"after \[{step}\] steps are missing or void"
    ):
        laboratory.outcome(workdir, STEPS)


def test_a_run_that_played_nothing_has_no_outcome(workdir):
    writer = MetricWriter(workdir.metrics)
    for step in (0, STEPS):
        writer.write(step, {"valid_unseen/success": 0.5}, phase="eval")
    writer.write(1, {"rollout/failed_groups": 3})
    writer.close()
    with pytest.raises(ValueError, match="no step of training has played anything"):
        laboratory.outcome(workdir, STEPS)


def test_the_table_has_means_and_standard_errors():
    found = {"grpo": [result(0.1, 0.4, 0.2), result(0.1, 0.6, 0.4)], "reskill": []}
    values = laboratory.figures(found)
    assert values["grpo/after"] == pytest.approx(0.5)
    assert values["grpo/after_se"] == pytest.approx(0.1)  # sd 0.1414 over sqrt 2
    assert values["grpo/training"] == pytest.approx(0.3)
    assert not any(key.startswith("reskill") for key in values)
    header, _, *rows = laboratory.table(found).splitlines()
    assert header.split()[:3] == ["experiment", "seeds", "before"]
    assert [row.split()[0] for row in rows] == ["grpo"]
    assert rows[0].endswith("2 of 6")


def test_one_seed_has_no_standard_error():
    values = laboratory.figures({"grpo": [result(0.1, 0.4, 0.2)]})
    assert math.isnan(values["grpo/after_se"])


@pytest.mark.parametrize(("after", "met"), [(0.31, True), (0.29, False)])
def test_grpo_must_gain_twenty_points(after, met):
    bars = laboratory.bars({"grpo": [result(0.1, after, 0.2)]})
    assert {name: bar.met for name, bar in bars.items()} == {
        "grpo over warm start": met
    }


def test_strategies_are_compared_only_where_both_have_runs():
    found = {
        "grpo": [result(0.1, 0.4, 0.2)],
        "reskill": [result(0.1, 0.5, 0.2)],
        "reskill, half harmful": [result(0.1, 0.3, 0.2)],
        "auto_accept, half harmful": [],
    }
    assert set(laboratory.bars(found)) == {"grpo over warm start", "reskill over grpo"}
    found["auto_accept, half harmful"] = [result(0.1, 0.35, 0.2)]
    bar = laboratory.bars(found)["reskill over auto_accept, half harmful"]
    assert bar.value == pytest.approx(-0.05)
    assert not bar.met
