from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from reskill_jax.trials import thompson
from reskill_jax.trials.thompson import on_host

probability_best = on_host(thompson.probability_best)
clip_probabilities = on_host(thompson.clip_probabilities)
design_effect = on_host(thompson.design_effect)
log_likelihood = on_host(thompson.log_likelihood)
quick = settings(max_examples=40, deadline=None)
pseudo_counts = st.floats(1e-3, 1e6)
counts_of_steps = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 40)), min_size=12, max_size=12
).map(lambda c: tuple(np.sort(np.array(c), 1).T.reshape(2, 4, 3)))


def closed_form(a0: int, b0: float, a1: int, b1: float) -> float:
    """P(x1 > x0) for whole a1: a finite sum of beta functions."""
    i = np.arange(a1)
    terms = special.betaln(a0 + i, b0 + b1) - special.betaln(a0, b0)
    terms -= np.log(b1 + i) + special.betaln(1 + i, b1)
    return float(np.exp(terms).sum())


# P(best).


@pytest.mark.parametrize(
    "arms",
    [
        (1, 1, 1, 1),
        (3, 5, 4, 2),
        (100, 200, 120, 190),
        (5, 1000, 9, 900),
        (30, 70, 1, 1),
        (0.5, 0.5, 2, 7),
        (2.5, 400.25, 3, 0.125),
    ],
)
def test_two_arms_agree_with_the_closed_form(arms):
    a0, b0, a1, b1 = arms
    best = probability_best([a0, a1], [b0, b1])
    assert best[1] == pytest.approx(closed_form(*arms), abs=1e-10)


def test_two_arms_agree_with_adaptive_quadrature():
    first, second = stats.beta(12.3, 30.7), stats.beta(7.1, 14.9)
    expected, _ = integrate.quad(lambda x: second.pdf(x) * first.cdf(x), 0, 1)
    assert probability_best([12.3, 7.1], [30.7, 14.9])[1] == pytest.approx(expected)


def test_enormous_counts():
    # A uniform rate exceeds a rate known to be 1/3 with probability 2/3, exactly.
    best = probability_best([1, 1e6], [1, 2e6])
    assert best == pytest.approx([2 / 3, 1 / 3], abs=1e-8)
    # At a million the posteriors are normal.
    sd = np.sqrt(2 * 0.25 / 2e6)
    expected = stats.norm.cdf(0.0005 / sd)
    best = probability_best([1e6, 1.0005e6 + 5e2], [1e6, 1e6 - 1e3])
    assert best[1] == pytest.approx(expected, abs=2e-3)
    assert probability_best([1e6, 2e6], [2e6, 1e6]) == pytest.approx([0, 1])


def test_one_arm_and_tiny_pseudo_counts():
    assert probability_best([2.0], [3.0]) == pytest.approx([1])
    # Beta(e, e) is 0 or 1, half each: it beats a middling rate half of the time.
    assert probability_best([1e-5, 50], [1e-5, 50])[0] == pytest.approx(0.5, abs=1e-4)
    # A discount can shrink a count to nothing at all.
    assert probability_best([0.0, 5], [3, 5]) == pytest.approx([0, 1], abs=1e-4)


def test_many_arms_agree_with_draws():
    alpha, beta = np.array([2.0, 20, 1, 400]), np.array([3.0, 25, 1, 500])
    draws = np.random.default_rng(0).beta(alpha, beta, size=(400_000, 4))
    shares = np.bincount(draws.argmax(1), minlength=4) / len(draws)
    assert probability_best(alpha, beta) == pytest.approx(shares, abs=4e-3)


@quick
@given(
    st.lists(st.tuples(pseudo_counts, pseudo_counts), min_size=3, max_size=3),
    st.permutations(range(3)),
)
def test_relabelling_arms_relabels_probabilities(arms, order):
    alpha, beta = np.array(arms).T
    best = probability_best(alpha, beta)
    assert best.sum() == pytest.approx(1)
    assert (best >= 0).all()
    assert probability_best(alpha[order], beta[order]) == pytest.approx(best[order])


@quick
@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0.5, 100))
def test_more_successes_never_make_an_arm_less_likely(alpha, beta, more):
    before = probability_best([alpha, 40.0], [beta, 60.0])[0]
    assert probability_best([alpha + more, 40.0], [beta, 60.0])[0] >= before - 1e-9
    assert probability_best([alpha, 40.0], [beta + more, 60.0])[0] <= before + 1e-9


def test_probability_also_runs_under_the_users_own_jit():
    best = jax.jit(thompson.probability_best)(
        jnp.array([30.0, 40]), jnp.array([70.0, 60])
    )
    assert best.dtype == jnp.float32
    assert best[1] == pytest.approx(closed_form(30, 70, 40, 60), abs=1e-3)


# Assignment.


def test_clipping_two_arms_is_the_papers_clip():
    for p in (0.0, 0.05, 0.2, 0.37, 0.8, 1.0):
        clipped = clip_probabilities([1 - p, p], 0.2)
        assert clipped[1] == pytest.approx(np.clip(p, 0.2, 0.8))


