"""Attention within rows equals softmax written out, values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_trees import random_until

from reskill_jax.policy.ops import attention as module
from reskill_jax.policy.ops import block_attention
from reskill_jax.policy.ops.attention import attention, tree_mask

HEADS, KV_HEADS, WIDTH = 4, 2, 8


def plain(query, key, value, mask):
    """Softmax attention written out: one matrix of scores per head."""
    repeat = query.shape[2] // key.shape[2]
    key, value = jnp.repeat(key, repeat, 2), jnp.repeat(value, repeat, 2)
    scores = jnp.einsum("btnh,bsnh->bnts", query, key) / np.sqrt(query.shape[-1])
    weights = jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, value)


def case(length, seed=0, heads=HEADS):
    """Rows of several trees with branches, the last slots padding."""
    rng = np.random.default_rng(seed)
    arrays = [
        jnp.asarray(rng.normal(size=(2, length, number, WIDTH)), jnp.float32)
        for number in (heads, KV_HEADS, KV_HEADS)
    ]
    visible_end = random_until(rng, 2, length, padding=2 if length > 3 else 0)
    return arrays, jnp.asarray(visible_end), visible_end > 0


@pytest.mark.parametrize(
    ("length", "long"),
    [(1, 100), (7, 100), (16, 100), (33, 100), (70, 100), (16, 16), (32, 16), (48, 16)],
)
@pytest.mark.parametrize("heads", [KV_HEADS, HEADS])
def test_values_and_gradients_are_those_of_softmax(length, long, heads, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", 16)  # several, and a part of one
    monkeypatch.setattr(module, "_LONG", long)
    arrays, visible_end, seen = case(length, heads=heads)
    weight = jnp.asarray(seen)[..., None, None]

    def loss(attend, who):
        def total(*arrays):
            out = attend(*arrays, who)
            return jnp.sum(jnp.where(weight, jnp.sin(out), 0.0)), out

        gradient = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)
        return jax.jit(gradient)(*arrays)

    # Padding sees itself in the oracle, where the softmax of nothing is no number.
    mask = tree_mask(visible_end) | jnp.eye(length, dtype=bool)[None]
    (_, out), grads = loss(attention, visible_end)
    (_, expected), expected_grads = loss(plain, mask)
    np.testing.assert_allclose(out[seen], expected[seen], atol=2e-6)
    assert np.isfinite(out).all()
    for found, wanted in zip(grads, expected_grads, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("long", [4, 100])
def test_what_is_masked_has_no_influence(long, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", 4)
    monkeypatch.setattr(module, "_LONG", long)
    (query, key, value), visible_end, seen = case(20)
    hidden = ~np.asarray(tree_mask(visible_end))[
        0, 9
    ]  # what slot 9 of row 0 does not see
    other = value.at[0, hidden].set(1e3), key.at[0, hidden].set(-1e3)
    out = attention(query, key, value, visible_end)
    changed = attention(query, other[1], other[0], visible_end)
    assert seen[0, 9]
    np.testing.assert_array_equal(out[0, 9], changed[0, 9])


def test_blocks_that_nothing_sees_are_not_visited(monkeypatch):
    """What is not a number there would reach the sums through weights of zero."""
    monkeypatch.setattr(block_attention, "BLOCK", 4)
    monkeypatch.setattr(module, "_LONG", 4)
    (query, key, value), *_ = case(16)
    visible_end = jnp.array(
        [[16] * 4 + [8] * 4 + [12] * 4 + [16] * 4] * 2
    )  # trunk, branches
    value = value.at[:, 4:12].set(np.nan)
    out = np.asarray(attention(query, key, value, visible_end))
    assert np.isfinite(out[:, :4]).all()
    assert np.isnan(out[:, 4:12]).all()
    assert np.isfinite(out[:, 12:]).all()


@pytest.mark.parametrize("long", [64, 100])
def test_no_matrix_of_scores_is_kept_for_the_backward_pass(long, monkeypatch):
    monkeypatch.setattr(block_attention, "BLOCK", 32)
    monkeypatch.setattr(module, "_LONG", long)
    (query, key, value), visible_end, _ = case(64)
    _, backward = jax.vjp(lambda *a: attention(*a, visible_end), query, key, value)
    kept = [leaf for leaf in jax.tree.leaves(backward) if leaf.dtype == jnp.float32]
    assert kept
    assert max(leaf.size for leaf in kept) <= query.size
