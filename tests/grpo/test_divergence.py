"""Estimates of the KL divergence: their means and their gradients, exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loss_cases import random_batch

from reskill_jax.grpo.divergence import k1, k2, k3
from reskill_jax.grpo.losses import grpo_loss


def dirichlet(size=6):
    """Two distributions over as many tokens, as log-probs."""
    p, q = np.random.default_rng(0).dirichlet(np.full(size, 5.0), size=2)
    return jnp.log(p), jnp.log(q)


@pytest.mark.parametrize("estimator", [k1, k3])
def test_k1_and_k3_are_the_divergence_on_average(estimator):
    p, q = dirichlet()
    exact = jnp.sum(jnp.exp(p) * (p - q))
    mean = jnp.sum(jnp.exp(p) * estimator(p, q))  # over all tokens, exactly
    assert float(mean) == pytest.approx(float(exact), rel=1e-4)


@pytest.mark.parametrize(
    ("estimator", "divergence"),
    [
        (k1, lambda p, q: 0.0 * p[0]),
        (k2, lambda p, q: jnp.sum(jnp.exp(p) * (p - q))),
        (k3, lambda p, q: jnp.sum(jnp.exp(q) * (q - p))),
    ],
)
def test_as_a_loss_each_has_the_mean_gradient_of_a_divergence(estimator, divergence):
    scores, q = dirichlet()

    def mean(x):
        p = jax.nn.log_softmax(x)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(p)) * estimator(p, q))

    found = jax.grad(mean)(scores)
    exact = jax.grad(lambda x: divergence(jax.nn.log_softmax(x), q))(scores)
    np.testing.assert_allclose(found, exact, atol=1e-6)


def test_estimates_are_bounded():
    low, high = jnp.float32(-60), jnp.float32(-1)
    assert k3(low, high) == k3(high, low) == 10
    assert k2(low, high) == k2(high, low) == 200
    assert k1(high, low) == -k1(low, high) == 20
    assert k1(high, high) == k2(high, high) == k3(high, high) == 0


def test_the_loss_takes_the_estimator_that_is_named():
    logprobs, batch = random_batch(4)
    mask = batch.packed.mask
    plain, _ = grpo_loss(logprobs, batch, kl_coef=0.0)
    for name, estimator in (("k2", k2), ("k3", k3)):
        total, _ = grpo_loss(logprobs, batch, kl_coef=0.3, kl_estimator=name)
        values = np.asarray(estimator(logprobs, batch.reference_logprobs)) * mask
        expected = 0.3 * (batch.weights * values).sum()
        assert float(total - plain) == pytest.approx(expected, rel=1e-3)
