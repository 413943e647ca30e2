"""Effects of a candidate by type of task, shrunk towards their mean: pure functions.

A bundle may help most tasks and harm those of one type, which the overall effect hides.
Effects of single types are measured on few episodes; they are shrunk towards their mean
as far as chance explains how they differ (empirical Bayes; DerSimonian and Laird,
Controlled Clinical Trials 7, 1986), so that one noisy type rejects nothing.
"""

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike


def shrunk(effects: ArrayLike, errors: ArrayLike) -> tuple[Array, Array]:
    """Shrink the effects of types towards their mean.

    With s_c the standard error of type c, and tau^2 the variance of true effects by the
    method of moments, at least 0: B_c = tau^2 / (tau^2 + s_c^2), and
    g_c = B_c effect_c + (1 - B_c) mean.

    Args:
        effects: [..., C] of each type.
        errors: [..., C] their standard errors; infinite for a type that was not played.

    Returns:
        g [..., C] and its standard errors [..., C]; (0, infinity) where no type was
        played.
    """
    effects, errors = jnp.asarray(effects, float), jnp.asarray(errors, float)
    known = jnp.isfinite(errors)
    variance = jnp.where(known, errors, 1.0) ** 2
    effects = jnp.where(known, effects, 0.0)

    def mean(weights: Array) -> Array:
        total = jnp.maximum(weights.sum(-1, keepdims=True), 1e-12)
        return (weights * effects).sum(-1, keepdims=True) / total

    weights = known / variance
    spread = (weights * (effects - mean(weights)) ** 2).sum(-1, keepdims=True)
    total = jnp.maximum(weights.sum(-1, keepdims=True), 1e-12)
    scale = total - (weights**2).sum(-1, keepdims=True) / total
    freedom = known.sum(-1, keepdims=True) - 1
    several = (freedom > 0) & (scale > 0)
    tau2 = jnp.where(several, (spread - freedom) / jnp.where(several, scale, 1.0), 0.0)
    tau2 = jnp.maximum(tau2, 0.0)
    share = jnp.where(known, tau2 / (tau2 + variance), 0.0)
    around = known / (tau2 + variance)
    of_mean = 1 / jnp.maximum(around.sum(-1, keepdims=True), 1e-12)
    result = share * effects + (1 - share) * mean(around)
    deviation = jnp.sqrt(share * variance + (1 - share) ** 2 * of_mean)
    some = known.any(-1, keepdims=True)
    return jnp.where(some, result, 0.0), jnp.where(some, deviation, jnp.inf)


def harmed(effects: ArrayLike, errors: ArrayLike, margin: ArrayLike) -> Array:
    """Tell which types are clearly harmed: g_c + margin x standard error < 0.

    Args:
        effects: [..., C] as for `shrunk`.
        errors: [..., C] likewise.
        margin: standard errors.

    Returns:
        bool [..., C]; never for a type that was not played.
    """
    found, deviation = shrunk(effects, errors)
    return jnp.isfinite(jnp.asarray(errors)) & (found + margin * deviation < 0)
