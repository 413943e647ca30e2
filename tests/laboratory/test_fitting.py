"""The optimiser of supervised training."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from reskill_jax.laboratory.fitting import make_optimizer
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig

DECODER = DecoderConfig(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=2, num_key_value_heads=1, head_dim=16,
    rope_theta=1e4, max_position_embeddings=64,
)  # fmt: skip


@functools.cache
def initial():
    return init(DECODER, jax.random.key(0))


def as_matrices(path, value):
    """View a kernel as [L, rows, columns]: what comes in, what goes out."""
    rows = 2 if "out" in path else 1
    return value.reshape(len(value), int(np.prod(value.shape[1 : 1 + rows])), -1)


@pytest.fixture(scope="module")
def stepped():
    params = initial()
    rng = np.random.default_rng(1)
    grads = jax.tree.map(lambda p: rng.standard_normal(p.shape, np.float32), params)
    tx = make_optimizer(1.0)
    updates, _ = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params)
    decay = jax.tree.map(lambda u, p: u + 0.01 * p, updates, params)  # undone
    flat = jax.tree_util.tree_leaves_with_path(decay)
    return {tuple(key.key for key in path): value for path, value in flat}


def test_every_matrix_of_every_layer_moves_in_all_directions_alike(stepped):
    kernels = {path: value for path, value in stepped.items() if path[-1] == "kernel"}
    assert len(kernels) == 7  # query, key, value, out, gate, up, down
    for path, value in kernels.items():
        for matrix in as_matrices(path, value):
            singular = np.linalg.svd(matrix, compute_uv=False)
            # Newton-Schulz lifts all but the least singular values to about one.
            assert np.quantile(singular, 0.2) > 0.5 * singular.max(), path
            rms = np.sqrt(np.mean(np.square(matrix)))
            assert rms == pytest.approx(0.2, rel=0.3), path


def test_everything_else_moves_by_its_sign_at_the_first_step(stepped):
    others = {path: value for path, value in stepped.items() if path[-1] != "kernel"}
    assert ("embed", "embedding") in others
    for path, value in others.items():
        size = np.abs(value)  # Adam's with Nesterov's momentum: one for all elements
        np.testing.assert_allclose(size, size.max(), rtol=1e-2, err_msg=str(path))


def test_the_learning_rate_may_be_a_schedule():
    params = initial()
    params = {"embed": params["embed"], "layers": {"mlp": params["layers"]["mlp"]}}
    tx = make_optimizer(optax.linear_schedule(0.0, 1.0, 10))
    grads = jax.tree.map(jnp.ones_like, params)
    updates, _ = jax.jit(tx.update)(grads, jax.jit(tx.init)(params), params)
    assert all(float(jnp.abs(u).max()) == 0.0 for u in jax.tree.leaves(updates))