@quick
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5), st.floats(0, 1))
def test_clipped_probabilities_keep_floor_sum_and_order(weights, share):
    best = (np.array(weights) + 1e-9) / (np.array(weights) + 1e-9).sum()
    epsilon = share / len(best)
    clipped = clip_probabilities(best, epsilon)
    assert clipped.sum() == pytest.approx(1)
    assert (clipped >= epsilon - 1e-12).all()
    assert (np.diff(clipped[np.argsort(best)]) >= -1e-12).all()


@quick
@given(
    st.integers(0, 2**31),
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).filter(
        lambda w: sum(w) > 0.1
    ),
    st.sampled_from([(16, 8), (7, 5)]),
)
def test_stratified_counts_are_the_nearest_integers(seed, weights, shape):
    tasks, group_size = shape
    p = np.array(weights) / sum(weights)
    assign = on_host(thompson.assign_stratified, tasks=tasks, group_size=group_size)
    arms = assign(jax.random.key(seed), p)
    assert arms.shape == shape
    assert arms.dtype == np.int32
    counts = (arms[..., None] == np.arange(len(p))).sum(1)  # [B, K]
    assert (np.abs(counts - group_size * p) < 1 + 1e-9).all()
    assert (np.abs(counts.sum(0) - tasks * group_size * p) < 1 + 1e-9).all()


def test_stratified_rounding_is_unbiased_at_every_place():
    p = jnp.array([0.23, 0.4, 0.37])
    assign = partial(thompson.assign_stratified, tasks=3, group_size=5)
    draw = jax.jit(jax.vmap(assign, in_axes=(0, None)))
    draws = np.asarray(draw(jax.random.split(jax.random.key(0), 3000), p))
    shares = (draws[..., None] == np.arange(3)).mean(0)  # [B, G, K]
    error = 4.5 * np.sqrt(0.25 / len(draws))  # 45 places and arms
    assert np.abs(shares - p).max() < error


def test_independent_draws_follow_the_probabilities():
    p = np.array([0.2, 0.8])
    assign = on_host(thompson.assign_independent, tasks=2000, group_size=8)
    arms = assign(jax.random.key(3), p)
    assert arms.mean() == pytest.approx(0.8, abs=0.01)
    counts = np.bincount(arms.sum(1), minlength=9) / 2000
    expected = stats.binom.pmf(np.arange(9), 8, 0.8)
    assert counts == pytest.approx(expected, abs=0.04)


# Posterior.


def test_discount_rules():
    n = np.array([[0.0, 76, 152]])

    def weigh(rule, memory=76.0):
        return thompson.step_weights(n, memory, discount=rule, constant=0.7)[0]

    assert weigh("adaptive") == pytest.approx([1, 1 / 2, 1 / 3])
    assert weigh("adaptive", np.inf) == pytest.approx([1, 1, 1])
    assert weigh("constant") == pytest.approx([1, 0.7, 0.7])
    assert weigh("last_step") == pytest.approx([1, 0, 0])
    assert weigh("none") == pytest.approx([1, 1, 1])


def test_posterior_follows_the_papers_recursion():
    successes, trials = (
        np.array([[3, 1], [0, 0], [7, 2]]),
        np.array([[9, 4], [0, 3], [9, 9]]),
    )
    alpha, beta = np.ones(2), np.ones(2)
    for m, n in zip(successes, trials, strict=True):
        w = 20 / (20 + n)
        alpha, beta = w * alpha + m, w * beta + n - m
    weights = thompson.step_weights(trials, 20.0, discount="adaptive")
    posterior = on_host(thompson.posterior, keep_prior=False)
    prior = (np.ones(2), np.ones(2))
    result = posterior(prior, successes, trials, weights)
    np.testing.assert_allclose(result, (alpha, beta))
    plain = posterior(prior, successes, trials, np.ones((3, 2)))
    np.testing.assert_allclose(plain[0], 1 + successes.sum(0))
    kept = on_host(thompson.posterior, keep_prior=True)
    last = kept(prior, successes, trials, [[1, 1], [0, 0], [0, 0]])
    np.testing.assert_allclose(last[0], 1 + successes[-1])


# Memory.


def naive_log_likelihood(successes, trials, memory):
    total = 0.0
    for k in range(successes.shape[1]):
        alpha = beta = 1.0
        for m, n in zip(successes[:, k], trials[:, k], strict=True):
            w = 1.0 if np.isinf(memory) else memory / (memory + n)
            alpha, beta = w * alpha, w * beta
            total += stats.betabinom.logpmf(m, n, alpha, beta)
            alpha, beta = alpha + m, beta + n - m
    return total


