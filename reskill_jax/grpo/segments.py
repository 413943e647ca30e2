"""Sums over the tokens of a turn, inside programs.

A turn's response lies in one row as one contiguous run of slots, in trees and in flat
rows alike, so that no sum crosses rows.
"""

import jax
import jax.numpy as jnp

from reskill_jax.grpo.packing import Array, PackedBatch


def turn_sum(values: Array, packed: PackedBatch) -> jax.Array:
    """Sum values over the response tokens of each turn.

    It is a scan and a gather: scattered sums would add in any order on a GPU, and the
    same run would not be the same bits.

    Args:
        values: float32 [R, T].
        packed: the tokens.

    Returns:
        float32 [R, T]: the sum of the turn that a slot belongs to. Slots outside the
        mask have no meaning.
    """
    values = jnp.where(packed.mask > 0, values, 0.0)
    differs = (packed.episode[:, 1:] != packed.episode[:, :-1]) | (
        packed.turn[:, 1:] != packed.turn[:, :-1]
    )
    edge = jnp.ones((values.shape[0], 1), bool)
    begins = jnp.concatenate([edge, differs], axis=1)
    ends = jnp.concatenate([differs, edge], axis=1)
    _, sums = jax.lax.associative_scan(_add, (begins, values), axis=1)
    places = jnp.broadcast_to(jnp.arange(values.shape[1]), values.shape)
    last = jax.lax.cummin(
        jnp.where(ends, places, values.shape[1] - 1), axis=1, reverse=True
    )
    return jnp.take_along_axis(sums, last, axis=1)


def turn_mean(values: Array, packed: PackedBatch) -> jax.Array:
    """Average values over the response tokens of each turn; see `turn_sum`."""
    count = turn_sum(packed.mask, packed)
    return turn_sum(values, packed) / jnp.maximum(count, 1.0)


def _add(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Add two stretches of a row; the right one may begin another turn."""
    begins = left[0] | right[0]
    return begins, jnp.where(right[0], right[1], left[1] + right[1])
