"""One GRPO update: from a batch of episodes to new weights."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np
import optax

from reskill_jax.grpo.advantages import Rule, advantages
from reskill_jax.grpo.aggregation import Aggregation
from reskill_jax.grpo.divergence import KlEstimator
from reskill_jax.grpo.estimators import GRPO, Estimator
from reskill_jax.grpo.losses import GrpoBatch, grpo_loss
from reskill_jax.grpo.optimizer import (
    LogprobFn,
    LossFn,
    ScoreFn,
    TrainState,
    make_step,
)
from reskill_jax.grpo.outcomes import outcomes
from reskill_jax.grpo.overlong import OVERLONG, Overlong, cut_turns, soft_penalties
from reskill_jax.grpo.packing import PackedBatch, pack, targets_only, tree_tokens
from reskill_jax.grpo.preparation import KlIn, OldLogprobs, Prepared, make_prepare
from reskill_jax.grpo.schedules import rate_at
from reskill_jax.grpo.settings import (
    advantage_problems,
    kl_problems,
    staleness_problems,
)
from reskill_jax.grpo.staleness import Band, effective_sample
from reskill_jax.grpo.surrogates import LOSSES, Loss
from reskill_jax.grpo.weighted_metrics import Metrics, reduce_metrics
from reskill_jax.policy.lora import Adapted, join
from reskill_jax.policy.sharding import mesh_of, move, row_shards
from reskill_jax.rollout.episode import Episode


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
    score_fn: ScoreFn | None = None,
    buckets: Sequence[int],
    tokens_per_microbatch: int,
    rule: Rule = "corrected",
    estimator: Estimator = GRPO,
    reward_scale: float = 1.0,
    invalid_penalty: float = 0.1,
    drop_zero_variance: bool = False,
    aggregation: Aggregation = "episode",
    longest_episode: int = 0,
    old_logprobs: OldLogprobs = "sampler",
    minibatches: int = 1,
    epochs: int = 1,
    learning_rate: optax.ScalarOrSchedule = 0.0,
    overlong: Overlong = "none",
    overlong_buffer: float = 0.2,
    overlong_penalty: float = 1.0,
    longest_response: int = 0,
    loss: Loss = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    dppo_delta: float = 0.2,
    kl_coef: float = 0.01,
    kl_estimator: KlEstimator = "k3",
    kl_in: KlIn = "loss",
    importance_cap: float = 0.0,
    token_mask: Band = (),
    episode_mask: Band = (),
    entropy_coef: float = 0.0,
) -> Update:
    """Build `update(state, reference_params, episodes, seed=) -> (state, metrics)`.

    Args:
        logprob_fn: (params, packed) -> float32 [R, T], the log-probs of the targets at
            the sampling temperature.
        tx: the optimiser.
        score_fn: the same, and the entropies; None: they are not measured.
        buckets: row lengths, see `pack`.
        tokens_per_microbatch: slots per micro-batch and part of its rows, see `pack`.
        rule: of the advantages, see `advantages`.
        estimator: of the advantages, see `estimators`.
        reward_scale: of the advantages, see `advantages`.
        invalid_penalty: see `advantages`.
        drop_zero_variance: whether groups without any advantage but penalties are left
            out before rows are packed. Minibatches are those of all groups, and weights
            are as if the groups were there: without penalty and KL term the gradient is
            the same, at less cost. With these, dropped groups have no part in them. The
            rule `reference` moves the advantages of all groups, so none is dropped. A
            minibatch of which nothing is left is skipped: it takes no optimiser step,
            and does not count in schedules.
        aggregation: of the loss, see `token_weights`.
        longest_episode: response tokens, see `longest` of `token_weights`.
        old_logprobs: `sampler` takes the engine's, `recompute` those of a forward pass
            with the weights that the update starts from.
        minibatches: optimiser steps per batch of episodes; groups stay whole, so that
            a batch of fewer groups takes one step for each. One that has no token left
            to train on takes none.
        epochs: how often a batch is trained on; its groups are shuffled anew each time,
            and what the loss compares with stays that of the first weights.
        learning_rate: of `tx`, to be reported.
        overlong: what becomes of responses that the limit cut: `mask` leaves them out
            of loss and normaliser, `penalty` charges long ones, see `soft_penalties`.
        overlong_buffer: of `penalty`, as a share of `longest_response`.
        overlong_penalty: greatest charge, on the scale of advantages.
        longest_response: tokens that a response can have.
        loss: see `grpo_loss`.
        clip_low: see `grpo_loss`.
        clip_high: see `grpo_loss`.
        dual_clip: see `grpo_loss`.
        dppo_delta: see `grpo_loss`.
        kl_coef: see `grpo_loss`; 0 saves the reference's forward pass, and
            `reference_params` may be None then.
        kl_estimator: see `grpo_loss`.
        kl_in: `loss`; or `reward`: each turn's advantage is lowered by `kl_coef` times
            the sum of k1 over its tokens, with the old log-probs.
        importance_cap: see `grpo_loss`; it wants `old_logprobs="recompute"`, as do the
            two below.
        token_mask: see `staleness.keep_close`.
        episode_mask: see `staleness.keep_close`.
        entropy_coef: see `grpo_loss`; it wants `score_fn`.

    Raises:
        ValueError: options are out of range or contradict each other.
    """
    _check_choice("old_logprobs", old_logprobs, ("sampler", "recompute"))
    _check_choice("loss", loss, LOSSES)
    _check_choice("overlong", overlong, OVERLONG)
    if dual_clip <= 1:
        raise ValueError(f"dual_clip={dual_clip}: must exceed 1; 3 is usual")
    for problem in (
        *advantage_problems(rule=rule, estimator=estimator.name),
        *kl_problems(kl_estimator=kl_estimator, kl_in=kl_in),
        *staleness_problems(
            old_logprobs=old_logprobs,
            importance_cap=importance_cap,
            token_mask=token_mask,
            episode_mask=episode_mask,
        ),
    ):
        raise ValueError(problem)
    if entropy_coef and score_fn is None:
        raise ValueError(
            f"entropy_coef={entropy_coef}: there are no entropies without score_fn"
        )

    loss_fn = make_loss(
        score_fn or (lambda params, packed: (logprob_fn(params, packed), None)),
        loss=loss,
        clip_low=clip_low,
        clip_high=clip_high,
        dual_clip=dual_clip,
        dppo_delta=dppo_delta,
        kl_coef=kl_coef,
        kl_estimator=kl_estimator,
        importance_cap=importance_cap,
        entropy_coef=entropy_coef,
    )
    step = make_step(loss_fn, tx)
    prepare = make_prepare(
        logprob_fn,
        aggregation=aggregation,
        longest_episode=longest_episode,
        old_logprobs=old_logprobs,
        kl_coef=kl_coef,
        kl_in=kl_in,
        importance_cap=importance_cap,
        token_mask=token_mask,
        episode_mask=episode_mask,
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
        if overlong == "penalty":
            charge = soft_penalties(
                episodes,
                longest=longest_response,
                buffer=overlong_buffer,
                penalty=overlong_penalty,
            )
            values = (values - charge).astype(np.float32)
        cut = cut_turns(episodes) if overlong == "mask" else None
        if kl_coef:  # once per update, where they wait in the memory of the host
            reference_params = move(reference_params, "device")
        params = join(frozen, state.params)
        groups = np.array([episode.group for episode in episodes])
        count = min(minibatches, len(set(groups)))  # a plan may train on fewer groups
        prepared: list[Prepared] = []
        for part in _minibatches(groups, count, epochs, seed):
            keep = has_signal[part] | (not drop_zero_variance)
            chosen, dropped = part[keep], part[~keep]
            if not len(chosen):
                prepared.append(Prepared([], []))
                continue
            absent = [episodes[i] for i in dropped]
            order = np.concatenate([chosen, dropped])
            packed = pack(
                [episodes[i] for i in chosen],
                buckets=buckets,
                tokens_per_microbatch=tokens_per_microbatch,
                row_shards=row_shards(mesh_of(state.params)),
            )
            prepared.append(
                prepare(
                    packed,
                    values[order],
                    groups=groups[order],
                    params=params,
                    reference_params=reference_params,
                    left_out=None if cut is None else cut[order],
                    absent=[targets_only(absent, len(chosen))] if absent else [],
                )
            )
        del params, reference_params  # the copy on the devices, before memory is needed
        metrics: list[Metrics] = []
        taken, first = 0, int(state.step)
        for microbatches, figures in prepared:
            metrics += figures
            if not microbatches:
                continue
            state, parts = step(state, microbatches, frozen)
            # Later steps have other weights than the engine: that is no disagreement.
            metrics += parts if taken == 0 else map(_without_agreement, parts)
            taken += 1
        summary |= _fill_metrics([batch for batch, _ in prepared])
        summary |= _with_effective_sample(reduce_metrics(metrics))
        if drop_zero_variance:
            summary |= _drop_metrics(episodes, has_signal)
        if skipped := len(prepared) - taken:
            summary["grpo/skipped_minibatches"] = float(skipped)
        if taken:
            summary["grpo/learning_rate"] = rate_at(learning_rate, first + taken - 1)
        return state, summary

    return update


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{name}={value!r}: choose one of {listed}")


def make_loss(
    score_fn: Callable[[Any, PackedBatch], tuple[jax.Array, jax.Array | None]],
    **options: Any,
) -> LossFn:
    """Build (params, micro-batch) -> (its share of the loss, metrics).

    Args:
        score_fn: (params, packed) -> log-probs and, where they are known, entropies.
        **options: those of `grpo_loss`.
    """

    def loss_fn(params: Any, batch: GrpoBatch) -> tuple[jax.Array, Metrics]:
        logprobs, entropy = score_fn(params, batch.packed)
        return grpo_loss(logprobs, batch, entropy=entropy, **options)

    return loss_fn


def _minibatches(
    groups: np.ndarray, count: int, epochs: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield the episodes of all minibatches; every epoch shuffles groups anew."""
    for epoch in range(epochs):
        yield from split_groups(groups, count, [seed, epoch] if epoch else seed)


def split_groups(
    groups: Sequence[int] | np.ndarray, count: int, seed: int | Sequence[int]
) -> list[np.ndarray]:
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


def _drop_metrics(
    episodes: Sequence[Episode], has_signal: np.ndarray
) -> dict[str, float]:
    """Measure what was left out: shares of groups, and of tokens in rows."""
    groups = np.array([episode.group for episode in episodes])
    tokens = np.array([tree_tokens(episode) for episode in episodes])
    dropped = len(np.unique(groups[~has_signal]))
    return {
        "batch/dropped_groups": dropped / len(np.unique(groups)),
        "batch/dropped_tokens": float(tokens[~has_signal].sum() / max(tokens.sum(), 1)),
    }


def _without_agreement(metrics: Metrics) -> Metrics:
    return {k: v for k, v in metrics.items() if not k.startswith("rollout/logprob_")}


def _with_effective_sample(figures: dict[str, float]) -> dict[str, float]:
    square = figures.pop("rollout/importance_square", None)
    if square is not None:
        mean = figures["rollout/importance"]
        figures["rollout/effective_sample"] = effective_sample(mean, square)
    return figures


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
