"""Runs that train adapters: what they save, resume, push, export and refuse."""

import json
import shutil
from contextlib import ExitStack

import jax
import numpy as np
import pytest
from corridor_runs import corridor_config
from programs import save_random_policy

from reskill_jax import export, memory_plan
from reskill_jax.checkpoint import Checkpointer, CheckpointError
from reskill_jax.policy.lora import merge
from reskill_jax.policy.weights import load, save
from reskill_jax.run import open_run
from reskill_jax.train import train
from reskill_jax.workdir import Workdir

pytestmark = pytest.mark.slow

OPTIONS = {
    "num_steps": 2,
    "grpo__kl_coef": 0.01,
    "grpo__learning_rate": 1e-2,
    "policy__lora__rank": 2,
    "policy__lora__targets": ("q_proj", "o_proj", "down_proj"),
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def arrays(workdir):
    with ExitStack() as resources:
        checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
        resources.callback(checkpointer.close)
        path = workdir.checkpoints / f"{checkpointer.latest():08d}"
    return json.loads((path / "manifest" / "metadata").read_text())["arrays"]


@pytest.fixture(scope="module")
def finished(policy, tmp_path_factory):
    workdir = Workdir(tmp_path_factory.mktemp("straight"))
    config = corridor_config(policy, **OPTIONS)
    workdir.bind(config.to_dict())
    train(config, workdir)
    return workdir


def test_checkpoints_hold_adapters_alone(finished):
    names = [name for name in arrays(finished) if name.startswith("params/")]
    assert len(names) == 6
    assert all(name.endswith(("lora_a", "lora_b")) for name in names)


def test_a_resumed_run_is_the_same_bit_for_bit(finished, policy, tmp_path):
    workdir = Workdir(tmp_path)
    train(corridor_config(policy, **OPTIONS | {"num_steps": 1}), workdir)
    train(corridor_config(policy, **OPTIONS), workdir)
    assert arrays(workdir) == arrays(finished)


def test_other_base_weights_are_refused(finished, policy, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(policy, other)
    decoder, params = load(policy)
    save(other, decoder, jax.tree.map(lambda x: 2 * x, params))
    config = corridor_config(other, **OPTIONS)
    message = "the checkpoint belongs to the weights of"
    with ExitStack() as resources, pytest.raises(CheckpointError, match=message):
        open_run(config, finished, resources)
    with pytest.raises(CheckpointError, match=message):
        export.export_run(config, finished, tmp_path / "merged")


def test_exports_are_what_computed(finished, policy, tmp_path):
    config = corridor_config(policy, **OPTIONS)
    with ExitStack() as resources:
        run = open_run(config, finished, resources)
        expected = jax.tree.map(np.asarray, merge(run.weights))
        assert run.reference is run.frozen
    export.export_run(config, finished, tmp_path / "merged")
    _, found = load(tmp_path / "merged")
    _, before = load(policy)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    changed = [
        not np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(before), strict=True)
    ]
    assert sum(changed) == 3
    export.export_run(config, finished, tmp_path / "peft", adapters=True)
    assert {path.name for path in (tmp_path / "peft").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }


def test_adapters_need_less_memory_than_all_weights(policy):
    whole = memory_plan.compile_run(corridor_config(policy))
    few = memory_plan.compile_run(corridor_config(policy, **OPTIONS))
    assert few.resident["trained parameters"] < 0.2 * whole.resident["parameters"]
    assert few.resident["frozen parameters"] == whole.resident["parameters"]
    assert "reference" not in few.resident
