import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_cases import random_batch
from programs import get_config

from reskill_jax.build import loss_options
from reskill_jax.grpo.losses import grpo_loss
from reskill_jax.grpo.weighted_metrics import Max, Mean, reduce_metrics

OPTIONS = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0, "kl_coef": 0.1}


def naive_loss(logprobs, batch, *, clip_low, clip_high, dual_clip, kl_coef):
    """The loss token by token, and how many tokens were clipped either way."""
    total, clipped, dual, kls = 0.0, 0, 0, []
    for at in zip(*np.nonzero(batch.packed.mask), strict=True):
        lp, old = float(logprobs[at]), float(batch.old_logprobs[at])
        a = float(batch.advantages[at])
        ratio = np.exp(np.clip(lp - old, -20, 20))
        objective = min(ratio * a, min(max(ratio, 1 - clip_low), 1 + clip_high) * a)
        clipped += objective < ratio * a
        if a < 0 and objective < dual_clip * a:
            objective, dual = dual_clip * a, dual + 1
        delta = np.clip(float(batch.reference_logprobs[at]) - lp, -20, 20)
        kls.append(np.clip(np.exp(delta) - delta - 1, -10, 10))
        total += batch.weights[at] * (-objective + kl_coef * kls[-1])
    n = batch.packed.mask.sum()
    return total, clipped / n, dual / n, np.mean(kls)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), spread=st.sampled_from([0.1, 1.0, 12.0]))
def test_loss_equals_oracle(seed, spread):
    logprobs, batch = random_batch(seed, spread=spread)
    loss, metrics = grpo_loss(logprobs, batch, **OPTIONS)
    figures = reduce_metrics([metrics])
    total, clipped, dual, kl = naive_loss(logprobs, batch, **OPTIONS)
    np.testing.assert_allclose(loss, total, rtol=2e-4)
    np.testing.assert_allclose(figures["grpo/loss"], total, rtol=2e-4)
    np.testing.assert_allclose(figures["grpo/clip_fraction"], clipped, rtol=1e-5)
    halves = figures["grpo/clip_fraction_low"], figures["grpo/clip_fraction_high"]
    assert sum(halves) == pytest.approx(clipped)
    np.testing.assert_allclose(figures["grpo/dual_clip_fraction"], dual, rtol=1e-5)
    np.testing.assert_allclose(figures["grpo/kl"], kl, rtol=1e-4)


def test_dual_clip_and_clip_both_occur_in_the_oracle_cases():
    logprobs, batch = random_batch(0)
    _, clipped, dual, _ = naive_loss(logprobs, batch, **OPTIONS)
    assert clipped > 0.1
    assert dual > 0.02


def test_gradient_on_policy_is_the_policy_gradient():
    logprobs, batch = random_batch(1, reference=False)
    batch = dataclasses.replace(batch, old_logprobs=logprobs)
    grads = jax.grad(lambda x: grpo_loss(x, batch, **OPTIONS)[0])(logprobs)
    np.testing.assert_allclose(grads, -batch.advantages * batch.weights, rtol=1e-5)


def test_clipped_and_dual_clipped_tokens_have_no_gradient():
    logprobs, batch = random_batch(2, reference=False)
    grads = jax.grad(lambda x: grpo_loss(x, batch, **OPTIONS)[0])(logprobs)
    ratio, a = np.exp(logprobs - batch.old_logprobs), batch.advantages
    stopped = (a > 0) & (ratio > 1.28)
    stopped |= (a < 0) & ((ratio < 0.8) | (ratio > 3))
    active = (batch.packed.mask > 0) & ~stopped
    assert not np.asarray(grads)[stopped].any()
    assert np.asarray(grads)[active].all()


def test_a_configured_dual_clip_of_zero_is_no_bound():
    config = get_config()
    config.grpo.dual_clip = 0.0
    options = OPTIONS | {"dual_clip": loss_options(config)["dual_clip"]}
    logprobs, batch = random_batch(0)
    value = jax.value_and_grad(grpo_loss, has_aux=True)
    (loss, metrics), grads = value(logprobs, batch, **options)
    unbounded, _, dual, _ = naive_loss(logprobs, batch, **options)
    np.testing.assert_allclose(loss, unbounded, rtol=2e-4)
    assert reduce_metrics([metrics])["grpo/dual_clip_fraction"] == dual == 0
    assert np.isfinite(grads).all()


def test_padding_may_hold_anything():
    logprobs, batch = random_batch(3)
    dirty = np.where(batch.packed.mask > 0, logprobs, np.nan).astype(np.float32)
    clean = reduce_metrics([grpo_loss(logprobs, batch, **OPTIONS)[1]])
    assert reduce_metrics([grpo_loss(dirty, batch, **OPTIONS)[1]]) == clean


def test_without_reference_there_is_no_kl_term():
    logprobs, batch = random_batch(4, reference=False)
    loss, metrics = grpo_loss(logprobs, batch, **OPTIONS)
    assert "grpo/kl" not in metrics
    same, _ = grpo_loss(logprobs, batch, **(OPTIONS | {"kl_coef": 7.0}))
    assert loss == same


def test_importance_weights_are_the_ratio_of_trainer_to_sampler_up_to_their_cap():
    logprobs, batch = random_batch(6, reference=False)
    drift = batch.old_logprobs - batch.packed.sampler_logprobs
    ratio = np.exp(drift)
    cap = float(np.quantile(ratio[batch.packed.mask > 0], 0.7))
    weights = batch.weights * np.minimum(ratio, cap)
    expected, _ = grpo_loss(
        logprobs, dataclasses.replace(batch, weights=weights), **OPTIONS
    )
    loss, metrics = grpo_loss(logprobs, batch, **OPTIONS, importance_cap=cap)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    figures = reduce_metrics([metrics])
    assert figures["grpo/importance_capped"] == pytest.approx(0.3, abs=0.05)
    assert 0 < figures["grpo/importance"] <= cap


def test_importance_weights_leave_the_kl_term_alone():
    logprobs, batch = random_batch(7)
    batch = dataclasses.replace(batch, advantages=0 * batch.advantages)
    loss, _ = grpo_loss(logprobs, batch, **OPTIONS, importance_cap=0.5)
    assert loss == pytest.approx(float(grpo_loss(logprobs, batch, **OPTIONS)[0]))
    assert loss > 0


def test_agreement_with_the_engine():
    _, batch = random_batch(5, reference=False)
    packed = batch.packed
    shift = np.zeros(packed.mask.shape, np.float32)
    rows, columns = np.nonzero(packed.mask)
    shift[rows[:4], columns[:4]] = [0.0015, -0.0005, -0.0015, 0.5]
    _, metrics = grpo_loss(packed.sampler_logprobs + shift, batch, **OPTIONS)
    figures, n = reduce_metrics([metrics]), packed.mask.sum()
    assert figures["rollout/logprob_diff"] == pytest.approx(0.5035 / n, rel=1e-3)
    assert figures["rollout/logprob_diff_max"] == pytest.approx(0.5)
    assert figures["rollout/logprob_ratio_close"] == pytest.approx(1 - 2 / n)


def test_metrics_reduce_by_weight_and_maximum():
    parts = [
        {"a": Mean(jnp.float32(6), jnp.float32(3)), "m": Max(jnp.float32(-2))},
        {"a": Mean(0.0, 1.0), "m": Max(-5.0), "empty": Mean(0.0, 0.0)},
    ]
    assert reduce_metrics(parts) == {"a": 1.5, "m": -2.0, "empty": 0.0}
