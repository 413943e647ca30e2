from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats

from reskill_jax.skills import thompson
from reskill_jax.skills.thompson import on_host

probability_best = on_host(thompson.probability_best)
clip_probabilities = on_host(thompson.clip_probabilities)
paired_sums = on_host(thompson.paired_sums)
paired_effect = on_host(thompson.paired_effect)
design_effect = on_host(thompson.design_effect)
log_likelihood = on_host(thompson.log_likelihood)
quick = settings(max_examples=40, deadline=None)
pseudo_counts = st.floats(1e-3, 1e6)


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


def test_unscored_first_step_only_sets_the_posterior():
    successes, trials = np.array([[30], [25]]), np.array([[100], [90]])
    score = on_host(thompson.log_likelihood, score_first=False)
    w = 50 / (50 + 90)
    expected = stats.betabinom.logpmf(25, 90, w * 31, w * 71)
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


# Paired comparison.

pairs = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=2
)
groups = st.lists(pairs, min_size=6, max_size=6).map(
    lambda g: (np.array(g).min(-1), np.array(g).max(-1))
)


def no_discount(sums):
    return paired_effect(sums, np.ones(sums.shape[:2]))


def test_effect_agrees_with_mantel_haenszel_by_hand():
    successes, trials = (
        np.array([[1, 3], [0, 1], [2, 0]]),
        np.array([[4, 4], [6, 2], [2, 0]]),
    )
    effect, error = no_discount(paired_sums(successes, trials)[None])
    w = np.array([4 * 4 / 8, 6 * 2 / 8])  # the third group has one arm only
    d = np.array([3 / 4 - 1 / 4, 1 / 2 - 0])
    assert effect == pytest.approx([(w * d).sum() / w.sum()])
    p = (16 * 1 - 16 * 3) / 64 + (4 * 0 - 36 * 1 + 6 * 2 * 4 / 2) / 64
    q = (3 * 3 + 1 * 1) / 16 + (1 * 6 + 0) / 16
    assert error == pytest.approx([np.sqrt(effect[0] * p + q + 0.25) / w.sum()])


def test_standard_error_covers_when_tasks_differ():
    rng = np.random.default_rng(4)
    errors, effects = [], []
    trials = np.tile([6, 2], (16, 1))
    for _ in range(600):
        rate = np.clip(0.4 + 0.3 * rng.normal(size=(16, 1)), 0, 0.95)
        rate = rate + np.array([0, 0.05])
        effect, error = no_discount(
            paired_sums(rng.binomial(trials, rate), trials)[None]
        )
        effects.append(effect[0])
        errors.append(error[0])
    assert np.mean(effects) == pytest.approx(0.05, abs=0.015)
    assert np.mean(errors) == pytest.approx(np.std(effects), rel=0.1)


def test_no_contrast_is_no_evidence():
    effect, error = no_discount(paired_sums([[3, 0], [0, 2]], [[4, 0], [0, 4]])[None])
    assert effect == pytest.approx([0])
    assert np.isinf(error).all()
    tied = no_discount(paired_sums([[4, 4]] * 3, [[4, 4]] * 3)[None])
    assert tied[0] == pytest.approx([0])
    assert 0 < tied[1][0] < 1


@quick
@given(groups, st.randoms())
def test_order_of_groups_does_not_matter(counts, random):
    successes, trials = counts
    order = random.sample(range(len(trials)), len(trials))
    again = paired_sums(successes[order], trials[order])
    np.testing.assert_allclose(again, paired_sums(successes, trials), atol=1e-12)


@quick
@given(groups)
def test_swapping_the_arms_flips_the_effect(counts):
    successes, trials = counts
    effect, error = no_discount(paired_sums(successes, trials)[None])
    swapped = no_discount(paired_sums(successes[:, ::-1], trials[:, ::-1])[None])
    np.testing.assert_allclose(swapped[0], -effect, atol=1e-12)
    np.testing.assert_allclose(swapped[1], error)


@quick
@given(groups, st.integers(0, 6))
def test_splitting_a_step_changes_nothing_without_discount(counts, cut):
    successes, trials = counts
    whole = no_discount(paired_sums(successes, trials)[None])
    first = np.arange(6)[:, None] < cut
    parts = [paired_sums(successes * w, trials * w) for w in (first, ~first)]
    np.testing.assert_allclose(no_discount(np.stack(parts)), whole)
    posterior = on_host(thompson.posterior, keep_prior=False)
    split = np.array([successes[:cut].sum(0), successes[cut:].sum(0)])
    n = np.array([trials[:cut].sum(0), trials[cut:].sum(0)])
    prior = (np.ones(2), np.ones(2))
    one = posterior(prior, split.sum(0)[None], n.sum(0)[None], np.ones((1, 2)))
    np.testing.assert_allclose(posterior(prior, split, n, np.ones((2, 2))), one)


def test_discount_forgets_old_steps():
    old, new = paired_sums([[0, 4]], [[4, 4]]), paired_sums([[3, 1]], [[4, 4]])
    sums = np.stack([old, new])
    only_new = no_discount(new[None])
    np.testing.assert_allclose(paired_effect(sums, [[1.0], [0.0]]), only_new)
    half = paired_effect(sums, [[1.0], [0.5]])[0]
    assert half == pytest.approx([(0.5 * 1 - 0.5) / 1.5])
