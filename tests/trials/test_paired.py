import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reskill_jax.trials import paired, thompson
from reskill_jax.trials.thompson import on_host
from reskill_jax.trials.trial_config import TrialConfig

paired_sums = on_host(paired.paired_sums)
paired_effect = on_host(paired.paired_effect)
probability_above = on_host(paired.probability_above)
verdict = on_host(paired.verdict)
quick = settings(max_examples=40, deadline=None)

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
    np.testing.assert_allclose(no_discount(np.stack(parts)), whole, atol=1e-12)
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


def test_one_arm_has_nothing_to_compare():
    sums = paired_sums(np.ones((3, 1)), np.ones((3, 1)))
    assert sums.shape == (0, 4)
    effect, error = no_discount(sums[None])
    assert effect.shape == error.shape == (0,)


def test_enormous_counts_agree_with_the_normal_formula():
    trials = np.array([[4_000_000, 6_000_000]])
    successes = np.array([[1_000_000, 1_530_000]])
    effect, error = no_discount(paired_sums(successes, trials)[None])
    assert effect == pytest.approx([0.005])
    variance = 0.25 * 0.75 / 4e6 + 0.255 * 0.745 / 6e6
    assert error == pytest.approx([np.sqrt(variance)], rel=1e-3)


# The verdict.


def test_probability_above_is_the_normal_posterior():
    precision = 1 / 0.05**2 + 1 / 0.03**2
    posterior = stats.norm(0.04 / 0.03**2 / precision, precision**-0.5)
    assert probability_above(0.04, 0.03, 0.05, 0.01) == pytest.approx(
        posterior.sf(0.01)
    )
    assert probability_above(0.0, np.inf, 0.05, 0.0) == pytest.approx(0.5)
    assert probability_above(0.0, np.inf, 0.05, 0.05) == pytest.approx(stats.norm.sf(1))


def test_bounds_close_in_evenly():
    config = TrialConfig(
        min_steps=1,
        max_steps=4,
        early_accept=0.9,
        early_reject=0.1,
        accept_probability=0.7,
    )
    chances = np.array([0.09, 0.24, 0.26, 0.69, 0.71, 0.84, 0.86])

    def judge(steps, episodes=999):
        return verdict(chances, steps, episodes, config.bounds()).tolist()

    assert judge(1) == [-1, -1, 0, 0, 0, 0, 1]  # bounds .25 and .85
    assert judge(3) == [-1, -1, -1, 0, 0, 1, 1]  # .55 and .75
    assert judge(4) == [-1, -1, -1, -1, 1, 1, 1]
    assert judge(9) == judge(4)
    assert judge(4, episodes=49) == [0] * 7


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6), st.integers(1, 20))
def test_a_better_chance_is_never_judged_worse(chances, steps):
    judged = verdict(np.sort(chances), steps, 999, TrialConfig().bounds())
    assert (np.diff(judged) >= 0).all()
    if steps >= TrialConfig().max_steps:
        assert (judged != 0).all()
