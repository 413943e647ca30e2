"""The GRPO loss on packed rows, as a plain weighted sum over tokens.

Weights are computed on the host over everything that goes into one optimiser step.
Micro-batches then add exactly, whatever their number and order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.weighted_metrics import Max, Mean, Metrics

Aggregation = Literal["episode", "token"]

_LOG_RATIO_LIMIT = 20.0
_KL_LIMIT = 10.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GrpoBatch:
    """A micro-batch with what its loss needs, all float32 [R, T], 0 outside the mask.

    Attributes:
        packed: the tokens.
        advantages: of the turn that a slot's target belongs to.
        weights: of each token in the loss; they sum to 1 over an optimiser step.
        old_logprobs: log-probs of the targets under the policy that sampled them.
        reference_logprobs: the same under the reference policy; None without KL term.
    """

    packed: PackedBatch
    advantages: Array
    weights: Array
    old_logprobs: Array
    reference_logprobs: Array | None


def token_weights(
    batches: Sequence[PackedBatch], aggregation: Aggregation
) -> list[np.ndarray]:
    """Weight the response tokens of all micro-batches of one optimiser step.

    Args:
        batches: everything that goes into the step.
        aggregation: `episode` weighs episodes equally and tokens equally within one
            (paper, section 3.1); `token` weighs all tokens equally.

    Returns:
        float32 [R, T] for every micro-batch; they sum to 1 over all of them.

    Raises:
        ValueError: on an unknown aggregation, or if there is no response token at all.
    """
    if aggregation not in ("episode", "token"):
        raise ValueError(f"aggregation={aggregation!r}: choose 'episode' or 'token'")
    chosen = [np.asarray(batch.mask) > 0 for batch in batches]
    owners = [np.asarray(b.episode)[m] for b, m in zip(batches, chosen, strict=True)]
    lengths = np.bincount(np.concatenate([np.zeros(0, np.int64), *owners]))
    if lengths.sum() == 0:
        raise ValueError("a batch without any response token: nothing to train on")
    if aggregation == "token":
        share = np.full(len(lengths), 1 / lengths.sum())
    else:
        share = 1 / (np.count_nonzero(lengths) * np.maximum(lengths, 1))
    weights = [np.zeros(mask.shape, np.float32) for mask in chosen]
    for weight, mask, owner in zip(weights, chosen, owners, strict=True):
        weight[mask] = share[owner]
    return weights


def grpo_loss(
    logprobs: jax.Array,
    batch: GrpoBatch,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    kl_coef: float = 0.01,
    importance_cap: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """Clipped surrogate (paper, section 3.1) with dual clip and a k3 KL penalty.

    A sampler with other numerics than the trainer samples from another policy. With an
    `importance_cap` C each token's surrogate is weighted by min(old / sampler, C), the
    ratio of their probabilities (truncated importance sampling, Ionides 2008). It
    matters where `old_logprobs` are the trainer's own.

    Args:
        logprobs: float32 [R, T], of the targets under the current weights.
        batch: the micro-batch.
        clip_low: ratios are clipped at 1 - clip_low, from below.
        clip_high: and at 1 + clip_high, from above.
        dual_clip: bounds the loss of a negative advantage A by -A * dual_clip
            (arXiv 1912.09729).
        kl_coef: weight of the k3 estimate of KL(policy || reference); it is left out
            where the batch has no reference.
        importance_cap: C; 0 leaves the weights out.

    Returns:
        This micro-batch's share of the loss, and its metrics.
    """
    mask = batch.packed.mask
    # Padding may hold anything, even infinities: it must not reach a product.
    logprobs = jnp.where(mask > 0, logprobs, 0.0)
    log_ratio = logprobs - batch.old_logprobs
    ratio = jnp.exp(jnp.clip(log_ratio, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))
    plain = -batch.advantages * ratio
    clipped = -batch.advantages * jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    surrogate = jnp.maximum(plain, clipped)
    ceiling = -batch.advantages * dual_clip
    dual = (batch.advantages < 0) & (surrogate > ceiling)
    per_token = jnp.where(dual, ceiling, surrogate)

    def mean(values: Array) -> Mean:
        return Mean(jnp.sum(values * mask), jnp.sum(mask))

    metrics: dict[str, Mean | Max] = {
        "grpo/ratio": mean(ratio),
        "grpo/clip_fraction": mean(clipped > plain),
        "grpo/dual_clip_fraction": mean(dual),
        "grpo/entropy": mean(-logprobs),  # estimated from the sampled tokens
    }
    if importance_cap:
        drift = batch.old_logprobs - batch.packed.sampler_logprobs
        importance = jnp.exp(jnp.clip(drift, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))
        metrics["grpo/importance_capped"] = mean(importance > importance_cap)
        importance = jnp.minimum(importance, importance_cap)
        metrics["grpo/importance"] = mean(importance)
        per_token *= importance
    if batch.reference_logprobs is not None:
        kl = k3(logprobs, batch.reference_logprobs)
        per_token += kl_coef * kl
        metrics["grpo/kl"] = mean(kl)
    loss = jnp.sum(batch.weights * per_token)
    metrics["grpo/loss"] = Mean(loss, jnp.sum(batch.weights))
    return loss, metrics | agreement(logprobs, batch.packed)


def k3(logprobs: Array, reference: Array) -> jax.Array:
    """Estimate KL(policy || reference) per token: exp(d) - d - 1 with d = ref - logp.

    Low variance and never negative (http://joschu.net/blog/kl-approx.html); d is
    clipped to 20 and the estimate to 10, which bounds the gradient of a token.

    Args:
        logprobs: float32 [R, T], of the policy.
        reference: float32 [R, T], of the reference policy.

    Returns:
        float32 [R, T].
    """
    delta = jnp.clip(reference - logprobs, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    return jnp.clip(jnp.expm1(delta) - delta, -_KL_LIMIT, _KL_LIMIT)


def agreement(logprobs: jax.Array, packed: PackedBatch) -> dict[str, Mean | Max]:
    """Compare the trainer's log-probs [R, T] with the engine's.

    Both see the same weights only in the first optimiser step after a push, and not
    even there where the batch was sampled ahead, by weights one update old.
    """
    difference = jnp.where(packed.mask > 0, logprobs - packed.sampler_logprobs, 0.0)
    ratio = jnp.exp(jnp.clip(difference, -_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))
    close = (ratio >= 0.999) & (ratio <= 1.002)
    count = jnp.sum(packed.mask)
    return {
        "rollout/logprob_diff": Mean(jnp.sum(jnp.abs(difference)), count),
        "rollout/logprob_diff_max": Max(jnp.max(jnp.abs(difference))),
        "rollout/logprob_ratio_close": Mean(jnp.sum(close * packed.mask), count),
    }
