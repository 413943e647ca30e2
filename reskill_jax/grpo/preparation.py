"""From packed episodes to what the loss of an optimiser step needs."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from reskill_jax.grpo.aggregation import Aggregation, token_weights
from reskill_jax.grpo.divergence import k1
from reskill_jax.grpo.losses import GrpoBatch
from reskill_jax.grpo.optimizer import LogprobFn
from reskill_jax.grpo.overlong import without_turns
from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.segments import turn_sum
from reskill_jax.grpo.staleness import Band, importance, keep_close
from reskill_jax.grpo.weighted_metrics import Mean, Metrics
from reskill_jax.policy.sharding import ROWS, constrain, mesh_of, put_rows

OldLogprobs = Literal["sampler", "recompute"]
KlIn = Literal["loss", "reward"]


class Prepared(NamedTuple):
    """An optimiser step before it is taken.

    Attributes:
        microbatches: what goes into it; empty if no token is left to train on.
        metrics: of its preparation.
    """

    microbatches: list[GrpoBatch]
    metrics: list[Metrics]


class Prepare(Protocol):
    """What `make_prepare` returns."""

    def __call__(
        self,
        packed: Sequence[PackedBatch],
        advantages: np.ndarray,
        *,
        groups: Sequence[int],
        params: Any,
        reference_params: Any,
        left_out: np.ndarray | None = None,
    ) -> Prepared:
        """Prepare an optimiser step.

        Args:
            packed: its micro-batches, on the host.
            advantages: float32 [E, K], of each turn of its episodes.
            groups: of its episodes.
            params: the weights that the update starts from.
            reference_params: those of the KL term; None without one.
            left_out: bool [E, K], turns that are not trained on; None: all are.
        """
        ...


def make_prepare(
    logprob_fn: LogprobFn,
    *,
    aggregation: Aggregation,
    longest_episode: int,
    old_logprobs: OldLogprobs,
    kl_coef: float,
    kl_in: KlIn,
    importance_cap: float,
    token_mask: Band,
    episode_mask: Band,
) -> Prepare:
    """Build what prepares optimiser steps; options are those of `make_update`."""
    masked = make_forward(logprob_fn)

    def forward(params: Any, packed: PackedBatch) -> jax.Array:
        return masked(params, put_rows(mesh_of(params), packed))

    def prepare(
        packed: Sequence[PackedBatch],
        advantages: np.ndarray,
        *,
        groups: Sequence[int],
        params: Any,
        reference_params: Any,
        left_out: np.ndarray | None = None,
    ) -> Prepared:
        metrics: list[Metrics] = []
        if left_out is not None:
            whole, packed = packed, [without_turns(p, left_out) for p in packed]
            metrics += map(_masked, whole, packed)
        old: list[Array] = [
            p.sampler_logprobs if old_logprobs == "sampler" else forward(params, p)
            for p in packed
        ]
        mesh = mesh_of(params)
        if importance_cap or token_mask or episode_mask:
            for p, x in zip(packed, old, strict=True):
                first, second, count = importance(x, put_rows(mesh, p))
                metrics.append(
                    {
                        "rollout/importance": Mean(first, count),
                        "rollout/importance_square": Mean(second, count),
                    }
                )
        if token_mask or episode_mask:
            packed, shares = keep_close(
                packed,
                [np.asarray(_everywhere(x)) for x in old],
                token_mask=token_mask,
                episode_mask=episode_mask,
            )
            metrics.append(shares)
        if not any(np.any(p.mask) for p in packed):
            return Prepared([], metrics)
        weights = token_weights(
            packed, aggregation, groups=groups, longest=longest_episode
        )
        microbatches = []
        for p, w, x in zip(packed, weights, old, strict=True):
            own: Array = advantages[p.episode, p.turn] * p.mask
            reference = forward(reference_params, p) if kl_coef else None
            if reference is not None and kl_in == "reward":
                rows = put_rows(mesh, (own, p, x))
                own, kl = _charge(*rows, reference, np.float32(kl_coef))
                metrics.append({"grpo/kl": Mean(*kl)})
                reference = None
            microbatches.append(
                GrpoBatch(
                    packed=p,
                    advantages=own,
                    weights=w,
                    old_logprobs=x,
                    reference_logprobs=reference,
                )
            )
        return Prepared(microbatches, metrics)

    return prepare


def make_forward(logprob_fn: LogprobFn) -> Any:
    """Return the jitted (params, packed) -> float32 [R, T], 0 outside the mask."""

    @jax.jit
    def masked(params: Any, packed: PackedBatch) -> jax.Array:
        logprobs = jnp.where(packed.mask > 0, logprob_fn(params, packed), 0.0)
        return constrain(logprobs, ROWS)

    return masked


@jax.jit
def _everywhere(x: Array) -> jax.Array:
    """Bring all rows to every process."""
    return constrain(jnp.asarray(x))


@jax.jit
def _charge(
    advantages: Array,
    packed: PackedBatch,
    old_logprobs: Array,
    reference_logprobs: Array,
    coefficient: Array,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Take each turn's divergence, the sum of k1 over its tokens, off its advantage.

    Returns:
        Advantages [R, T]; the sum of k1, and the number of tokens.
    """
    mask = packed.mask
    kl = k1(old_logprobs, reference_logprobs) * mask
    charged = advantages - coefficient * turn_sum(kl, packed) * mask
    return constrain(jnp.asarray(charged), ROWS), (jnp.sum(kl), jnp.sum(mask))


def _masked(before: PackedBatch, after: PackedBatch) -> Metrics:
    total = float(np.sum(before.mask))
    return {"grpo/overlong_tokens": Mean(total - float(np.sum(after.mask)), total)}
