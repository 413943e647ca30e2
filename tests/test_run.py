"""What a run holds in memory when it starts, resumes, is evaluated or exported."""

import gc
from contextlib import ExitStack

import jax
import numpy as np
import pytest
from corridor_runs import corridor_config
from programs import save_random_policy

from reskill_jax import build, evaluate, export, train
from reskill_jax.checkpoint import Checkpointer, CheckpointError
from reskill_jax.rollout.context import EmptyContext, context_to_json
from reskill_jax.run import open_run
from reskill_jax.workdir import Workdir


class ReachedError(Exception):
    """Ends what is measured."""


def live():
    """Bytes of all arrays of this process."""
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a run with a reference policy in the compute dtype, half of the weights."""
    policy = save_random_policy(tmp_path_factory.mktemp("policy"))
    return corridor_config(policy, policy__dtype="bfloat16", grpo__kl_coef=0.01)


@pytest.fixture(scope="module")
def saved(config, tmp_path_factory):
    """A run that was saved as it started: its directory, weights and memory."""
    workdir = Workdir(tmp_path_factory.mktemp("run"))
    before = live()
    with ExitStack() as resources:
        run = open_run(config, workdir, resources)
        held = live() - before
        host = {
            "strategy": run.strategy.state(),
            "incumbent": context_to_json(EmptyContext()),
            "version": 1,
        }
        run.checkpointer.save(1, run.state, host)
        run.checkpointer.wait()
        host_copy = jax.tree.map(np.asarray, (run.state, run.reference))
        size = sum(array.nbytes for array in jax.tree.leaves(run.state.params))
    return workdir, host_copy, held, size


def test_a_start_holds_three_copies_a_reference_and_the_engine(saved):
    _, _, held, size = saved
    assert held == pytest.approx((3 + 0.5 + 0.5) * size, rel=0.01)


def test_a_run_does_not_go_on_with_another_reference(tmp_path):
    """Checkpoints do not hold it: the KL term would compare with other weights."""
    policy = save_random_policy(tmp_path / "policy")
    once = {"num_steps": 1, "eval__splits": (), "grpo__kl_coef": 0.01}
    config, run = corridor_config(policy, **once), Workdir(tmp_path / "run")
    train.train(config, run)
    train.train(config, run)  # beside the same weights
    (weights,) = policy.glob("*.safetensors")
    *others, last = weights.read_bytes()
    weights.write_bytes(bytes([*others, last ^ 1]))
    with pytest.raises(CheckpointError, match="belongs to the weights of"):
        train.train(config, run)


def test_resuming_reads_a_checkpoint_beside_the_reference_alone(
    config, saved, monkeypatch
):
    """As much as a start needs: the weights that it began with would be one more."""
    workdir, expected, held, size = saved
    restore, beside = Checkpointer.restore, []

    def measured(*arguments, **options):
        beside.append(live() - before)
        return restore(*arguments, **options)

    monkeypatch.setattr(Checkpointer, "restore", measured)
    before = live()
    with ExitStack() as resources:
        run = open_run(config, workdir, resources)
        assert run.done == 1
        assert beside == [pytest.approx(0.5 * size, rel=0.01)]
        assert live() - before == pytest.approx(held, rel=0.01)
        found = (run.state, run.reference)
        jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_evaluation_and_export_read_the_weights_alone(
    config, saved, tmp_path, monkeypatch
):
    workdir, _, _, size = saved

    def measured(*_, **__):
        raise ReachedError(live() - before)

    monkeypatch.setattr(evaluate.build, "make_engine", measured)
    monkeypatch.setattr(export, "export", measured)
    before = live()
    with pytest.raises(ReachedError) as reached:
        evaluate.evaluate_run(config, workdir)
    assert reached.value.args[0] == pytest.approx(size, rel=0.01)
    del reached
    before = live()
    with pytest.raises(ReachedError) as reached:
        export.export_run(config, workdir, tmp_path / "policy")
    assert reached.value.args[0] == pytest.approx(size, rel=0.01)


@pytest.mark.parametrize(
    ("platform", "parts", "rows"),
    [("cpu", 1, 4), ("cpu", 3, 6), ("cpu", 8, 8), ("gpu", 8, 64), ("tpu", 1, 64)],
)
def test_decode_rows_follow_from_devices_unless_they_are_set(platform, parts, rows):
    config = corridor_config("")
    config.engine.decode_rows = 0
    sizes = build.engine_options(config, platform, parts)
    assert sizes["decode_rows"] == rows
    config.rollout.concurrency, config.rollout.tasks_per_step = 1, 64  # the load
    assert build.engine_options(config, platform, parts) == sizes
    config.engine.decode_rows = 16
    assert build.engine_options(config, platform, parts)["decode_rows"] == 16
