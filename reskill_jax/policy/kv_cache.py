"""Keys and values of many sequences, in blocks that sequences may share.

A sequence is a *table*: the numbers of the blocks that hold its positions 0..P-1,
P..2P-1, and so on. The layout [L, M, K, P, H] (M blocks of P positions) lets a layer's
block be read and written as one piece: a prefill chunk *is* a block.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.sharding import AnyMesh, constrain

_MASKED = -1e30
# Heads are split, of the cache [L, M, K, P, H] and of what goes into it [B, T, K, H].
_HEADS = (None, None, "tensor")


class KVCache(NamedTuple):
    """Keys and values, [L, M, K, P, H] each."""

    keys: jax.Array
    values: jax.Array


def abstract_cache(
    config: DecoderConfig, blocks: int, block: int, mesh: AnyMesh | None = None
) -> KVCache:
    """Describe a cache of `blocks` blocks of `block` positions, without making it."""
    shape = (
        config.num_hidden_layers,
        blocks,
        config.num_key_value_heads,
        block,
        config.head_dim,
    )
    where = None if mesh is None else NamedSharding(mesh, P(*_HEADS))
    array: Any = jax.ShapeDtypeStruct(shape, config.dtype, sharding=where)
    return KVCache(array, array)


def empty_cache(
    config: DecoderConfig, blocks: int, block: int, mesh: AnyMesh | None = None
) -> KVCache:
    """Make such a cache, of zeros."""
    return jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype, device=x.sharding),
        abstract_cache(config, blocks, block, mesh),
    )


def write_to_cache(
    cache: KVCache,
    layer: jax.Array,
    tables: jax.Array,
    positions: jax.Array,
    new: tuple[jax.Array, jax.Array],
) -> KVCache:
    """Write keys and values at their rows' positions.

    Args:
        cache: keys and values of all layers.
        layer: int32 [].
        tables: int32 [B, C / P]; rows with a number of M or more are not written.
        positions: int32 [B, T], consecutive; T is 1, or P and aligned to blocks.
        new: keys and values, [B, T, K, H] each.
    """
    block = cache.keys.shape[3]
    first = positions[:, 0]
    numbers = jnp.take_along_axis(tables, first[:, None] // block, axis=1)[:, 0]

    def put(stored: jax.Array, x: jax.Array) -> jax.Array:
        x = constrain(x.astype(stored.dtype), *_HEADS)
        if x.shape[1] == 1:
            # Head by head: a scatter of all heads at once makes the TPU compiler turn
            # the whole cache, in every layer, so that a position's heads lie together.
            heads = jnp.arange(x.shape[2])
            where = stored.at[layer, numbers[:, None], heads, first[:, None] % block]
            stored = where.set(x[:, 0], mode="drop")
        else:
            where = stored.at[layer, numbers]
            stored = where.set(x.transpose(0, 2, 1, 3), mode="drop")
        return constrain(stored, *_HEADS)

    return KVCache(put(cache.keys, new[0]), put(cache.values, new[1]))


def attend_to_cache(
    cache: KVCache,
    layer: jax.Array,
    tables: jax.Array,
    positions: jax.Array,
    query: jax.Array,
) -> jax.Array:
    """Attend to the positions up to each query's own.

    Softmax runs online over blocks, up to the last position in the batch. A block that
    a row does not need is an exact no-op for it (weights 0, rescaling 1), so a row's
    result does not depend on how long the other rows are.

    Args:
        cache: keys and values.
        layer: int32 [].
        tables: int32 [B, C / P].
        positions: int32 [B, T], of the queries.
        query: [B, T, N, H].

    Returns:
        [B, T, N, H].
    """
    batch, length, heads, width = query.shape
    kv_heads, block = cache.keys.shape[2:4]
    # [B, K, G * T, H]: the queries that share a key head side by side.
    grouped = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    grouped = grouped.transpose(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, width)
    grouped = grouped * width**-0.5
    rows = jnp.tile(positions, (1, heads // kv_heads))[:, None, :, None]

    def visit(index, carry):
        peak, total, out = carry
        numbers = tables[:, index]
        k = cache.keys.at[layer, numbers].get(mode="clip")  # [B, K, P, H]
        v = cache.values.at[layer, numbers].get(mode="clip")
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
    return out.transpose(0, 3, 1, 2, 4).reshape(query.shape)
