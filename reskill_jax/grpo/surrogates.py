"""Surrogates of the policy's objective: what each token is trained on, by name.

    surrogate = LOSSES["clip"](logprobs, old_logprobs, advantages, packed, limits)

To add one, write a function like those below and a line of `LOSSES`.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.segments import turn_mean

Loss = Literal["clip", "gspo", "dppo_tv"]

LOG_RATIO_LIMIT = 20.0


class Limits(NamedTuple):
    """How far one update may move a token.

    Attributes:
        clip_low: ratios are clipped at 1 - clip_low, from below.
        clip_high: and at 1 + clip_high, from above.
        dual_clip: bounds the loss of a negative advantage A by -A * dual_clip
            (arXiv 1912.09729); of `clip` and `gspo`.
        dppo_delta: most that the probability of a token may change; of `dppo_tv`.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float = 3.0
    dppo_delta: float = 0.2


class Surrogate(NamedTuple):
    """A loss by token, all [R, T].

    Attributes:
        values: float32, what is minimised.
        ratio: float32, of the new to the old probability.
        low: bool, tokens without a gradient since they became too unlikely.
        high: bool, the same since they became too likely.
        dual: bool, tokens that the dual clip stopped.
    """

    values: Array
    ratio: Array
    low: Array
    high: Array
    dual: Array


# (log-probs, old log-probs, advantages, tokens, limits); the first three float32 [R, T]
# and 0 outside the mask.
SurrogateFn = Callable[[jax.Array, Array, Array, PackedBatch, Limits], Surrogate]


def clip(
    logprobs: jax.Array,
    old_logprobs: Array,
    advantages: Array,
    packed: PackedBatch,
    limits: Limits,
) -> Surrogate:
    """Clip the ratio of each token (PPO, arXiv 1707.06347), with a dual clip."""
    del packed
    ratio = jnp.exp(_log_ratio(logprobs, old_logprobs))
    return _clipped(ratio, advantages, limits)


def gspo(
    logprobs: jax.Array,
    old_logprobs: Array,
    advantages: Array,
    packed: PackedBatch,
    limits: Limits,
) -> Surrogate:
    """Clip one ratio per turn, the geometric mean over its tokens (arXiv 2507.18071).

    The sequence of the paper is a turn here: it is what the policy is asked for at
    once, of one length scale, and it is one contiguous run of tokens, however an
    episode is packed. A mean over all turns of an episode would let one turn that
    drifted be hidden by, or clip, dozens that did not, and would need windows that lie
    in other rows or micro-batches. As in GSPO-token each token's gradient is that of
    its own log-prob, times the ratio of its turn.

    The mean log ratio of n tokens varies as 1 / sqrt(n), so that limits for turns of
    tens of tokens are greater than those published for answers of a thousand.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs)
    mean = jax.lax.stop_gradient(turn_mean(log_ratio, packed))
    own = logprobs - jax.lax.stop_gradient(logprobs)  # 0, with a gradient
    return _clipped(jnp.exp(mean + own), advantages, limits)


def dppo_tv(
    logprobs: jax.Array,
    old_logprobs: Array,
    advantages: Array,
    packed: PackedBatch,
    limits: Limits,
) -> Surrogate:
    """Drop tokens whose probability changed too much (DPPO, arXiv 2602.04879).

    What counts is the difference of probabilities, the part of the total variation
    that a sampled token shows: a rare token may become many times as likely, a common
    one may not lose a fifth. Tokens are dropped only where their advantage would move
    them further away.
    """
    del packed
    ratio = jnp.exp(_log_ratio(logprobs, old_logprobs))
    change = jnp.exp(logprobs) - jnp.exp(old_logprobs)
    high = (advantages > 0) & (change > limits.dppo_delta)
    low = (advantages < 0) & (change < -limits.dppo_delta)
    values = jnp.where(high | low, 0.0, -advantages * ratio)
    return Surrogate(values, ratio, low, high, jnp.zeros_like(high))


def _log_ratio(logprobs: jax.Array, old_logprobs: Array) -> jax.Array:
    return jnp.clip(logprobs - old_logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)


def _clipped(ratio: jax.Array, advantages: Array, limits: Limits) -> Surrogate:
    plain = -advantages * ratio
    bounded = jnp.clip(ratio, 1 - limits.clip_low, 1 + limits.clip_high)
    clipped = -advantages * bounded
    surrogate = jnp.maximum(plain, clipped)
    ceiling = -advantages * limits.dual_clip
    dual = (advantages < 0) & (surrogate > ceiling)
    values = jnp.where(dual, ceiling, surrogate)
    stopped = clipped > plain
    return Surrogate(
        values, ratio, stopped & (advantages < 0), stopped & (advantages > 0), dual
    )


LOSSES: Mapping[Loss, SurrogateFn] = {"clip": clip, "gspo": gspo, "dppo_tv": dppo_tv}
