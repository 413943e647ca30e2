from dataclasses import replace

import numpy as np
import pytest
from grpo_cases import make_batch, make_table, random_table, reorder
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.grpo.advantages import advantages, reference_advantages, whiten
from reskill_jax.grpo.estimators import Estimator
from reskill_jax.grpo.outcomes import outcomes

DR_GRPO = Estimator("dr_grpo")


def naive_corrected(t, penalty, divide):
    out = np.zeros(t.valid.shape)
    for i in range(len(t.reward)):
        mates = [t.reward[j] for j in range(len(t.reward)) if t.group[j] == t.group[i]]
        if len(set(mates)) > 1:
            out[i] = t.reward[i] - np.mean(mates)
            if divide:
                out[i] /= np.std(mates, ddof=1) + 1e-6
        for k in range(t.valid.shape[1]):
            if not t.valid[i, k]:
                out[i, k] -= penalty
    return out


def naive_reference(t, penalty):
    """Rows of turns, in the official order of operations."""
    rows = [
        (i, k, t.reward[i] - penalty * (not t.valid[i, k]), t.tokens[i, k])
        for i in range(len(t.reward))
        for k in range(t.valid.shape[1])
        if t.tokens[i, k]
    ]
    first = {}
    for i, _, score, _ in rows:
        first.setdefault(i, score)
    out = np.zeros(t.valid.shape)
    for i, k, score, _ in rows:
        mates = [s for j, s in first.items() if t.group[j] == t.group[i]]
        mean, std = (np.mean(mates), np.std(mates, ddof=1)) if mates[1:] else (0.0, 1.0)
        out[i, k] = (score - mean) / (std + 1e-6)
    tokens = np.concatenate([np.full(n, out[i, k]) for i, k, _, n in rows])
    return out, (out - tokens.mean()) / np.sqrt(tokens.var() + 1e-8)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), divide=st.booleans())
