"""Thompson sampling over skill-bank versions: pure functions over arrays of arms.

Letters: K arms (0 is the incumbent), T steps of a trial, B groups (tasks) of a step, G
rollouts of a group, S candidate memories. All functions are jit-able and follow the
precision of their inputs; `on_host` runs one in double precision, which counts beyond
some thousands need.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

Discount = Literal["adaptive", "constant", "last_step", "none"]

MEMORY_GRID = np.arange(1, 2001)  # candidate memories M (paper, appendix)
_TINY = 1e-6  # least pseudo-count: a discount may shrink a prior to nothing
_CELLS, _NODES = 64, 4  # per arm and per cell, of the quadrature in `probability_best`


@cache
def on_host(function: Callable, **static: Any) -> Callable:
    """Wrap a function of this module for plain Python: double precision, on the CPU.

    Args:
        function: a function of arrays.
        **static: keyword arguments to fix.

    Returns:
        A function of array-likes that returns numpy arrays.
    """
    compiled = jax.jit(partial(function, **static))

    def call(*arrays: ArrayLike) -> Any:
        cpu = jax.local_devices(backend="cpu")[0]
        with jax.enable_x64(True), jax.default_device(cpu):
            return jax.tree.map(np.asarray, compiled(*jax.device_put(arrays, cpu)))

    return call


# Assignment.


def probability_best(alpha: ArrayLike, beta: ArrayLike) -> Array:
    """Probability that each arm has the greatest success rate, by quadrature.

    P(arm k best) = integral of f_k(x) prod_{j != k} F_j(x) dx for independent
    Beta(alpha_k, beta_k) rates. The integral runs over log-odds, where every density
    is smooth and falls off exponentially; the cells of all arms are merged so that
    narrow and wide posteriors are both resolved. Absolute error below 1e-8 in double
    precision.

    Args:
        alpha: [K], positive, any size.
        beta: [K].

    Returns:
        [K], sums to 1 up to rounding.
    """
    a = jnp.maximum(jnp.asarray(alpha, float), _TINY)[:, None]  # [K, 1]
    b = jnp.maximum(jnp.asarray(beta, float), _TINY)[:, None]
    mode, spread = jnp.log(a) - jnp.log(b), jnp.sqrt(1 / a + 1 / b)
    # Beyond, the normal body (8.5 sd) and the tails e^(a t), e^(-b t) are under 1e-15.
    u = np.linspace(-1, 1, _CELLS + 1)
    reach = 8.5 * spread + 36 / jnp.where(u < 0, a, b)
    edges = jnp.sort((mode + reach * np.sinh(3 * u) / np.sinh(3)).ravel())
    width = jnp.diff(edges)  # [E]
    points, node_weights, running = _gauss_legendre(_NODES)
    nodes = edges[:-1, None] + width[:, None] * points  # [E, Q]

    def log_density(t):  # of the log-odds, up to a constant
        return -a * jax.nn.softplus(-t) - b * jax.nn.softplus(t)

    peak = log_density(mode)  # [K, 1]
    density = jnp.exp(log_density(nodes.reshape(1, -1)) - peak)
    density = density.reshape(-1, *nodes.shape) * width[:, None]  # [K, E, Q]
    mass = density @ node_weights  # [K, E]
    total = mass.sum(1, keepdims=True)
    before = jnp.cumsum(mass, 1) - mass
    cdf = before[..., None] + density @ running.T  # [K, E, Q]
    cdf = jnp.clip(cdf / total[..., None], 0, 1)  # rounding reaches past the ends
    own = jnp.eye(len(a), dtype=bool)[:, :, None, None]
    others = jnp.prod(jnp.where(own, 1, cdf), axis=1)  # [K, E, Q]
    best = ((density * others) @ node_weights).sum(1) / total[:, 0]
    return best / best.sum()


def clip_probabilities(best: ArrayLike, epsilon: ArrayLike) -> Array:
    """Give every arm at least `epsilon` (paper, section 3.3).

    What exceeds epsilon is scaled to sum to one; for two arms that is
    clip(p, eps, 1 - eps).

    Args:
        best: [K], sums to 1.
        epsilon: at most 1/K.
    """
    best = jnp.asarray(best, float)
    epsilon = jnp.asarray(epsilon, best.dtype)
    excess = jnp.maximum(best - epsilon, 0)
    total = excess.sum()
    scale = (1 - best.size * epsilon) / jnp.where(total > 0, total, 1)
    return epsilon + scale * excess


def assign_independent(
    key: Array, probabilities: ArrayLike, *, tasks: int, group_size: int
) -> Array:
    """Draw the arm of every rollout by itself (paper, section 3.3): int32 [B, G]."""
    logits = jnp.log(jnp.asarray(probabilities, float))
    draws = jax.random.categorical(key, logits, shape=(tasks, group_size))
    return draws.astype(jnp.int32)


def assign_stratified(
    key: Array, probabilities: ArrayLike, *, tasks: int, group_size: int
) -> Array:
    """Split every group over the arms as closely as integers allow.

    Within a group the count of arm k is floor or ceil of G p_k, and G p_k on average
    (systematic rounding with a uniform offset); over the whole batch the counts are
    within one of B G p_k, because the groups' offsets are spread evenly.

    Returns:
        int32 [B, G], the order within a group is random.
    """
    p = jnp.asarray(probabilities, float)
    order_key, offset_key, shuffle_key = jax.random.split(key, 3)
    strata = jax.random.permutation(order_key, tasks)
    offsets = (strata + jax.random.uniform(offset_key, dtype=p.dtype)) / tasks  # [B]
    bounds = jnp.cumsum(p) / p.sum() * group_size  # [K]
    # Rollout g lies at g + offset on a line of length G that the arms share out.
    places = jnp.arange(group_size) + offsets[:, None]
    arms = jnp.searchsorted(bounds[:-1], places, side="right").astype(jnp.int32)
    return jax.random.permutation(shuffle_key, arms, axis=1, independent=True)


# Posterior.


def step_weights(
    trials: ArrayLike,
    memory: ArrayLike,
    *,
    discount: Discount,
    constant: float = 0.9,
) -> Array:
    """Weight that a step leaves to what came before it (paper, appendix).

    Adaptive: w = M / (M + n), 1 for M = infinity. A step without episodes of an arm
    leaves that arm alone.

    Args:
        trials: [..., K] episodes of each step and arm.
        memory: M, in episodes; may be infinite.
        discount: constant uses `constant`, last_step forgets all, none nothing.
        constant: weight of the constant rule.
    """
    n = jnp.asarray(trials, float)
    weight = {
        "adaptive": 1 / (1 + n / jnp.asarray(memory, float)),
        "constant": jnp.full_like(n, constant),
        "last_step": jnp.zeros_like(n),
        "none": jnp.ones_like(n),
    }[discount]
    return jnp.where(n > 0, weight, 1)


def update(
    alpha: ArrayLike,
    beta: ArrayLike,
    successes: ArrayLike,
    trials: ArrayLike,
    weight: ArrayLike,
) -> tuple[Array, Array]:
    """One discounted Beta update, elementwise: alpha <- w alpha + m (paper)."""
    alpha, beta, weight = jnp.asarray(alpha), jnp.asarray(beta), jnp.asarray(weight)
    successes, trials = jnp.asarray(successes), jnp.asarray(trials)
    return weight * alpha + successes, weight * beta + trials - successes


def posterior(
    prior: tuple[ArrayLike, ArrayLike],
    successes: ArrayLike,
    trials: ArrayLike,
    weights: ArrayLike,
    *,
    keep_prior: bool,
) -> tuple[Array, Array]:
    """Beta posterior after the steps of a trial.

    Args:
        prior: (alpha, beta), each [K].
        successes: [T, K].
        trials: [T, K].
        weights: [T, K], from `step_weights`.
        keep_prior: discount evidence only; the paper discounts the prior too.

    Returns:
        (alpha, beta), each [K].
    """
    # arrays of one float type, as a scan's carry must keep its type
    alpha, beta = (jnp.asarray(p, float) for p in prior)
    start = (jnp.zeros_like(alpha),) * 2 if keep_prior else (alpha, beta)

    def step(counts, inputs):
        return update(*counts, *inputs), None

    inputs = tuple(jnp.asarray(x, alpha.dtype) for x in (successes, trials, weights))
    (m, rest), _ = jax.lax.scan(step, start, inputs)
    return (m + alpha, rest + beta) if keep_prior else (m, rest)


def carry_over(
    alpha: ArrayLike, beta: ArrayLike, limit: ArrayLike, *, arms: int
) -> tuple[Array, Array]:
    """Prior of a trial from what the trial before it knew of the incumbent.

    Args:
        alpha: scalar, of the incumbent's posterior.
        beta: scalar.
        limit: at most so many episodes go over, at least two.
        arms: K; candidates start at the incumbent's rate, with the weight of two
            episodes, which Beta(1, 1) has too.

    Returns:
        (alpha, beta), each [K].
    """
    alpha, beta = jnp.asarray(alpha, float), jnp.asarray(beta, float)
    mean = alpha / (alpha + beta)
    mass = jnp.clip(alpha + beta, 2, jnp.maximum(jnp.asarray(limit), 2))
    masses = jnp.full(arms, 2.0, mean.dtype).at[0].set(mass)
    return masses * mean, masses * (1 - mean)


# Memory.


def log_likelihood(
    successes: ArrayLike,
    trials: ArrayLike,
    memory: ArrayLike,
    design_effect: ArrayLike = 1.0,
    *,
    paper: bool = True,
) -> Array:
    """Beta-binomial log-likelihood of one trial for every memory at once.

    Each arm starts from Beta(1, 1); a step is predicted by the discounted posterior of
    the steps before it. Log-likelihoods of several trials add up.

    Args:
        successes: [T, K].
        trials: [T, K]; steps of zeros add nothing.
        memory: [S] candidate memories, may hold infinity.
        design_effect: [K] or scalar, divides the evidence; see `design_effect`.
        paper: whether the prior is forgotten like evidence, and the first step is
            scored against it (paper, appendix). Neither has to do with drift: the first
            step speaks against small memories, and for them where all episodes fail, as
            less of the prior is left. Otherwise the prior stays and the first step only
            sets the posterior.

    Returns:
        [S].
    """
    memory = jnp.asarray(memory, float)[:, None]  # [S, 1]
    n = jnp.asarray(trials, memory.dtype)
    m = jnp.asarray(successes, memory.dtype)
    scored = jnp.ones(len(n)).at[0].set(paper)
    kept = 0.0 if paper else 1.0  # of the prior, whatever is forgotten

    def step(state, inputs):
        alpha, beta = state  # [S, K]
        m, n, scored = inputs  # [K], [K], []
        weight = 1 / (1 + scored * n / memory)
        alpha = jnp.maximum(weight * alpha, _TINY)
        beta = jnp.maximum(weight * beta, _TINY)
        m, n = m / design_effect, n / design_effect
        score = _log_beta_binomial(m, n, alpha + kept, beta + kept).sum(-1)
        return (alpha + m, beta + n - m), scored * score

    start = jnp.full((len(memory), n.shape[1]), 1.0 - kept, memory.dtype)
    _, scores = jax.lax.scan(step, (start, start), (m, n, scored))
    return scores.sum(0)


def design_effect(successes: ArrayLike, trials: ArrayLike) -> Array:
    """How much more a step's success rate varies than independent episodes would.

    Rollouts of one task are alike, so the mix of tasks alone makes rates differ between
    steps; counted as binomial noise that looks like drift. This is the variance of the
    rate with tasks as clusters over the binomial one, pooled over steps, at least 1.

    Args:
        successes: [T, B, K] per group.
        trials: [T, B, K].

    Returns:
        [K].
    """
    m, n = jnp.asarray(successes, float), jnp.asarray(trials, float)
    rate = m.sum(1) / jnp.maximum(n.sum(1), 1)  # [T, K]
    groups = (n > 0).sum(1)
    clustered = ((m - n * rate[:, None]) ** 2).sum(1) * groups
    clustered = jnp.where(groups > 1, clustered / jnp.maximum(groups - 1, 1), 0)
    binomial = jnp.where(groups > 1, n.sum(1) * rate * (1 - rate), 0)
    clustered, binomial = clustered.sum(0), binomial.sum(0)
    ratio = clustered / jnp.where(binomial > 0, binomial, 1)
    return jnp.maximum(jnp.where(binomial > 0, ratio, 1), 1)


def largest_plausible(scores: ArrayLike, memories: ArrayLike) -> Array:
    """Return the largest memory that the evidence does not contradict.

    Forgetting costs precision, so that drift must be shown before evidence is
    discounted.

    Args:
        scores: [S] log-likelihoods; up to 1.92 below the greatest is plausible, half of
            the 95% point of chi-squared.
        memories: [S], ascending.
    """
    scores = jnp.asarray(scores)
    return jnp.max(jnp.where(scores >= scores.max() - 1.92, jnp.asarray(memories), 0))


def _gauss_legendre(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes [Q] and weights [Q] on [0, 1], and [Q, Q] integrals from 0 to each node."""
    x, w = np.polynomial.legendre.leggauss(count)
    x, powers = (x + 1) / 2, np.arange(1, count + 1)
    running = (x[:, None] ** powers / powers) @ np.linalg.inv(
        np.vander(x, increasing=True)
    )
    return x, w / 2, running


