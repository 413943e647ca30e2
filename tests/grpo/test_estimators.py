"""Estimators against oracles of their own: loops, enumeration, closed forms."""

from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
import pytest
from grpo_cases import make_batch, make_table, random_table, reorder
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.grpo.advantages import advantages
from reskill_jax.grpo.estimators import ESTIMATORS, Estimator, anchor_metrics
from reskill_jax.grpo.outcomes import outcomes

NAMES = tuple(ESTIMATORS)
SEEDS = st.integers(0, 10**6)


def values(table, name, **options):
    """The advantages [E, K] without penalties."""
    estimator = Estimator(name, **options)
    return np.broadcast_to(estimator(table), table.valid.shape)


def by_group(table, name, **options):
    """Yield each group's rewards and its advantages, of the first turns."""
    found = values(table, name, **options)[:, 0]
    for group in np.unique(table.group):
        members = table.group == group
        yield table.reward[members], found[members], members


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_rloo_compares_with_the_others(seed):
    for rewards, found, _ in by_group(random_table(seed), "rloo"):
        for i, value in enumerate(found):
            others = np.delete(rewards, i)
            wanted = rewards[i] - others.mean() if len(others) else 0.0
            assert value == pytest.approx(wanted, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_maxrl_is_relative_to_the_success_rate(seed):
    for rewards, found, _ in by_group(random_table(seed), "maxrl"):
        mean = rewards.mean()
        wanted = (rewards - mean) / mean if mean else np.zeros(len(rewards))
        np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ValueError, match=r"reward=-1: .*'maxrl'.* another estimator"):
        values(make_table([1, -1], [0, 0]), "maxrl")


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_passk_is_the_analytic_form_for_successes(k):
    size = 8
    for won in range(size + 1):
        rewards = np.arange(size) < won
        found = values(make_table(rewards, [0] * size), "passk", pass_k=k)[:, 0]
        lost = size - won
        rho = 1 - comb(lost, k) / comb(size, k)
        sigma = np.sqrt(rho * (1 - rho))
        if sigma == 0:
            assert (found == 0).all()
            continue
        np.testing.assert_allclose(found[:won], (1 - rho) / sigma)
        with_it = comb(lost - 1, k - 1) / comb(size - 1, k - 1)
        np.testing.assert_allclose(found[won:], (1 - rho - with_it) / sigma, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    rewards=st.lists(st.integers(-2, 3), min_size=1, max_size=6), k=st.integers(1, 7)
)
def test_passk_is_the_mean_over_subsets_for_graded_outcomes(rewards, k):
    rewards = np.array(rewards, float)
    size, k = len(rewards), min(k, len(rewards))
    found = values(make_table(rewards, [0] * size), "passk", pass_k=k)[:, 0]
    subsets = list(combinations(range(size), k))
    best = np.array([rewards[list(subset)].max() for subset in subsets])
    if len(set(best)) == 1:
        assert (found == 0).all()
        return
    for i in range(size):
        with_it = best[[i in subset for subset in subsets]].mean()
        wanted = (with_it - best.mean()) / best.std()
        assert found[i] == pytest.approx(wanted, abs=1e-9)


def naive_gigpo(t, omega, gamma, divide):
    """Lists of episodes and of visits."""
    out = np.zeros(t.valid.shape)
    lengths = (t.tokens > 0).sum(1)
    returns = [
        [t.reward[i] * gamma ** (lengths[i] - 1 - k) for k in range(lengths[i])]
        for i in range(len(t.reward))
    ]

    def compare(value, mates):
        if len(set(mates)) == 1:
            return 0.0
        spread = np.std(mates, ddof=1) + 1e-6 if divide else 1.0
        return (value - np.mean(mates)) / spread

    for i in range(len(t.reward)):
        mates = list(t.reward[t.group == t.group[i]])
        for k in range(lengths[i]):
            visits = [
                returns[j][m]
                for j in range(len(t.reward))
                for m in range(lengths[j])
                if t.anchor[j, m] == t.anchor[i, k]
            ]
            out[i, k] = compare(t.reward[i], mates)
            out[i, k] += omega * compare(returns[i][k], visits)
    return out


