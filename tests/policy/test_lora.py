"""Adapters against dense matrices, and through a whole run of the real decoder."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reskill_jax.policy.compute import DEFAULT, Compute
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.lora import TARGETS, Adapted, init_adapters, join, merge
from reskill_jax.policy.peft import peft_config, peft_tensors, save_adapters
from reskill_jax.policy.safetensors_io import open_tensors
from reskill_jax.policy.sharding import copy_to_engine, parameter_sharding

CONFIG = DecoderConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)
RANK, SCALE = 3, 2.0


@pytest.fixture(scope="module")
def base():
    return init(CONFIG, jax.random.key(0))


def noisy(base, targets=tuple(TARGETS)):
    """Adapters whose B is not zero any more."""
    adapters = init_adapters(base, targets, RANK, jax.random.key(1))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: jnp.array(rng.normal(0, 0.3, x.shape), "f4"), adapters
    )


def loss(params, compute=DEFAULT):
    tokens = jnp.arange(24).reshape(2, 12) % CONFIG.vocab_size
    positions = jnp.broadcast_to(jnp.arange(12), tokens.shape)
    logprobs, _ = token_logprobs(
        CONFIG,
        params,
        tokens,
        positions,
        jnp.full_like(tokens, 12),
        (7 * tokens + 1) % CONFIG.vocab_size,
        compute=compute,
    )
    return jnp.sum(logprobs)


def dense(base, adapters):
    """W + scale * A B by numpy in float64, as [inputs, outputs]."""
    whole = jax.tree.map(np.asarray, base)
    for part, matrices in adapters["layers"].items():
        for name, adapter in matrices.items():
            w = whole["layers"][part][name]["kernel"]
            a, b = (np.float64(adapter[key]) for key in ("lora_a", "lora_b"))
            layers = a.shape[0]
            change = a.reshape(layers, -1, RANK) @ b.reshape(layers, RANK, -1)
            whole["layers"][part][name] = whole["layers"][part][name] | {
                "kernel": np.float32(w + SCALE * change.reshape(w.shape))
            }
    return whole


def test_new_adapters_change_nothing(base):
    fresh = init_adapters(base, tuple(TARGETS), RANK, jax.random.key(1))
    assert loss(Adapted(base, fresh, SCALE)) == loss(base)
    assert loss(Adapted(base, None, SCALE)) == loss(base)  # the reference


@pytest.mark.parametrize(
    "targets",
    [pytest.param(tuple(TARGETS), marks=pytest.mark.slow), ("q_proj", "down_proj")],
)
def test_loss_and_gradients_are_those_of_the_dense_matrices(base, targets):
    adapters = noisy(base, targets)
    frozen = Adapted(base, None, SCALE)
    whole = dense(base, adapters)
    value, found = jax.value_and_grad(lambda x: loss(join(frozen, x)))(adapters)
    expected, dw = jax.value_and_grad(loss)(whole)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for part, matrices in found["layers"].items():
        for name, gradient in matrices.items():
            adapter = adapters["layers"][part][name]
            a = np.asarray(adapter["lora_a"]).reshape(
                CONFIG.num_hidden_layers, -1, RANK
            )
            b = np.asarray(adapter["lora_b"]).reshape(
                CONFIG.num_hidden_layers, RANK, -1
            )
            w = np.asarray(dw["layers"][part][name]["kernel"])
            w = w.reshape(a.shape[0], a.shape[1], b.shape[2])  # dL/dW
            da, db = SCALE * w @ b.swapaxes(1, 2), SCALE * a.swapaxes(1, 2) @ w
            close = functools.partial(np.testing.assert_allclose, rtol=2e-4, atol=2e-4)
            close(gradient["lora_a"], da.reshape(gradient["lora_a"].shape))
            close(gradient["lora_b"], db.reshape(gradient["lora_b"].shape))
    assert len(jax.tree.leaves(found)) == 2 * len(targets)


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_recomputation_changes_no_gradient(base, remat):
    adapters, frozen = noisy(base), Adapted(base, None, SCALE)

    def gradient(compute):
        return jax.grad(lambda x: loss(join(frozen, x), compute))(adapters)

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5),
        gradient(Compute(remat=remat)),
        gradient(Compute()),
    )


def test_merged_weights_are_the_dense_ones_on_host_device_and_in_the_engine(base):
    adapters = noisy(base)
    expected = dense(base, adapters)
    params = Adapted(base, adapters, SCALE)
    host = Adapted(jax.tree.map(np.asarray, base), adapters, SCALE)
    for found in (merge(params), merge(host), copy_to_engine(params, CONFIG, None)):
        close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
        jax.tree.map(close, found, expected)
    assert merge(base) is base


def test_every_adapter_has_a_row_in_the_table_of_shardings(base):
    mesh = jax.sharding.AbstractMesh((1, 2, 2), ("data", "fsdp", "tensor"))
    split = {"lora_a": 0, "lora_b": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(noisy(base)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        place = parameter_sharding(mesh, f"opt_state/0/mu/{name}", leaf.shape)
        assert place.shard_shape(leaf.shape) != leaf.shape, name
        split[path[-1].key] += 1
    assert split == {"lora_a": 7, "lora_b": 7}


def test_a_peft_directory_has_the_names_shapes_and_values_that_peft_computes(
    base, tmp_path
):
    adapters = noisy(base)
    save_adapters(tmp_path / "a", tmp_path / "base", adapters, rank=RANK, alpha=6.0)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config == peft_config(str(tmp_path / "base"), adapters, RANK, 6.0)
    assert config["target_modules"] == list(TARGETS)
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 6, "LORA")
    tensors = peft_tensors(adapters)
    assert len(tensors) == 2 * 7 * CONFIG.num_hidden_layers
    whole = dense(base, adapters)
    for target, (part, name) in TARGETS.items():
        module = "self_attn" if part == "attention" else "mlp"
        prefix = f"base_model.model.model.layers.1.{module}.{target}"
        a, b = (tensors[f"{prefix}.lora_{x}.weight"] for x in "AB")
        before = np.asarray(base["layers"][part][name]["kernel"][1])
        change = whole["layers"][part][name]["kernel"][1] - before
        found = 6.0 / RANK * (b @ a)  # as PEFT: [out, in]
        np.testing.assert_allclose(found.T, change.reshape(found.T.shape), atol=1e-5)
    (tmp_path / "a" / "adapter_model.safetensors").rename(
        tmp_path / "a" / "model.safetensors"
    )
    with open_tensors(tmp_path / "a") as stored:
        assert stored.keys() == tensors.keys()
        for name, expected in tensors.items():
            np.testing.assert_array_equal(stored[name].read(), expected)


def test_bfloat16_bases_stay_bfloat16(base):
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base)
    params = Adapted(low, noisy(base), SCALE)
    assert {x.dtype.name for x in jax.tree.leaves(merge(params))} == {"bfloat16"}
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    copied = copy_to_engine(params, config, None)
    assert {x.dtype.name for x in jax.tree.leaves(copied)} == {"bfloat16"}
