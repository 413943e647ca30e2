"""Leaves out what the sampler and the trainer see too differently.

A batch that was sampled by older weights, or with other numerics, is not one of the
policy that the update starts from. Per token rho is the probability that those weights
give it over the sampler's. Rejected tokens leave the mask, and so the normaliser.
Everything is computed on the host, over an optimiser step: an episode may lie in
several rows and micro-batches.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.surrogates import LOG_RATIO_LIMIT
from reskill_jax.grpo.weighted_metrics import Mean, Metrics

Band = Sequence[float]  # least and greatest rho that is kept; empty: all


def keep_close(
    batches: Sequence[PackedBatch],
    old_logprobs: Sequence[np.ndarray],
    *,
    token_mask: Band = (),
    episode_mask: Band = (),
) -> tuple[list[PackedBatch], Metrics]:
    """Take tokens and episodes out of the mask.

    Args:
        batches: all micro-batches of an optimiser step.
        old_logprobs: float32 [R, T] of each, by the weights before the update.
        token_mask: band of rho of a token (IcePop).
        episode_mask: band of exp(mean log rho) over the tokens of an episode, the
            geometric mean, which does not grow with their number.

    Returns:
        The micro-batches with what is left of their masks, and the shares of tokens
        and of episodes that were dropped.
    """
    if not batches:  # no episode had a turn
        return [], {}
    chosen = [np.asarray(batch.mask) > 0 for batch in batches]
    log_rho = [
        np.clip(
            np.asarray(old, np.float64) - np.asarray(batch.sampler_logprobs),
            -LOG_RATIO_LIMIT,
            LOG_RATIO_LIMIT,
        )
        for batch, old in zip(batches, old_logprobs, strict=True)
    ]
    owner = _join(chosen, [np.asarray(batch.episode) for batch in batches])
    count = np.bincount(owner)
    total = np.bincount(owner, _join(chosen, log_rho))
    close = _within(np.exp(total / np.maximum(count, 1)), episode_mask)
    kept = [
        mask & _within(np.exp(rho), token_mask) & close[np.where(mask, b.episode, 0)]
        if mask.any()
        else mask
        for mask, rho, b in zip(chosen, log_rho, batches, strict=True)
    ]
    before, after = (sum(int(x.sum()) for x in masks) for masks in (chosen, kept))
    present = count > 0
    metrics: Metrics = {
        "grpo/masked_tokens": Mean(before - after, before),
        "grpo/masked_episodes": Mean(int((present & ~close).sum()), int(present.sum())),
    }
    return [
        replace(batch, mask=mask.astype(np.float32))
        for batch, mask in zip(batches, kept, strict=True)
    ], metrics


@jax.jit
def importance(old_logprobs: Array, packed: PackedBatch) -> tuple[jax.Array, ...]:
    """Return the sums of rho, of its square, and of the tokens of a micro-batch."""
    drift = old_logprobs - packed.sampler_logprobs
    rho = jnp.exp(jnp.clip(drift, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    return tuple(jnp.sum(x * packed.mask) for x in (rho, rho * rho, jnp.ones_like(rho)))


def effective_sample(mean: float, mean_square: float) -> float:
    """Return the effective sample size of weights, as a share of their number."""
    return mean * mean / mean_square if mean_square else 0.0


def _within(values: np.ndarray, band: Band) -> np.ndarray:
    if not band:
        return np.ones(values.shape, bool)
    return (values >= band[0]) & (values <= band[1])


def _join(chosen: Sequence[np.ndarray], values: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([x[mask] for mask, x in zip(chosen, values, strict=True)])