@settings(max_examples=40, deadline=None)
@given(
    seed=SEEDS,
    omega=st.sampled_from([0.0, 0.5, 1.0]),
    gamma=st.sampled_from([0.0, 0.9, 1.0]),
    divide=st.booleans(),
)
def test_gigpo_compares_episodes_and_visits_to_a_place(seed, omega, gamma, divide):
    t = random_table(seed)
    mode = "mean_std_norm" if divide else "mean_norm"
    found = values(t, "gigpo", omega=omega, gamma=gamma, mode=mode)
    wanted = naive_gigpo(t, omega, gamma, divide)
    present = t.tokens > 0
    np.testing.assert_allclose(found[present], wanted[present], rtol=1e-6, atol=1e-9)


def test_gigpo_pays_each_turn_with_what_came_after_it():
    rewards = np.array([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0]])
    anchor = np.array([[0, 1, 2], [0, 1, 2]])
    t = make_table([3.0, 0.0], [0, 0], rewards=rewards, anchor=anchor)
    found = values(t, "gigpo", gamma=0.5) - values(t, "dr_grpo")
    np.testing.assert_allclose(found[0], np.array([1.5, 1.0, 2.0]) / 2)


def test_a_place_that_nobody_else_saw_adds_nothing_and_is_counted():
    anchor = np.array([[0, 1, 2], [0, 0, 3]])
    t = make_table([1.0, 0.0], [0, 0], anchor=anchor)
    step = values(t, "gigpo") - values(t, "dr_grpo")
    assert (step[anchor > 0] == 0).all()
    assert (step[anchor == 0] != 0).all()
    assert anchor_metrics(t) == {
        "adv/anchor_size": 6 / 4,
        "adv/anchor_singletons": 3 / 6,
    }
    metrics = advantages(t, estimator=Estimator("gigpo")).metrics
    assert anchor_metrics(t).items() <= metrics.items()


def test_anchors_are_observations_within_a_group_whoever_made_them():
    episodes = make_batch(0, groups=2, size=2)
    for episode in episodes:
        for turn in episode.turns:
            turn.observation = "hall"
    episodes[0].turns[-1].observation = "attic"
    episodes[1].arm = 1
    anchor = outcomes(episodes).anchor
    names = [set(row[row >= 0]) for row in anchor]
    assert names[1] < names[0] or len(episodes[0].turns) == 1
    assert len(names[0] | names[1] | names[2] | names[3]) == 3
    assert not names[1] & names[2]


def naive_adjusted(rewards, effects):
    """b_i is the others' mean, had they played on the arm of i."""
    if len(set(rewards)) == 1:
        return np.zeros(len(rewards))
    out = []
    for i in range(len(rewards)):
        others = [j for j in range(len(rewards)) if j != i]
        baseline = np.mean([rewards[j] + effects[i] - effects[j] for j in others])
        out.append(rewards[i] - baseline)
    return np.array(out) / (np.std(rewards, ddof=1) + 1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS)
def test_arm_adjusted_takes_off_what_an_arm_is_known_to_add(seed):
    t = random_table(seed)
    for rewards, found, members in by_group(t, "arm_adjusted"):
        wanted = naive_adjusted(rewards, t.arm_effect[members])
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)


