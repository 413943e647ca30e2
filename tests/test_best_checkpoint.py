"""The best checkpoint is kept beside the newest, found again, and named."""

import json
import math

import jax.numpy as jnp
import pytest
from corridor_runs import corridor_config
from hypothesis import given
from hypothesis import strategies as st
from killed_runs import KilledError, killed_at
from programs import deterministic, save_random_policy

from reskill_jax import train
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.evaluate import evaluate_run
from reskill_jax.export import export_run
from reskill_jax.report.best import (
    Best,
    best_of_run,
    chosen_metric,
    find_best,
    saved_steps,
)
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.show import show
from reskill_jax.stored_config import get_config
from reskill_jax.termination import TerminatedError
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir

METRIC = "held_out/response_length/mean"  # differs from step to step


def lines(values, metric="dev/success"):
    return [
        {"phase": "eval", "step": step, metric: value}
        for step, value in enumerate(values)
    ]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, math.nan, math.inf]), max_size=9))
def test_the_best_is_the_earliest_of_the_highest(values):
    found = find_best(lines(values), "dev/success", range(2, 9))
    known = {s: v for s, v in enumerate(values) if s >= 2 and math.isfinite(v)}
    if known:
        top = max(known.values())
        assert found.step == min(s for s, v in known.items() if v == top)
        assert found.value == top
    else:
        assert found.step is None


def test_the_state_before_the_first_step_is_none_to_keep():
    best = Best("dev/success")
    best.see(0, {"dev/success": 1.0})
    best.see(4, {"dev/success": 0.0})
    best.see(8, {"dev/void": 1.0, "dev/failed_tasks": 9.0})
    assert (best.step, best.value) == (4, 0.0)


def test_a_metric_that_evaluations_lack_is_refused_with_those_they_have():
    metrics = {"dev/success": 0.5, "dev/reward": 0.5, "seen/success": 1.0}
    message = "best='dev/sucess': .* choose one of dev/reward, dev/success$"
    with pytest.raises(ValueError, match=message):
        Best("dev/sucess").see(0, metrics)
    Best("").see(0, metrics)


@pytest.mark.parametrize(
    ("best", "splits", "metric"),
    [
        ("auto", ("dev", "unseen"), "dev/success"),
        ("auto", ("seen", "unseen"), ""),  # what is reported is not chosen on unasked
        ("unseen/success", ("unseen",), "unseen/success"),
        ("", ("dev",), ""),
    ],
)
def test_which_metric_chooses(best, splits, metric):
    assert chosen_metric(best, splits) == metric


def test_a_metric_of_a_split_that_is_not_evaluated_is_refused():
    config = corridor_config("random:tiny", checkpoint__best="dev/success")
    message = r"config.checkpoint.best='dev/success' is of a split that eval.splits=\('"
    with pytest.raises(ValueError, match=message):
        validate(config)
    config.checkpoint.best = "success"
    with pytest.raises(ValueError, match=r"best='success': must be auto, a metric of"):
        validate(config)


def test_a_checkpointer_keeps_one_more_until_it_is_another(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=2)
    kept = {}
    for step, best in enumerate((None, 2, 2, 2, 2, 6, 6, 6), 1):
        checkpointer.save(step, {"x": jnp.float32(step)}, {}, best)
        kept[step] = checkpointer.steps()
    checkpointer.close()
    assert kept[1] == [1]
    assert kept[5] == [2, 4, 5]
    assert kept[8] == [6, 7, 8]
    assert saved_steps(tmp_path) == [6, 7, 8]


# ---- in runs


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def run(place, policy, **changes):
    changes = {
        "eval__every": 1,
        "checkpoint__every": 4,
        "checkpoint__keep": 1,
        "checkpoint__best": METRIC,
        "grpo__learning_rate": 0.01,
        **changes,
    }
    config = corridor_config(policy, **changes)
    workdir = Workdir(place)
    workdir.bind(config.to_dict())
    train.train(config, workdir)
    return workdir


def values(workdir):
    found = read_metrics(workdir.metrics)
    return {x["step"]: x[METRIC] for x in found if x["phase"] == "eval" and x["step"]}


@pytest.fixture(scope="module")
def straight(policy, tmp_path_factory):
    return run(tmp_path_factory.mktemp("straight"), policy)


def test_a_run_keeps_it_beside_the_newest_and_names_it(straight):
    by_step = values(straight)
    best = max(by_step, key=by_step.__getitem__)  # the first of equals
    assert best not in (4, 6), f"choose another seed: {by_step}"
    assert saved_steps(straight.checkpoints) == [best, 6]
    assert best_of_run(straight).step == best
    said = f"Best checkpoint: step {best}, by {METRIC} {by_step[best]:.4g}"
    assert said in show(straight)
    config = get_config(str(straight.root))
    assert evaluate_run(config, straight, "best")[METRIC] == by_step[best]
    config.eval.splits = ("train",)  # what is evaluated now does not matter
    evaluate_run(config, straight, "best")
    folders = sorted(straight.root.glob("evaluations/*/metrics.json"))
    assert {json.loads(path.read_text())["step"] for path in folders} == {best}


def test_it_can_be_exported(straight, tmp_path, capsys):
    config = get_config(str(straight.root))
    export_run(config, straight, tmp_path / "policy", step="best")
    best = best_of_run(straight).step
    assert f"the policy after {best} steps is in" in capsys.readouterr().out


def test_killed_runs_choose_the_same(straight, policy, tmp_path, monkeypatch):
    for step in (3, 6):
        killed_at(step, monkeypatch)
        with pytest.raises(KilledError):
            run(tmp_path, policy)
        monkeypatch.undo()
    ended = run(tmp_path, policy)
    assert deterministic(tmp_path) == deterministic(straight.root)
    assert saved_steps(ended.checkpoints) == saved_steps(straight.checkpoints)


def test_an_evaluation_that_is_made_after_a_resume_counts(
    straight, policy, tmp_path, monkeypatch
):
    """Also where the checkpoint was there before, and none follows."""
    best = best_of_run(straight).step
    evaluate, seen = train.evaluate, []

    def interrupted(*arguments):
        seen.append(1)
        if len(seen) == best + 1:
            raise TerminatedError("SIGTERM")
        return evaluate(*arguments)

    monkeypatch.setattr(train, "evaluate", interrupted)
    with pytest.raises(TerminatedError):
        run(tmp_path, policy, num_steps=best)
    assert best in saved_steps(Workdir(tmp_path).checkpoints)
    run(tmp_path, policy, num_steps=best)
    assert best_of_run(Workdir(tmp_path)).step == best
    made = len(seen)
    run(tmp_path, policy, num_steps=best)
    assert len(seen) == made  # once is enough, though the checkpoint knows of none
    longer = run(tmp_path, policy)
    assert saved_steps(longer.checkpoints) == saved_steps(straight.checkpoints)


def test_without_one_the_way_out_is_told(straight, policy, tmp_path):
    config = get_config(str(straight.root))
    config.checkpoint.best = "auto"  # no split dev
    message = (
        "step='best': checkpoint.best='auto' chooses none: name a metric .* of \\["
    )
    with pytest.raises(ValueError, match=message):
        evaluate_run(config, straight, "best")
    config.checkpoint.best = "held_out/void"
    with pytest.raises(ValueError, match="no evaluation of held_out/void belongs to"):
        export_run(config, straight, tmp_path / "policy", step="best")
