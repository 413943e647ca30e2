"""Surrogates against loops over tokens, and what their gradients are."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from grpo_cases import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import random_batch
from update_cases import assert_same, assert_trees_equal_flat_rows, train

from reskill_jax.grpo.losses import grpo_loss
from reskill_jax.grpo.surrogates import LOSSES, Limits
from reskill_jax.grpo.weighted_metrics import reduce_metrics

LIMITS = Limits(clip_low=0.1, clip_high=0.3, dual_clip=3.0, dppo_delta=0.05)
OPTIONS = {"kl_coef": 0.0, **LIMITS._asdict()}


@functools.cache
def compiled(loss):
    """(log-probs, batch) -> ((loss, metrics), gradients)."""
    return jax.jit(
        jax.value_and_grad(
            functools.partial(grpo_loss, loss=loss, **OPTIONS), has_aux=True
        )
    )


def of_turn(packed, at):
    return (
        (packed.episode == packed.episode[at])
        & (packed.turn == packed.turn[at])
        & (packed.mask > 0)
    )


def oracle(loss, logprobs, batch):
    """Values, d values / d log-probs, and who is stopped low and high; by token."""
    values, slopes, low, high = (np.zeros(logprobs.shape) for _ in range(4))
    for at in zip(*np.nonzero(batch.packed.mask), strict=True):
        a, new, old = (
            float(x[at]) for x in (batch.advantages, logprobs, batch.old_logprobs)
        )
        r = np.exp(np.clip(new - old, -20, 20))
        if loss == "dppo_tv":
            moved = np.exp(new) - np.exp(old)
            high[at] = a > 0 and moved > LIMITS.dppo_delta
            low[at] = a < 0 and -moved > LIMITS.dppo_delta
            values[at] = 0.0 if high[at] or low[at] else -r * a
            slopes[at] = values[at] * (abs(new - old) < 20)
            continue
        if loss == "gspo":
            own = of_turn(batch.packed, at)
            difference = logprobs[own].astype(float) - batch.old_logprobs[own]
            r = np.exp(np.clip(difference, -20, 20).mean())
        high[at] = a > 0 and r > 1 + LIMITS.clip_high
        low[at] = a < 0 and r < 1 - LIMITS.clip_low
        bounded = min(max(r, 1 - LIMITS.clip_low), 1 + LIMITS.clip_high)
        gain = min(r * a, bounded * a)
        dual = a < 0 and gain < LIMITS.dual_clip * a
        values[at] = -LIMITS.dual_clip * a if dual else -gain
        slopes[at] = 0.0 if dual or high[at] or low[at] else -r * a
        slopes[at] *= loss == "gspo" or abs(new - old) < 20
    return values, slopes, low, high


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(sorted(LOSSES)),
    spread=st.sampled_from([0.1, 1.0, 12.0]),
)
def test_values_gradients_and_metrics_equal_the_oracle(seed, loss, spread):
    logprobs, batch = random_batch(seed, spread=spread, reference=False)
    logprobs, old = np.minimum(logprobs, 0), np.minimum(batch.old_logprobs, 0)
    batch = dataclasses.replace(batch, old_logprobs=old)
    (total, metrics), grads = compiled(loss)(logprobs, batch)
    values, slopes, low, high = oracle(loss, logprobs, batch)
    size = np.abs(batch.weights * values).sum()
    assert float(total) == pytest.approx(
        (batch.weights * values).sum(), abs=1e-4 * size
    )
    np.testing.assert_allclose(
        grads, batch.weights * slopes, rtol=1e-3, atol=1e-5 * np.abs(grads).max()
    )
    figures, n = reduce_metrics([metrics]), batch.packed.mask.sum()
    assert figures["grpo/clip_fraction_low"] == pytest.approx(low.sum() / n)
    assert figures["grpo/clip_fraction_high"] == pytest.approx(high.sum() / n)
    assert figures["grpo/clip_fraction"] == pytest.approx((low + high).sum() / n)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_both_ends_occur_in_the_oracle_cases(loss):
    logprobs, batch = random_batch(0, reference=False)
    _, _, low, high = oracle(loss, logprobs, batch)
    assert low.any()
    assert high.any()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_gradient_on_policy_is_the_policy_gradient(loss):
    logprobs, batch = random_batch(1, reference=False)
    batch = dataclasses.replace(batch, old_logprobs=logprobs)
    _, grads = compiled(loss)(logprobs, batch)
    np.testing.assert_allclose(grads, -batch.advantages * batch.weights, rtol=1e-5)


def test_total_variation_lets_rare_tokens_move_and_holds_common_ones():
    """Three times as likely is no matter from 1e-4 on, and is one from 0.3 on."""
    _, batch = random_batch(2, reference=False)
    ones = batch.packed.mask
    for old, new, dropped in ((1e-4, 3e-4, False), (0.3, 0.9, True)):
        changed = dataclasses.replace(
            batch, advantages=ones, old_logprobs=np.log(old) * ones
        )
        now = (np.log(new) * ones).astype(np.float32)
        _, grads = compiled("dppo_tv")(now, changed)
        assert np.asarray(grads).any() != dropped


@settings(max_examples=3, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from(["gspo", "dppo_tv"]),
    aggregation=st.sampled_from(["turn", "prompt", "constant"]),
)
def test_trees_equal_one_row_per_turn(seed, loss, aggregation):
    assert_trees_equal_flat_rows(
        make_batch(seed),
        loss=loss,
        aggregation=aggregation,
        longest_episode=40,
        clip_low=0.05,
        clip_high=0.05,
    )


def test_microbatches_do_not_matter():
    episodes, options = make_batch(4), {"loss": "gspo", "aggregation": "turn"}
    whole = train(episodes, **options)
    cut = train(episodes, buckets=(32, 64), tokens_per_microbatch=128, **options)
    assert cut[1]["batch/microbatches"] > whole[1]["batch/microbatches"]
    assert_same(whole, cut)