def test_arm_adjusted_has_less_variance_where_the_effect_is_known():
    """E[A^2] before division falls to s^2 G/(G-1), within 3% (20,000 groups)."""
    rng = np.random.default_rng(0)
    groups, size, effect = 20_000, 8, 0.6
    arm = np.tile(np.arange(size) % 2, (groups, 1))
    rewards = (rng.random((groups, size)) < 0.2 + effect * arm).astype(float).ravel()
    group = np.repeat(np.arange(groups), size)
    t = make_table(rewards, group, arm_effect=effect * arm.ravel())
    spread = rewards.reshape(groups, size).std(1, ddof=1).repeat(size)
    moments = []
    for name in ("arm_adjusted", "rloo"):
        found = values(t, name)[:, 0] * (spread if name == "arm_adjusted" else 1.0)
        moments.append((found**2).mean())
    assert moments[0] == pytest.approx(0.16 * size / (size - 1), rel=0.03)
    assert moments[1] > 1.5 * moments[0]


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from([n for n in NAMES if n != "gigpo"]))
def test_a_group_sums_to_zero(seed, name):
    for _, found, _ in by_group(random_table(seed), name, pass_k=2):
        assert found.sum() == pytest.approx(0, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(NAMES))
def test_ties_are_exactly_zero_and_have_no_signal(seed, name):
    t = random_table(seed)
    # A third of 0.1 three times over is not 0.1. Lengths tie, too, for gigpo.
    tied = t.group == t.group[0]
    reward, rewards = t.reward.copy(), t.rewards.copy()
    reward[tied], rewards[tied] = 0.1, 0.1
    t = replace(t, reward=reward, rewards=rewards)
    gamma = 0.0 if name == "gigpo" else 0.95
    found = advantages(t, estimator=Estimator(name, gamma=gamma), penalty=0.5)
    assert not found.has_signal[tied].any()
    np.testing.assert_array_equal(found.values[tied], -0.5 * ~t.valid[tied])


@pytest.mark.parametrize("name", NAMES)
def test_what_adds_up_to_the_same_but_for_rounding_ties(name):
    rewards = np.array([[0.1, 0.2, 0.7], [0.7, 0.2, 0.1], [0.1, 0.7, 0.2]])
    reward = rewards.cumsum(1)[:, -1]
    assert len(set(reward)) > 1
    # Where passk compares rewards of two ranks, a failure before them.
    failed = [0.0] if name == "passk" else []
    t = make_table(
        [*failed, *reward],
        [0] * (len(failed) + 3),
        arm_effect=np.array([*failed, 0.2, 0.0, 0.0]),
        anchor=np.full((len(failed) + 3, 3), -1),
    )
    assert (values(t, name, pass_k=2) == 0).all()


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(NAMES))
def test_the_order_of_episodes_does_not_matter(seed, name):
    t = random_table(seed)
    order = np.random.default_rng(seed).permutation(len(t.reward))
    again = values(reorder(t, order), name, pass_k=2)
    np.testing.assert_allclose(again, values(t, name, pass_k=2)[order], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, name=st.sampled_from(NAMES), divide=st.booleans())
def test_scale_free_means_that_rewards_may_be_multiplied(seed, name, divide):
    t = random_table(seed)
    mode = "mean_std_norm" if divide else "mean_norm"
    estimator = Estimator(name, mode=mode)
    plain, ten = estimator(t), estimator(t.scaled(10.0))
    factor = 1 if estimator.scale_free else 10
    # Standard deviations have 1e-6 added, which is not multiplied.
    np.testing.assert_allclose(ten, factor * plain, rtol=1e-4, atol=1e-4)


def test_winners_of_a_group_that_won_still_teach_gigpo_to_be_quick():
    rewards = np.array([[0, 1.0, 0], [0, 0, 1.0]])
    tokens = np.array([[1, 1, 0], [1, 1, 1]])
    anchor = np.array([[0, 1, -1], [0, 1, 2]])
    t = make_table([1, 1], [0, 0], tokens=tokens, rewards=rewards, anchor=anchor)
    assert advantages(t, estimator=Estimator("gigpo")).has_signal.all()
    assert not advantages(t, estimator=Estimator("grpo")).has_signal.any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"name": "ppo"}, "estimator='ppo': choose from grpo, dr_grpo, rloo"),
        ({"pass_k": 0}, "pass_k=0"),
        ({"gamma": 1.5}, "gamma=1.5"),
        ({"mode": "std"}, "mode='std'"),
    ],
)
def test_impossible_estimators_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Estimator(**options)
