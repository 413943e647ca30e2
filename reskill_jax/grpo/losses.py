"""The GRPO loss on packed rows, as a plain weighted sum over tokens.

Its terms: a surrogate of the policy's objective (`surrogates`), and the divergence from
a reference. Weights are computed on the host (`aggregation`).
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from reskill_jax.grpo.divergence import KL_ESTIMATORS, KlEstimator
from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.surrogates import LOG_RATIO_LIMIT, LOSSES, Limits, Loss
from reskill_jax.grpo.weighted_metrics import Max, Mean, Metrics


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GrpoBatch:
    """A micro-batch with what its loss needs, all float32 [R, T].

    Attributes:
        packed: the tokens.
        advantages: of the turn that a slot's target belongs to.
        weights: of each token in the loss, see `aggregation.token_weights`.
        old_logprobs: log-probs of the targets under the policy that sampled them; what
            is outside the mask has no meaning, here and below.
        reference_logprobs: the same under the reference policy; None without KL term.
    """

    packed: PackedBatch
    advantages: Array
    weights: Array
    old_logprobs: Array
    reference_logprobs: Array | None


def grpo_loss(
    logprobs: jax.Array,
    batch: GrpoBatch,
    *,
    loss: Loss = "clip",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    dppo_delta: float = 0.2,
    kl_coef: float = 0.01,
    kl_estimator: KlEstimator = "k3",
    importance_cap: float = 0.0,
    entropy: jax.Array | None = None,
    entropy_coef: float = 0.0,
) -> tuple[jax.Array, Metrics]:
    """Add a surrogate (`clip`: paper, section 3.1), a KL penalty, entropy's bonus.

    A sampler with other numerics than the trainer samples from another policy. With an
    `importance_cap` C each token's surrogate is weighted by min(old / sampler, C), the
    ratio of their probabilities (truncated importance sampling, Ionides 2008). It
    matters where `old_logprobs` are the trainer's own.

    Args:
        logprobs: float32 [R, T], of the targets under the current weights.
        batch: the micro-batch.
        loss: name of the surrogate, see `surrogates.LOSSES`.
        clip_low: see `surrogates.Limits`, as for the three below.
        clip_high: ratios are clipped above 1 + clip_high.
        dual_clip: bounds the loss of negative advantages.
        dppo_delta: of `dppo_tv`.
        kl_coef: weight of the estimate of KL(policy || reference); it is left out
            where the batch has no reference.
        kl_estimator: see `divergence`.
        importance_cap: C; 0 leaves the weights out.
        entropy: float32 [R, T], of the current policy where each target stands, nats;
            None: unknown.
        entropy_coef: weight of the mean entropy, which is to be large.

    Returns:
        This micro-batch's share of the loss, and its metrics.
    """
    mask = batch.packed.mask
    # Padding may hold anything, even infinities: it must not reach a product.
    logprobs = jnp.where(mask > 0, logprobs, 0.0)
    surrogate = LOSSES[loss](
        logprobs,
        batch.old_logprobs,
        batch.advantages,
        batch.packed,
        Limits(clip_low, clip_high, dual_clip, dppo_delta),
    )
    per_token = surrogate.values

    def mean(values: Array) -> Mean:
        return Mean(jnp.sum(values * mask), jnp.sum(mask))

    metrics: dict[str, Mean | Max] = {
        "grpo/ratio": mean(surrogate.ratio),
        "grpo/clip_fraction": mean(surrogate.low | surrogate.high),
        "grpo/clip_fraction_low": mean(surrogate.low),
        "grpo/clip_fraction_high": mean(surrogate.high),
        "grpo/dual_clip_fraction": mean(surrogate.dual),
    }
    if importance_cap:
        drift = batch.old_logprobs - batch.packed.sampler_logprobs
        importance = jnp.exp(jnp.clip(drift, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
        metrics["grpo/importance_capped"] = mean(importance > importance_cap)
        importance = jnp.minimum(importance, importance_cap)
        metrics["grpo/importance"] = mean(importance)
        per_token *= importance
    if batch.reference_logprobs is not None:
        kl = KL_ESTIMATORS[kl_estimator](logprobs, batch.reference_logprobs)
        per_token += kl_coef * kl
        metrics["grpo/kl"] = mean(kl)
    if entropy is not None:
        entropy = jnp.where(mask > 0, entropy, 0.0)
        metrics["grpo/entropy"] = mean(entropy)
        if entropy_coef:
            per_token -= entropy_coef * entropy
    total = jnp.sum(batch.weights * per_token)
    metrics["grpo/loss"] = Mean(total, jnp.sum(batch.weights))
    return total, metrics | agreement(logprobs, batch.packed)


def agreement(logprobs: jax.Array, packed: PackedBatch) -> dict[str, Mean | Max]:
    """Compare the trainer's log-probs [R, T] with the engine's.

    Both see the same weights only in the first optimiser step after a push, and not
    even there where the batch was sampled ahead, by weights one update old.
    """
    difference = jnp.where(packed.mask > 0, logprobs - packed.sampler_logprobs, 0.0)
    ratio = jnp.exp(jnp.clip(difference, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))
    close = (ratio >= 0.999) & (ratio <= 1.002)
    count = jnp.sum(packed.mask)
    return {
        "rollout/logprob_diff": Mean(jnp.sum(jnp.abs(difference)), count),
        "rollout/logprob_diff_max": Max(jnp.max(jnp.abs(difference))),
        "rollout/logprob_ratio_close": Mean(jnp.sum(close * packed.mask), count),
    }
