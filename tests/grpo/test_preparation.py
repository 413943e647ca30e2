"""KL in the reward, responses that are too long, and several epochs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from grpo_cases import init_params, logprob_fn, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from update_cases import (
    SGD,
    assert_same,
    assert_trees_equal_flat_rows,
    compiled_update,
    train,
)

from reskill_jax.grpo.optimizer import init_state
from reskill_jax.grpo.overlong import cut_turns, soft_penalties, without_turns
from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.preparation import make_prepare
from reskill_jax.grpo.schedules import make_schedule
from reskill_jax.grpo.update import _minibatches, make_update, split_groups

REWARD = {"kl_in": "reward", "kl_estimator": "k1"}


def cut_some(episodes, seed=0):
    """The same episodes; the limit cut some of their responses."""
    rng = np.random.default_rng(seed)
    for episode in episodes:
        for turn in episode.turns:
            turn.stopped = bool(rng.random() < 0.7)
    return episodes


@functools.cache
def prepare_reward(kl_coef):
    return make_prepare(
        logprob_fn,
        aggregation="episode",
        longest_episode=0,
        old_logprobs="sampler",
        kl_coef=kl_coef,
        kl_in="reward",
        importance_cap=0.0,
        token_mask=(),
        episode_mask=(),
    )


def test_kl_in_the_reward_lowers_the_advantage_of_each_turn_by_its_own():
    episodes = make_batch(0)
    packed = pack(episodes, buckets=(64,), tokens_per_microbatch=64 * 8)
    shape = len(episodes), max(len(e.turns) for e in episodes)
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    reference = init_params(1)
    prepared = prepare_reward(0.2)(
        packed,
        values,
        groups=[e.group for e in episodes],
        params=init_params(),
        reference_params=reference,
    )
    score = jax.jit(logprob_fn)
    for batch in prepared.microbatches:
        assert batch.reference_logprobs is None
        p, scores = batch.packed, np.asarray(score(reference, batch.packed), float)
        for at in zip(*np.nonzero(p.mask), strict=True):
            number, index = int(p.episode[at]), int(p.turn[at])
            own = (p.episode == number) & (p.turn == index) & (p.mask > 0)
            kl = (p.sampler_logprobs[own] - scores[own]).sum()
            expected = values[number, index] - 0.2 * kl
            assert float(batch.advantages[at]) == pytest.approx(expected, rel=1e-4)
        assert not np.asarray(batch.advantages)[p.mask == 0].any()


def test_kl_in_the_reward_is_a_gradient_away_from_the_reference_alone():
    """There is nothing else to learn."""
    episodes = make_batch(5, reward=1.0)
    options = {"invalid_penalty": 0.0, "kl_coef": 0.3, **REWARD}
    update = compiled_update(
        logprob_fn, SGD, frozenset((options | {"old_logprobs": "recompute"}).items())
    )
    same, metrics = update(
        init_state(init_params(), SGD), init_params(), episodes, seed=0
    )
    assert metrics["grpo/kl"] == pytest.approx(0, abs=1e-6)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        same.params,
        init_params(),
    )
    _, other = update(init_state(init_params(), SGD), init_params(1), episodes, seed=0)
    assert other["update/grad_norm"] > 1e-3


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_with_kl_in_the_reward_trees_equal_flat_rows(seed):
    assert_trees_equal_flat_rows(make_batch(seed), kl_coef=0.1, **REWARD)


def test_soft_penalties_rise_from_the_buffer_to_the_limit():
    (episode,) = make_batch(0, groups=1, size=1)
    lengths = [1, 60, 80, 90, 100]
    episode.turns = [
        dataclasses.replace(episode.turns[0], response=np.zeros(n, np.int32))
        for n in lengths
    ]
    found = soft_penalties([episode], longest=100, buffer=0.2, penalty=3.0)
    # DAPO, equation 13: min(0, -(L - (L_max - L_buffer)) / L_buffer), times 3
    expected = [3 * max(0.0, (n - 80) / 20) for n in lengths]
    np.testing.assert_allclose(found, [expected])


def test_penalties_lower_advantages_of_long_turns():
    options = {"kl_coef": 0.0, "invalid_penalty": 0.0}
    tied = make_batch(5, reward=1.0)
    _, free = train(tied, **options)
    assert free["update/grad_norm"] == 0
    limits = {"longest_response": 4, "overlong_buffer": 0.5}
    _, charged = train(tied, overlong="penalty", **limits, **options)
    assert charged["update/grad_norm"] > 0


def test_cut_responses_leave_mask_and_normaliser():
    episodes = cut_some(make_batch(1))
    cut = cut_turns(episodes)
    assert cut.any()
    (packed,) = pack(episodes, buckets=[64], tokens_per_microbatch=64 * 20)
    after = without_turns(packed, cut)
    for at in np.ndindex(packed.mask.shape):
        gone = packed.mask[at] and cut[packed.episode[at], packed.turn[at]]
        assert after.mask[at] == (0 if gone else packed.mask[at])


def test_masking_cut_responses_is_as_if_they_had_not_been_asked_for():
    """The rewards of their episodes still count."""
    episodes = cut_some(make_batch(1))
    for episode in episodes:
        episode.turns[0].stopped = True  # or it would leave its group
    masked, metrics = train(episodes, overlong="mask")
    assert 0 < metrics["grpo/overlong_tokens"] < 1
    for episode in episodes:
        episode.turns = [turn for turn in episode.turns if turn.stopped]
    other, _ = train(episodes)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6),
        masked,
        other,
    )


def test_masked_trees_equal_flat_rows_and_microbatches_do_not_matter():
    assert_trees_equal_flat_rows(cut_some(make_batch(2)), overlong="mask")
    whole = train(cut_some(make_batch(2)), overlong="mask")
    cut = train(
        cut_some(make_batch(2)),
        overlong="mask",
        buckets=(32, 64),
        tokens_per_microbatch=128,
    )
    assert_same(whole, cut)


def test_epochs_take_all_minibatches_again_in_another_order():
    episodes, reference = make_batch(9, groups=4), init_params(1)
    options = {"minibatches": 2, "epochs": 3, "learning_rate": make_schedule(
        1.0, kind="linear", decay=10
    )}  # fmt: skip
    update = compiled_update(logprob_fn, SGD, frozenset(options.items()))
    state, metrics = update(init_state(init_params(), SGD), reference, episodes, seed=7)
    again, _ = update(init_state(init_params(), SGD), reference, episodes, seed=7)
    assert int(state.step) == 6
    assert metrics["grpo/learning_rate"] == pytest.approx(0.5)  # of the sixth step
    jax.tree.map(np.testing.assert_array_equal, state.params, again.params)
    once, _ = train(episodes, minibatches=2, seed=7)
    assert not np.allclose(once["out"], state.params["out"])


def test_epochs_shuffle_anew_from_the_seed():
    groups = np.repeat(np.arange(8), 2)
    parts = [p.tolist() for p in _minibatches(groups, 2, 3, seed=5)]
    epochs = [parts[:2], parts[2:4], parts[4:]]
    assert epochs[0] == [p.tolist() for p in split_groups(groups, 2, 5)]
    for epoch in epochs:
        assert sorted(i for part in epoch for i in part) == list(range(16))
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kl_in": "reward"}, "kl_estimator='k3' has no meaning with kl_in='reward'"),
        ({"kl_estimator": "k1"}, "kl_estimator='k1' with kl_in='loss'"),
        ({"overlong": "drop"}, "overlong='drop': choose one of 'none'"),
        ({"loss": "ppo"}, "loss='ppo': choose one of 'clip'"),
    ],
)
def test_what_does_not_fit_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make_update(logprob_fn, SGD, buckets=(64,), tokens_per_microbatch=64, **options)