def _log_beta_binomial(m: Array, n: Array, alpha: Array, beta: Array) -> Array:
    def log_beta(x, y):
        return _log_gamma(x) + _log_gamma(y) - _log_gamma(x + y)

    choose = -log_beta(m + 1, n - m + 1) - jnp.log(n + 1)
    return choose + log_beta(m + alpha, n - m + beta) - log_beta(alpha, beta)


def _log_gamma(x: Array) -> Array:
    """Log-gamma for x > 0 by Stirling's series.

    Below 8, x is moved up by 8 first. The first dropped term is below 2e-14.

    `jax.scipy.special.gammaln` is as exact, but with it an update of M takes 5.8 ms of
    CPU instead of 2.2 (with `betaln` 6.5), 92 times faster than plain Python instead of
    242: below the bar of ``python -m reskill_jax.benchmarks.thompson``.
    """
    small = x < 8
    shift = x
    for i in range(1, 8):
        shift = shift * (x + i)
    z = jnp.where(small, x + 8, x)
    terms = -691 / 360360, 1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12
    series = jnp.polyval(jnp.array(terms, z.dtype), 1 / z**2) / z
    stirling = (z - 0.5) * jnp.log(z) - z + 0.5 * np.log(2 * np.pi) + series
    return stirling - jnp.log(jnp.where(small, shift, 1))
