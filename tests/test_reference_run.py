"""Runs whose reference follows the policy: what they save, and how they resume."""

import json
from contextlib import ExitStack

import jax
import numpy as np
import pytest
from corridor_runs import corridor_config
from programs import save_random_policy

from reskill_jax import export
from reskill_jax.policy.weights import load
from reskill_jax.run import open_run
from reskill_jax.train import train
from reskill_jax.workdir import Workdir

pytestmark = pytest.mark.slow

OPTIONS = {
    "num_steps": 3,
    "grpo__kl_coef": 0.1,
    "grpo__learning_rate": 1e-2,
    "grpo__reference_refresh": 2,
    "grpo__reference_mix": 0.6,
}
WAYS = {
    "whole": {},
    "host": {"policy__reference": "host"},
    "lora": {"policy__lora__rank": 2, "policy__lora__targets": ("q_proj", "o_proj")},
    # Whatever else an update can do, all at once.
    "all": {
        "grpo__loss": "gspo",
        "grpo__aggregation": "turn",
        "grpo__clip_low": 3e-3,
        "grpo__clip_high": 4e-3,
        "grpo__entropy_coef": 0.01,
        "grpo__kl_in": "reward",
        "grpo__kl_estimator": "k1",
        "grpo__old_logprobs": "recompute",
        "grpo__importance_cap": 2.0,
        "grpo__token_mask": (0.5, 2.0),
        "grpo__episode_mask": (0.9, 1.1),
        "grpo__overlong": "penalty",
        "grpo__epochs": 2,
        "grpo__schedule": "cosine",
        "grpo__warmup_steps": 1,
        "grpo__decay_steps": 9,
        "grpo__min_learning_rate": 1e-4,
    },
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def arrays(workdir):
    newest = sorted(workdir.checkpoints.iterdir())[-1]
    return json.loads((newest / "manifest" / "metadata").read_text())["arrays"]


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_is_the_same_bit_for_bit(way, policy, tmp_path):
    """Killed after the step that set the reference anew."""
    options = OPTIONS | WAYS[way]
    straight, cut = Workdir(tmp_path / "straight"), Workdir(tmp_path / "cut")
    train(corridor_config(policy, **options), straight)
    train(corridor_config(policy, **options | {"num_steps": 2}), cut)
    with ExitStack() as resources:
        run = open_run(corridor_config(policy, **options), cut, resources)
        assert run.done == 2
        kinds = {x.sharding.memory_kind for x in jax.tree.leaves(run.reference)}
        assert ("pinned_host" in kinds) == (way == "host")
    train(corridor_config(policy, **options), cut)
    found = arrays(cut)
    assert found == arrays(straight)
    moving = {name for name in found if name.startswith("reference/")}
    assert {name.removeprefix("reference/") for name in moving} == {
        name.removeprefix("params/") for name in found if name.startswith("params/")
    }


def test_a_copy_is_the_policy_of_that_step_and_exports_leave_it_out(policy, tmp_path):
    config = corridor_config(
        policy, **OPTIONS | {"num_steps": 2, "grpo__reference_mix": 1.0}
    )
    workdir = Workdir(tmp_path / "run")
    workdir.bind(config.to_dict())
    train(config, workdir)
    with ExitStack() as resources:
        run = open_run(config, workdir, resources)
        trained, reference = run.state.params, run.reference
        jax.tree.map(
            lambda x, y: np.testing.assert_array_equal(x, y.astype(x.dtype)),
            reference,
            trained,
        )
        export.export_run(config, workdir, tmp_path / "policy")
        _, exported = load(tmp_path / "policy")
        jax.tree.map(np.testing.assert_array_equal, exported, trained)
