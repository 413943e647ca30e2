"""Masks for stale batches, against loops; what they do to an update."""

import numpy as np
import pytest
from grpo_cases import flatten, init_params, logprob_fn, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from update_cases import SGD, assert_same, assert_trees_equal_flat_rows, train

from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.staleness import effective_sample, importance, keep_close
from reskill_jax.grpo.update import make_update
from reskill_jax.grpo.weighted_metrics import reduce_metrics

TOKENS, EPISODES = (0.5, 1.6), (0.9, 1.1)


def batches_and_old(seed, tokens=128):
    packed = pack(make_batch(seed), buckets=(32, 64), tokens_per_microbatch=tokens)
    rng = np.random.default_rng(seed)
    old = [
        (p.sampler_logprobs + rng.normal(0, 0.5, p.mask.shape)).astype(np.float32)
        for p in packed
    ]
    return packed, old


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    token_mask=st.sampled_from([(), TOKENS]),
    episode_mask=st.sampled_from([(), EPISODES]),
)
def test_what_is_kept_is_what_the_definition_keeps(seed, token_mask, episode_mask):
    packed, old = batches_and_old(seed)
    rho = {}  # by episode, over rows and micro-batches
    for p, x in zip(packed, old, strict=True):
        for at in zip(*np.nonzero(p.mask), strict=True):
            own = np.exp(float(x[at]) - float(p.sampler_logprobs[at]))
            rho.setdefault(int(p.episode[at]), []).append(own)
    geometric = {e: np.exp(np.mean(np.log(own))) for e, own in rho.items()}

    def within(value, band):
        return not band or band[0] <= value <= band[1]

    kept, metrics = keep_close(
        packed, old, token_mask=token_mask, episode_mask=episode_mask
    )
    left = 0
    for p, after, x in zip(packed, kept, old, strict=True):
        assert after.mask.dtype == np.float32
        for at in np.ndindex(p.mask.shape):
            own = np.exp(float(x[at]) - float(p.sampler_logprobs[at]))
            expected = p.mask[at] > 0 and within(own, token_mask)
            expected &= p.mask[at] > 0 and within(
                geometric[int(p.episode[at])], episode_mask
            )
            assert bool(after.mask[at]) == bool(expected)
            left += bool(expected)
    figures = reduce_metrics([metrics])
    total = sum(map(len, rho.values()))
    gone = sum(not within(value, episode_mask) for value in geometric.values())
    assert figures["grpo/masked_tokens"] == pytest.approx(1 - left / total)
    assert figures["grpo/masked_episodes"] == pytest.approx(gone / len(geometric))


def test_weights_of_a_batch_and_their_effective_sample():
    (packed,) = pack(make_batch(0), buckets=[64], tokens_per_microbatch=64 * 20)
    rng = np.random.default_rng(0)
    drift = rng.normal(0, 0.3, packed.mask.shape).astype(np.float32)
    sums = importance(packed.sampler_logprobs + drift, packed)
    rho = np.exp(drift[packed.mask > 0])
    assert [float(x) for x in sums] == pytest.approx(
        [rho.sum(), (rho**2).sum(), len(rho)], rel=1e-4
    )
    share = effective_sample(rho.mean(), (rho**2).mean())
    assert share == pytest.approx(rho.sum() ** 2 / (rho**2).sum() / len(rho), rel=1e-6)
    assert effective_sample(1.0, 1.0) == 1
    assert effective_sample(0.0, 0.0) == 0


def on_policy(episodes):
    """The same episodes as the first weights would have sampled them."""
    (packed,) = pack(episodes, buckets=[64], tokens_per_microbatch=64 * 60)
    scores = np.asarray(logprob_fn(init_params(), packed))
    for number, episode in enumerate(episodes):
        for index, turn in enumerate(episode.turns):
            own = (packed.episode == number) & (packed.turn == index)
            turn.logprobs = scores[own & (packed.mask > 0)]
    return episodes


OPTIONS = {"old_logprobs": "recompute", "kl_coef": 0.0}


def test_masks_drop_what_has_drifted_and_nothing_else():
    fresh = on_policy(make_batch(3))
    plain = train(fresh, **OPTIONS)
    same = train(fresh, token_mask=(0.9, 1.1), episode_mask=(0.99, 1.01), **OPTIONS)
    assert same[1]["grpo/masked_tokens"] == same[1]["grpo/masked_episodes"] == 0
    assert same[1]["rollout/importance"] == pytest.approx(1, abs=1e-4)
    assert same[1]["rollout/effective_sample"] == pytest.approx(1, abs=1e-4)
    assert_same(plain, same)
    for turn in fresh[2].turns:
        turn.logprobs = turn.logprobs - 1  # its rho is e
    whole = train(fresh, episode_mask=(0.99, 1.01), **OPTIONS)
    assert whole[1]["grpo/masked_episodes"] == pytest.approx(1 / len(fresh))
    assert whole[1]["rollout/effective_sample"] < 1
    tokens = train(fresh, token_mask=(0.9, 1.1), **OPTIONS)
    assert tokens[1]["grpo/masked_tokens"] == whole[1]["grpo/masked_tokens"] > 0
    assert_same(
        (whole[0], {"grpo/loss": whole[1]["grpo/loss"]}), (tokens[0], tokens[1])
    )


def test_trees_equal_flat_rows_and_microbatches_do_not_matter():
    """With masks that drop some, and a whole episode."""
    options = {"token_mask": (0.3, 3.0), "episode_mask": (0.5, 2.0), **OPTIONS}
    assert_trees_equal_flat_rows(make_batch(1), **options)
    whole = train(make_batch(1), **options)
    assert 0 < whole[1]["grpo/masked_tokens"] < 1
    cut = train(make_batch(1), buckets=(32, 64), tokens_per_microbatch=128, **options)
    assert_same(whole, cut)
    flat = train([flatten(e) for e in make_batch(1)], **options)
    assert flat[1]["grpo/masked_episodes"] == whole[1]["grpo/masked_episodes"]


def test_a_minibatch_of_which_nothing_is_left_takes_no_step():
    new, metrics = train(make_batch(2), token_mask=(1.0, 1.0 + 1e-9), **OPTIONS)
    assert metrics["grpo/skipped_minibatches"] == 1
    assert metrics["grpo/masked_tokens"] == 1
    assert "grpo/loss" not in metrics
    for name, value in init_params().items():
        np.testing.assert_array_equal(new[name], value)


@pytest.mark.parametrize("name", ["token_mask", "episode_mask"])
def test_masks_need_recomputed_logprobs(name):
    with pytest.raises(ValueError, match=rf"{name}=.*needs old_logprobs='recompute'"):
        make_update(
            logprob_fn, SGD, buckets=(64,), tokens_per_microbatch=64, **{name: TOKENS}
        )


def test_of_no_turns_nothing_is_left_out():
    assert keep_close([], [], token_mask=(0.5, 2.0)) == ([], {})