def test_corrected_equals_oracle(seed, divide):
    t = random_table(seed)
    estimator = Estimator("grpo" if divide else "dr_grpo")
    values = advantages(t, estimator=estimator, penalty=0.1).values
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, naive_corrected(t, 0.1, divide), rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_reference_equals_oracle(seed):
    t = random_table(seed)
    raw, _ = reference_advantages(t, std=True, penalty=0.1)
    values = advantages(t, rule="reference", penalty=0.1).values
    expected_raw, expected = naive_reference(t, 0.1)
    present = t.tokens > 0
    # Tied groups divide rounding errors of the mean by 1e-6.
    np.testing.assert_allclose(raw[present], expected_raw[present], 1e-6, 1e-8)
    np.testing.assert_allclose(values[present], expected[present], 1e-4, 1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_official_reward_is_ten_for_a_success_less_its_penalty(seed):
    t = random_table(seed)
    won = replace(t, reward=np.minimum(t.reward, 1.0))
    ten = replace(won, reward=10 * won.reward)
    raw, expected = naive_reference(ten, 0.1)
    values, metrics, _ = advantages(
        won, rule="reference", reward_scale=10.0, penalty=0.1
    )
    present = t.tokens > 0
    np.testing.assert_allclose(values[present], expected[present], 1e-4, 1e-6)
    np.testing.assert_allclose(
        metrics["adv/abs_max"], np.abs(raw[present]).max(), rtol=1e-6
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_corrected_advantages_keep_the_ratio_of_reward_and_penalty(seed):
    t = random_table(seed)
    small = advantages(t, penalty=0.01).values
    large = advantages(t, penalty=0.1, reward_scale=10.0).values
    np.testing.assert_allclose(large, small, rtol=1e-5, atol=1e-7)
    plain = advantages(t, estimator=DR_GRPO, penalty=0.01).values
    grown = advantages(t, estimator=DR_GRPO, penalty=0.1, reward_scale=10.0).values
    np.testing.assert_allclose(grown, 10 * plain, rtol=1e-5, atol=1e-6)


def test_tied_groups_get_exactly_zero_and_are_counted():
    # 0.1 + 0.1 + 0.1 is not 0.3: the tie must be seen through the rounded mean.
    t = make_table([0.1] * 3 + [1, 0, 0] + [5.0], [0] * 3 + [1] * 3 + [2])
    values, metrics, _ = advantages(t)
    assert (values[[0, 1, 2, 6]] == 0).all()
    assert (values[3:6] != 0).all()
    assert metrics["adv/zero_std_groups"] == 2  # a lone episode has no baseline either


def test_penalty_falls_on_invalid_turns_only_and_after_normalisation():
    valid = np.ones((4, 3), bool)
    valid[0, 0] = valid[2, 1] = False
    t = make_table([1, 0, 0, 0], [0, 0, 1, 1], valid)
    with_penalty = advantages(t, penalty=0.25).values
    without = advantages(t, penalty=0.0).values
    np.testing.assert_allclose(without - with_penalty, 0.25 * ~valid, atol=1e-7)
    assert with_penalty[2].tolist() == [0, -0.25, 0]


def test_reference_leaks_the_first_turn_and_blows_up_in_tied_groups():
    valid = np.ones((8, 3), bool)
    valid[2, 1] = False
    t = make_table([1, 0, 1, 0] + [0] * 4, [0] * 4 + [1] * 4, valid)
    valid_late = valid.copy()
    valid_late[5, 2] = False  # in the tied group, not at a first turn
    blown = make_table(t.reward, t.group, valid_late)
    raw, tied = reference_advantages(blown, std=True, penalty=0.1)
    assert np.unique(blown.group[tied]).tolist() == [1]
    assert raw[5, 2] == pytest.approx(-1e5)
    calm = advantages(t, rule="reference").metrics
    metrics = advantages(blown, rule="reference").metrics
    assert calm["adv/abs_max"] < 2
    assert metrics["adv/abs_max"] == pytest.approx(1e5)

    leak = valid.copy()
    leak[0, 0] = False  # an invalid first turn moves the baseline of the whole group
    leaky, _ = reference_advantages(
        make_table(t.reward, t.group, leak), std=True, penalty=0.1
    )
    sound, _ = reference_advantages(t, std=True, penalty=0.1)
    assert leaky[1, 0] != sound[1, 0]
    corrected, metrics, _ = advantages(blown)
    assert metrics["adv/abs_max"] < 2
    assert corrected[5].tolist() == [0, 0, np.float32(-0.1)]


@pytest.mark.parametrize(
    ("tied", "invalid", "low", "high"),
    [(0, 0.0, 0.9, 1.1), (1, 0.0025, 1e-4, 1e-3), (4, 0.02, 2e-5, 2e-4)],
)
def test_one_blown_turn_removes_the_task_signal(tied, invalid, low, high):
    """16 x 8 episodes of 40 turns: spread of valid turns after whitening."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(16), 8)
    reward = np.where(group < tied, 0.0, 10.0 * (np.arange(128) % 8 < 3))
    valid = rng.random((128, 40)) >= invalid
    valid[:, 0] = True
    t = make_table(reward, group, valid, np.full((128, 40), 100))
    raw, _ = reference_advantages(t, std=True, penalty=0.1)
    values = whiten(raw, t.tokens)
    assert np.isclose(raw, -1e5).sum() == (~valid[group < tied]).sum()
    assert low < values[valid].std() < high


def test_whitening_weighs_turns_by_tokens():
    rng = np.random.default_rng(1)
    values, tokens = rng.normal(3, 2, (5, 4)), rng.integers(0, 6, (5, 4))
    flat = np.repeat(whiten(values, tokens).ravel(), tokens.ravel())
    assert flat.mean() == pytest.approx(0, abs=1e-9)
    assert flat.std() == pytest.approx(1, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(["corrected", "reference"]))
def test_order_of_episodes_does_not_matter(seed, rule):
    t = random_table(seed)
    order = np.random.default_rng(seed).permutation(len(t.reward))
    shuffled = reorder(t, order)
    values, metrics, _ = advantages(t, rule=rule)
    again, same, _ = advantages(shuffled, rule=rule)
    np.testing.assert_allclose(again, values[order], rtol=1e-4, atol=1e-5)
    assert same["adv/zero_std_groups"] == metrics["adv/zero_std_groups"]


def test_moments_are_over_response_tokens():
    t = random_table(4)
    values, metrics, _ = advantages(t)
    flat = np.repeat(values.ravel(), t.tokens.ravel())
    assert metrics["adv/mean"] == pytest.approx(flat.mean(), abs=1e-6)
    assert metrics["adv/std"] == pytest.approx(flat.std(), rel=1e-5)
    assert metrics["adv/abs_max"] == pytest.approx(np.abs(flat).max())


def test_table_of_episodes():
    episodes = make_batch(0)
    t = outcomes(episodes)
    for i, episode in enumerate(episodes):
        n = len(episode.turns)
        assert t.reward[i] == episode.reward
        assert t.group[i] == episode.group
        assert t.tokens[i, :n].tolist() == [len(x.response) for x in episode.turns]
        assert t.valid[i, :n].tolist() == [x.valid for x in episode.turns]
        assert t.valid[i, n:].all()
        assert not t.tokens[i, n:].any()


def test_unknown_options_name_the_key():
    t = random_table(0)
    with pytest.raises(ValueError, match=r"rule='paper'"):
        advantages(t, rule="paper")
    with pytest.raises(ValueError, match=r"estimator='rloo'.*'corrected'"):
        advantages(t, rule="reference", estimator=Estimator("rloo"))
