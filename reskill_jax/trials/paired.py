"""The within-group comparison of arms, and when it is clear: pure functions of arrays.

All rollouts of a GRPO group share one task, so the difference of success rates within
groups is free of the mix of tasks and of the policy's drift between steps. Letters as
in `thompson`; arm 0 is the incumbent.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import ndtr
from jax.typing import ArrayLike


class Bounds(NamedTuple):
    """When a trial ends; the fields of `TrialConfig` by these names.

    A tuple of scalars, or of arrays over candidates, so that a simulation can try many
    without compiling anew.
    """

    min_steps: ArrayLike
    max_steps: ArrayLike
    min_episodes: ArrayLike
    early_accept: ArrayLike
    early_reject: ArrayLike
    accept_probability: ArrayLike


def paired_sums(successes: ArrayLike, trials: ArrayLike) -> Array:
    """Sums over groups that the within-group comparison with arm 0 needs.

    With n_1 and n_0 episodes of a candidate and the incumbent in a group, y_1 and y_0
    successes: weights n_1 n_0 / N, weighted differences, and the two parts P and Q of
    Sato's variance (Biometrics 45, 1989), which holds for many small groups.

    Args:
        successes: [..., B, K].
        trials: [..., B, K]; groups without both arms count nothing.

    Returns:
        [..., K-1, 4]: weight, difference, P, Q.
    """
    y, n = jnp.asarray(successes, float), jnp.asarray(trials, float)
    y0, n0, y1, n1 = y[..., :1], n[..., :1], y[..., 1:], n[..., 1:]
    both = (n0 > 0) & (n1 > 0)
    size = jnp.maximum(n0 + n1, 1)
    weight = n1 * n0 / size
    difference = (y1 * n0 - y0 * n1) / size
    p = (n1**2 * y0 - n0**2 * y1 + n1 * n0 * (n0 - n1) / 2) / size**2
    q = (y1 * (n0 - y0) + y0 * (n1 - y1)) / (2 * size)
    terms = jnp.stack([weight, difference, p, q], axis=-1)  # [..., B, K-1, 4]
    return jnp.where(both[..., None], terms, 0).sum(-3)


def paired_effect(sums: ArrayLike, weights: ArrayLike) -> tuple[Array, Array]:
    """Mantel-Haenszel difference of success rates to arm 0, and its standard error.

    A quarter, what one discordant pair contributes, is added to the variance's
    numerator, so that a batch where all groups are tied does not claim certainty.

    Args:
        sums: [T, K-1, 4] from `paired_sums`.
        weights: [T, K-1], weight that a step leaves to what came before it.

    Returns:
        (effect, standard error), each [K-1]; (0, infinity) without any contrast.
    """
    sums = jnp.asarray(sums, float)
    left = jnp.cumprod(jnp.asarray(weights, float)[::-1], axis=0)[::-1]
    now = jnp.concatenate([left[1:], jnp.ones_like(left[:1])])  # [T, K-1]
    powers = jnp.stack([now, now, now**2, now**2], axis=-1)
    return effect_of_sums((powers * sums).sum(0))


def effect_of_sums(totals: ArrayLike) -> tuple[Array, Array]:
    """Return what `paired_effect` does, of sums over all groups and steps.

    Args:
        totals: [..., 4] as from `paired_sums`.
    """
    weight, difference, p, q = jnp.moveaxis(jnp.asarray(totals, float), -1, 0)
    some = weight > 0
    weight = jnp.where(some, weight, 1)
    effect = difference / weight
    variance = (jnp.maximum(effect * p + q, 0) + 0.25) / weight**2
    return jnp.where(some, effect, 0), jnp.where(some, jnp.sqrt(variance), jnp.inf)


def expected_effect(effect: ArrayLike, error: ArrayLike, prior_sd: ArrayLike) -> Array:
    """Posterior mean of the effect under a normal prior around zero, elementwise.

    Arguments are those of `probability_above`.
    """
    return jnp.asarray(effect) * _share(error, prior_sd)


def probability_above(
    effect: ArrayLike, error: ArrayLike, prior_sd: ArrayLike, threshold: ArrayLike
) -> Array:
    """P(true effect > threshold) under a normal prior around zero, elementwise.

    Args:
        effect: estimate.
        error: its standard error; infinity leaves the prior.
        prior_sd: standard deviation of true effects that is expected beforehand.
        threshold: what the effect must exceed.
    """
    share = _share(error, prior_sd)
    sd = jnp.sqrt(jnp.asarray(prior_sd, float) ** 2 * (1 - share))
    return ndtr((jnp.asarray(effect) * share - jnp.asarray(threshold)) / sd)


def _share(error: ArrayLike, prior_sd: ArrayLike) -> Array:
    """Share of an estimate that its posterior mean keeps; 0 for an infinite error."""
    variance = jnp.asarray(prior_sd, float) ** 2
    return variance / (variance + jnp.asarray(error, float) ** 2)


def verdict(
    chance: ArrayLike, steps: ArrayLike, episodes: ArrayLike, bounds: Bounds
) -> Array:
    """Judge each candidate by its `probability_above`.

    The bounds for an early end close in evenly, until at `max_steps` they meet at
    `accept_probability`: what is still unclear after many steps is not worth many more.

    Returns:
        int32, shape of `chance`: 1 accept, -1 reject, 0 go on.
    """
    chance, steps = jnp.asarray(chance), jnp.asarray(steps)
    progress = jnp.minimum(steps / jnp.asarray(bounds.max_steps), 1)
    final = jnp.asarray(bounds.accept_probability)

    def bound(early: ArrayLike) -> Array:
        return (1 - progress) * jnp.asarray(early) + progress * final

    accepted = chance >= bound(bounds.early_accept)
    rejected = (chance <= bound(bounds.early_reject)) & ~accepted
    wait = (steps < bounds.min_steps) | (jnp.asarray(episodes) < bounds.min_episodes)
    return jnp.where(wait, 0, accepted.astype(jnp.int32) - rejected)
