"""Keys and values of many sequences, in slots of aligned blocks.

The layout [L, S, C / P, K, P, H] (C context, P block) lets a layer's block be read and
written as one piece: a prefill chunk *is* a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from reskill_jax.policy.config import DecoderConfig

_MASKED = -1e30


class KVCache(NamedTuple):
    """Keys and values, [L, S, C / P, K, P, H] each."""

    keys: jax.Array
    values: jax.Array


def empty_cache(config: DecoderConfig, slots: int, context: int, block: int) -> KVCache:
    """Return a cache of zeros.

    Raises:
        ValueError: if `context` is not a multiple of `block`.
    """
    if context % block:
        raise ValueError(f"context={context} is not a multiple of block={block}")
    shape = (
        config.num_hidden_layers,
        slots,
        context // block,
        config.num_key_value_heads,
        block,
        config.head_dim,
    )
    return KVCache(jnp.zeros(shape, config.dtype), jnp.zeros(shape, config.dtype))


def attend_to_cache(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    positions: jax.Array,
    slots: jax.Array,
    layer: jax.Array,
    cache: KVCache,
) -> tuple[jax.Array, KVCache]:
    """Write the rows' keys and values to their slots, then attend to the slots.

    Softmax runs online over blocks up to the last position in the batch. A block that a
    row does not need is an exact no-op for it (weights 0, rescaling 1), so the result
    does not depend on how long the other rows are.

    Args:
        query: [B, T, N, H].
        key: [B, T, K, H].
        value: [B, T, K, H].
        positions: int32 [B, T].
        slots: int32 [B]; rows with a slot out of range are not written.
        layer: int32 [].
        cache: keys and values of all slots.

    Returns:
        [B, T, N, H] and the new cache.
    """
    batch, length, heads, width = query.shape
    kv_heads, block = cache.keys.shape[3:5]
    keys = _write(cache.keys, key, positions, slots, layer)
    values = _write(cache.values, value, positions, slots, layer)
    # [B, K, G * T, H]: the queries that share a key head side by side.
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    grouped = grouped.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, width)
    grouped = grouped * width**-0.5
    rows = jnp.tile(positions, (1, heads // kv_heads))[:, None, :, None]

    def visit(index, carry):
        peak, total, out = carry
        k, v = keys[layer, slots, index], values[layer, slots, index]  # [B, K, P, H]
        scores = jnp.einsum(
            "bkth,bkph->bktp", grouped, k, preferred_element_type=jnp.float32
        )
        at = index * block + jnp.arange(block)
        scores = jnp.where(at <= rows, scores, _MASKED)
        new_peak = jnp.maximum(peak, scores.max(-1, keepdims=True))
        weights = jnp.exp(scores - new_peak)
        scale = jnp.exp(peak - new_peak)
        total = total * scale + weights.sum(-1, keepdims=True)
        mixed = jnp.einsum(
            "bktp,bkph->bkth",
            weights.astype(v.dtype),
            v,
            preferred_element_type=jnp.float32,
        )
        return new_peak, total, out * scale + mixed

    start = jnp.zeros((*grouped.shape[:3], 1), jnp.float32)
    carry = (start + _MASKED, start, jnp.zeros(grouped.shape, jnp.float32))
    stop = positions.max() // block + 1
    _, total, out = jax.lax.fori_loop(0, stop, visit, carry)
    out = (out / total).astype(query.dtype)
    out = out.reshape(batch, kv_heads, heads // kv_heads, length, width)
    out = out.transpose(0, 3, 1, 2, 4).reshape(query.shape)
    return out, KVCache(keys, values)


def _write(
    stored: jax.Array,
    new: jax.Array,
    positions: jax.Array,
    slots: jax.Array,
    layer: jax.Array,
) -> jax.Array:
    """Put [B, T, K, H] at its rows' slots and positions; T is 1 or the block."""
    block = stored.shape[4]
    first = positions[:, 0]
    new = new.astype(stored.dtype)
    if new.shape[1] == 1:
        where = stored.at[layer, slots, first // block, :, first % block]
        return where.set(new[:, 0], mode="drop")
    where = stored.at[layer, slots, first // block]
    return where.set(new.transpose(0, 2, 1, 3), mode="drop")
