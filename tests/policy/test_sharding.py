"""The table of shardings, and a process of its own for what needs eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.sharding import (
    AXES,
    make_mesh,
    mesh_sizes,
    parameter_sharding,
    parameter_shardings,
)

SHAPE = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}


def devices(*shape):
    return AbstractMesh(shape, AXES)


@pytest.mark.parametrize(
    "family",
    [
        {"model_type": "qwen3"},
        {"model_type": "qwen2", "tie_word_embeddings": False},
        {"model_type": "llama", "attention_bias": True},
    ],
)
def test_the_table_knows_every_parameter_and_splits_all_large_ones(family):
    mesh = devices(2, 2, 2)
    params = abstract_params(DecoderConfig(**SHAPE, **family))
    places = jax.tree.leaves(parameter_shardings(mesh, params))
    for leaf, place in zip(jax.tree.leaves(params), places, strict=True):
        parts = leaf.size / np.prod(place.shard_shape(leaf.shape))
        assert parts == (4 if leaf.size > 300 else parts), leaf.shape


def test_optimiser_state_lies_where_its_parameter_does():
    path = "opt_state/1/0/mu/layers/mlp/down/kernel"
    assert parameter_sharding(devices(1, 2, 2), path, (2, 24, 16)).spec == P(
        None, "tensor", "fsdp"
    )
    assert parameter_sharding(devices(1, 2, 2), "opt_state/1/0/count", ()).spec == P()


def test_what_the_table_does_not_know_is_named():
    with pytest.raises(ValueError, match=r"'layers/mlp/gate/bias' .* no row"):
        parameter_sharding(devices(1, 2, 1), "layers/mlp/gate/bias", (2, 24))


def test_an_axis_that_cannot_be_split_is_named():
    message = r"'layers/attention/key/kernel' .* axis 2 of 2 .* the mesh's tensor=4"
    with pytest.raises(ValueError, match=message):
        parameter_sharding(
            devices(1, 1, 4), "layers/attention/key/kernel", (2, 16, 2, 8)
        )


def test_minus_one_is_what_is_left():
    assert mesh_sizes((1, -1, 1), 8) == (1, 8, 1)
    assert mesh_sizes((2, -1, 2), 8) == (2, 2, 2)
    assert mesh_sizes((1, 4, 1), 8) == (1, 4, 1)


@pytest.mark.parametrize("shape", [(-1, -1, 1), (3, -1, 1), (1, 16, 1), (0, 1, 1)])
def test_impossible_meshes_are_refused(shape):
    with pytest.raises(ValueError, match=r"mesh=\{data="):
        mesh_sizes(shape, 8)


def test_one_device_has_no_mesh():
    assert make_mesh((1, 1, 1)) is None
    assert make_mesh((1, -1, 1), jax.devices()[:1]) is None


@pytest.mark.slow
@pytest.mark.parametrize("tier", ["not slow", "slow"])
def test_everything_holds_on_eight_devices(tier):
    """The number of simulated devices is fixed when a process starts."""
    tests = Path(__file__).with_name("on_eight.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", tier, tests],
        env=os.environ
        | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
