"""Estimates of KL(policy || reference) from sampled tokens, by name.

With d = log-prob of the reference less that of the policy
(http://joschu.net/blog/kl-approx.html):

- `k1` = -d: unbiased. It belongs into the reward: as a loss its gradient is that of the
  log-prob, whose mean over samples is zero.
- `k2` = d^2 / 2: as a loss, on policy, it has the gradient of KL(policy || reference).
- `k3` = exp(d) - d - 1: unbiased, never negative, of low variance; as a loss it has the
  gradient of KL(reference || policy).
"""

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp

from reskill_jax.grpo.packing import Array
from reskill_jax.grpo.surrogates import LOG_RATIO_LIMIT

KlEstimator = Literal["k1", "k2", "k3"]

_KL_LIMIT = 10.0


def k1(logprobs: Array, reference: Array) -> jax.Array:
    """Return -d, float32 like both log-probs; d is clipped to 20."""
    delta = jnp.clip(reference - logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return -delta


def k2(logprobs: Array, reference: Array) -> jax.Array:
    """Return d^2 / 2, float32 like both log-probs; d is clipped to 20."""
    delta = jnp.clip(reference - logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return 0.5 * delta * delta


def k3(logprobs: Array, reference: Array) -> jax.Array:
    """Return exp(d) - d - 1, float32 like both log-probs.

    d is clipped to 20 and the estimate to 10, which bounds the gradient of a token.
    """
    delta = jnp.clip(reference - logprobs, -LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return jnp.clip(jnp.expm1(delta) - delta, -_KL_LIMIT, _KL_LIMIT)


KL_ESTIMATORS: Mapping[KlEstimator, Callable[[Array, Array], jax.Array]] = {
    "k1": k1,
    "k2": k2,
    "k3": k3,
}