def test_log_likelihood_agrees_with_scipy():
    rng = np.random.default_rng(1)
    trials = rng.integers(0, 120, (5, 2))
    trials[2, 0] = 0
    successes = rng.binomial(trials, 0.4)
    grid = np.array([1, 2, 10, 76, 457, 2000, np.inf])
    expected = [naive_log_likelihood(successes, trials, m) for m in grid]
    np.testing.assert_allclose(log_likelihood(successes, trials, grid), expected)
    padded = np.zeros((9, 2))
    padded[:5] = successes
    more = np.zeros((9, 2))
    more[:5] = trials
    np.testing.assert_allclose(log_likelihood(padded, more, grid), expected)


def test_log_likelihood_of_a_million_episodes():
    trials = np.full((3, 2), 10**6)
    successes = np.array([[4e5, 5e5], [4.1e5, 5e5], [4e5, 4.9e5]])
    expected = [naive_log_likelihood(successes, trials, m) for m in (76, np.inf)]
    result = log_likelihood(successes, trials, [76, np.inf])
    np.testing.assert_allclose(result, expected, rtol=1e-7)


def test_unscored_first_step_only_sets_the_posterior_of_a_prior_that_stays():
    successes, trials = np.array([[30], [25]]), np.array([[100], [90]])
    score = on_host(thompson.log_likelihood, paper=False)
    w = 50 / (50 + 90)
    expected = stats.betabinom.logpmf(25, 90, 1 + w * 30, 1 + w * 70)
    assert score(successes, trials, [50.0]) == pytest.approx([expected])


def test_design_effect_is_one_for_like_tasks_and_large_for_unlike_ones():
    rng = np.random.default_rng(2)
    trials = np.full((40, 16, 2), 4)
    alike = rng.binomial(trials, 0.4)
    assert design_effect(alike, trials) == pytest.approx([1, 1], abs=0.12)
    # Tasks that are always solved or never: the four rollouts are one observation.
    unlike = 4 * rng.binomial(1, np.full(trials.shape, 0.4))
    assert design_effect(unlike, trials) == pytest.approx([4, 4], rel=0.1)
    assert design_effect(np.zeros((2, 3, 1)), np.ones((2, 3, 1))) == pytest.approx([1])


def test_log_gamma_agrees_with_scipy():
    x = np.concatenate([np.geomspace(1e-6, 1e7, 500), [1, 2, 7.999, 8, 8.001]])
    result = on_host(thompson._log_gamma)(x)
    np.testing.assert_allclose(result, special.gammaln(x), rtol=1e-13, atol=1e-13)


@quick
@given(counts_of_steps, st.permutations(range(3)))
def test_likelihood_and_posterior_know_no_order_of_arms(counts, order):
    successes, trials = counts
    grid = [1, 76, np.inf]
    again = log_likelihood(successes[:, order], trials[:, order], grid)
    np.testing.assert_allclose(again, log_likelihood(successes, trials, grid))
    posterior = on_host(thompson.posterior, keep_prior=False)
    weights = np.asarray(thompson.step_weights(trials, 20.0, discount="adaptive"))
    prior = (np.arange(1, 4), np.ones(3))
    whole = posterior(prior, successes, trials, weights)
    moved = posterior(
        [p[order] for p in prior],
        *(x[:, order] for x in (successes, trials, weights)),
    )
    np.testing.assert_allclose(moved, np.array(whole)[:, order])


@quick
@given(counts_of_steps)
def test_steps_without_episodes_and_lone_arms_are_defined(counts):
    successes, trials = counts
    one = log_likelihood(successes[:, :1], trials[:, :1], [3, np.inf])
    assert np.isfinite(one).all()
    none = np.zeros_like(trials)
    assert log_likelihood(none, none, [3, np.inf]) == pytest.approx([0, 0])
    assert (thompson.step_weights(none, 3.0, discount="adaptive") == 1).all()


@quick
@given(st.integers(1, 60), st.integers(0, 60), st.sampled_from([5.0, 76.0, np.inf]))
def test_more_successes_raise_the_posterior_mean(n, m, memory):
    m = min(m, n - 1)
    trials = np.array([[30], [n]])
    weights = np.asarray(thompson.step_weights(trials, memory, discount="adaptive"))
    posterior = on_host(thompson.posterior, keep_prior=False)

    def mean(last):
        prior = (np.ones(1), np.ones(1))
        alpha, beta = posterior(prior, [[10], [last]], trials, weights)
        return alpha[0] / (alpha[0] + beta[0])

    assert mean(m + 1) > mean(m)


def test_the_largest_memory_that_is_not_contradicted():
    memories = [1, 10, 100, np.inf]
    pick = on_host(thompson.largest_plausible)
    assert pick([0.0, 0.0, 0.0, 0.0], memories) == np.inf
    assert pick([-9.0, 0.0, -1.9, -2.0], memories) == 100
    assert pick([0.0, -5.0, -5.0, -5.0], memories) == 1


def test_carry_over_keeps_the_rate_and_caps_the_mass():
    alpha, beta = on_host(thompson.carry_over, arms=3)(300.0, 100.0, 20.0)
    np.testing.assert_allclose(alpha, [15, 1.5, 1.5])
    np.testing.assert_allclose(beta, [5, 0.5, 0.5])
