"""One GRPO update: from a batch of episodes to new weights."""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax

from reskill_jax.grpo.advantages import Rule, advantages
from reskill_jax.grpo.estimators import GRPO, Estimator
from reskill_jax.grpo.losses import Aggregation, GrpoBatch, grpo_loss, token_weights
from reskill_jax.grpo.optimizer import LogprobFn, LossFn, TrainState, make_step
from reskill_jax.grpo.outcomes import outcomes
from reskill_jax.grpo.packing import PackedBatch, pack, targets_only, tree_tokens
from reskill_jax.grpo.weighted_metrics import Metrics, reduce_metrics
from reskill_jax.policy.lora import Adapted, join
from reskill_jax.policy.sharding import (
    ROWS,
    constrain,
    mesh_of,
    move,
    put_rows,
    row_shards,
)
from reskill_jax.rollout.episode import Episode

OldLogprobs = Literal["sampler", "recompute"]


class Update(Protocol):
    """What `make_update` returns."""

    def __call__(
        self,
        state: TrainState,
        reference_params: Any,
        episodes: Sequence[Episode],
        *,
        seed: int,
        frozen: Adapted | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        """Train on one batch of episodes; `state` is donated.

        With adapters, `frozen` is their base, and may be the reference, too.
        """
        ...


def make_update(
    logprob_fn: LogprobFn,
    tx: optax.GradientTransformation,
    *,
    buckets: Sequence[int],
    tokens_per_microbatch: int,
    rule: Rule = "corrected",
    estimator: Estimator = GRPO,
    reward_scale: float = 1.0,
    invalid_penalty: float = 0.1,
    drop_zero_variance: bool = False,
    aggregation: Aggregation = "episode",
    old_logprobs: OldLogprobs = "sampler",
    minibatches: int = 1,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    kl_coef: float = 0.01,
    importance_cap: float = 0.0,
) -> Update:
    """Build `update(state, reference_params, episodes, seed=) -> (state, metrics)`.

    Args:
        logprob_fn: (params, packed) -> float32 [R, T], the log-probs of the targets at
            the sampling temperature.
        tx: the optimiser.
        buckets: row lengths, see `pack`.
        tokens_per_microbatch: slots per micro-batch and part of its rows, see `pack`.
        rule: of the advantages, see `advantages`.
        estimator: of the advantages, see `estimators`.
        reward_scale: of the advantages, see `advantages`.
        invalid_penalty: see `advantages`.
        drop_zero_variance: whether groups without any advantage but penalties are left
            out before rows are packed. Minibatches are those of all groups, and weights
            are as if the groups were there: without penalty and KL term the gradient is
            the same, at less cost. With these, dropped groups have no part in them. A
            minibatch of which nothing is left is skipped: it takes no optimiser step,
            and does not count in schedules.
        aggregation: of the loss, see `token_weights`.
        old_logprobs: `sampler` takes the engine's, `recompute` those of a forward pass
            with the weights that the update starts from.
        minibatches: optimiser steps per batch of episodes; groups stay whole, so that
            a batch of fewer groups takes one step for each.
        clip_low: see `grpo_loss`.
        clip_high: see `grpo_loss`.
        dual_clip: see `grpo_loss`.
        kl_coef: see `grpo_loss`; 0 saves the reference's forward pass, and
            `reference_params` may be None then.
        importance_cap: see `grpo_loss`; it wants `old_logprobs="recompute"`.

    Raises:
        ValueError: options are out of range or contradict each other.
    """
    if old_logprobs not in ("sampler", "recompute"):
        raise ValueError(
            f"old_logprobs={old_logprobs!r}: choose 'sampler' or 'recompute'"
        )
    if dual_clip <= 1:
        raise ValueError(f"dual_clip={dual_clip}: must exceed 1; 3 is usual")

    if drop_zero_variance and rule == "reference":
        raise ValueError(
            "drop_zero_variance=True: rule='reference' whitens the advantages of tied "
            "groups, too, so that there are none to drop; choose rule='corrected'"
        )
    if importance_cap and old_logprobs != "recompute":
        raise ValueError(
            f"importance_cap={importance_cap} weighs the trainer's log-probs against "
            "the sampler's: it needs old_logprobs='recompute'"
        )

    loss_fn = make_loss(
        logprob_fn,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        kl_coef=kl_coef,
        importance_cap=importance_cap,
    )
    step = make_step(loss_fn, tx)
    masked = make_forward(logprob_fn)

    def forward(params: Any, packed: PackedBatch) -> jax.Array:
        return masked(params, put_rows(mesh_of(params), packed))

    def prepare(
        packed: PackedBatch,
        weights: np.ndarray,
        values: np.ndarray,
        params: Any,
        reference_params: Any,
    ) -> GrpoBatch:
        """Attach to a micro-batch what its loss needs; `values` [E, K]."""
        return GrpoBatch(
            packed=packed,
            advantages=values[packed.episode, packed.turn] * packed.mask,
            weights=weights,
            old_logprobs=(
                packed.sampler_logprobs
                if old_logprobs == "sampler"
                else forward(params, packed)
            ),
            reference_logprobs=(forward(reference_params, packed) if kl_coef else None),
        )

    def update(
        state: TrainState,
        reference_params: Any,
        episodes: Sequence[Episode],
        *,
        seed: int,
        frozen: Adapted | None = None,
    ) -> tuple[TrainState, dict[str, float]]:
        values, summary, has_signal = advantages(
            outcomes(episodes),
            rule=rule,
            estimator=estimator,
            penalty=invalid_penalty,
            reward_scale=reward_scale,
        )
        if kl_coef:  # once per update, where they wait in the memory of the host
            reference_params = move(reference_params, "device")
        params = join(frozen, state.params)
        prepared: list[list[GrpoBatch]] = []
        groups = [episode.group for episode in episodes]
        count = min(minibatches, len(set(groups)))  # a plan may train on fewer groups
        for part in split_groups(groups, count, seed):
            keep = has_signal[part] | (not drop_zero_variance)
            chosen, dropped = part[keep], part[~keep]
            if not len(chosen):
                continue
            packed = pack(
                [episodes[i] for i in chosen],
                buckets=buckets,
                tokens_per_microbatch=tokens_per_microbatch,
                row_shards=row_shards(mesh_of(state.params)),
            )
            weights = _weights(
                packed, [episodes[i] for i in dropped], len(chosen), aggregation
            )
            prepared.append(
                [
                    prepare(p, w, values[chosen], params, reference_params)
                    for p, w in zip(packed, weights, strict=True)
                ]
            )
        del params, reference_params  # the copy on the devices, before memory is needed
        metrics: list[Metrics] = []
        for number, microbatches in enumerate(prepared):
            state, parts = step(state, microbatches, frozen)
            # Later steps have other weights than the engine: that is no disagreement.
            metrics += parts if number == 0 else map(_without_agreement, parts)
        summary |= _fill_metrics(prepared)
        if drop_zero_variance:
            summary |= _drop_metrics(episodes, has_signal)
        return state, summary | reduce_metrics(metrics)

    return update


def make_loss(logprob_fn: LogprobFn, **options: float) -> LossFn:
    """Build (params, micro-batch) -> (its share of the loss, metrics).

    Options are those of `grpo_loss`.
    """

    def loss_fn(params: Any, batch: GrpoBatch) -> tuple[jax.Array, Metrics]:
        return grpo_loss(logprob_fn(params, batch.packed), batch, **options)

    return loss_fn


def make_forward(logprob_fn: LogprobFn) -> Any:
    """Return the jitted (params, packed) -> float32 [R, T], 0 outside the mask."""

    @jax.jit
    def masked(params: Any, packed: PackedBatch) -> jax.Array:
        logprobs = jnp.where(packed.mask > 0, logprob_fn(params, packed), 0.0)
        return constrain(logprobs, ROWS)

    return masked


def split_groups(groups: Sequence[int], count: int, seed: int) -> list[np.ndarray]:
    """Split episodes into `count` minibatches of whole groups, shuffled by `seed`.

    Args:
        groups: each episode's group.
        count: number of minibatches; 1 keeps all episodes in order.
        seed: the split is a function of (groups, count, seed).

    Returns:
        Increasing indices of episodes for each minibatch.

    Raises:
        ValueError: if there are fewer groups than minibatches.
    """
    names = np.unique(np.asarray(groups))
    if not 1 <= count <= len(names):
        raise ValueError(
            f"minibatches={count} but the batch has {len(names)} groups: choose "
            f"between 1 and the number of tasks per step"
        )
    shuffled = np.random.default_rng(seed).permutation(names)
    return [
        np.flatnonzero(np.isin(groups, part))
        for part in np.array_split(shuffled, count)
    ]


def _weights(
    packed: Sequence[PackedBatch],
    dropped: Sequence[Episode],
    kept: int,
    aggregation: Aggregation,
) -> list[np.ndarray]:
    """Weigh the tokens of `kept` packed episodes as if the dropped ones were there."""
    absent = [targets_only(dropped, kept)] if dropped else []
    return token_weights([*packed, *absent], aggregation)[: len(packed)]


def _drop_metrics(
    episodes: Sequence[Episode], has_signal: np.ndarray
) -> dict[str, float]:
    """Measure what was left out: shares of groups, and of tokens in rows."""
    groups = np.array([episode.group for episode in episodes])
    tokens = np.array([tree_tokens(episode) for episode in episodes])
    dropped = len(np.unique(groups[~has_signal]))
    return {
        "batch/dropped_groups": dropped / len(np.unique(groups)),
        "batch/dropped_tokens": float(tokens[~has_signal].sum() / tokens.sum()),
    }


def _without_agreement(metrics: Metrics) -> Metrics:
    return {k: v for k, v in metrics.items() if not k.startswith("rollout/logprob_")}


def _fill_metrics(prepared: Sequence[Sequence[GrpoBatch]]) -> dict[str, float]:
    """Measure how many slots hold tokens."""
    slots = [
        np.asarray(batch.packed.visible_end) for part in prepared for batch in part
    ]
    used = sum(np.count_nonzero(visible_end) for visible_end in slots)
    return {
        "batch/tokens": float(used),
        "batch/fill": used / max(sum(x.size for x in slots), 1),
        "batch/microbatches": float(len(slots)),
    }
