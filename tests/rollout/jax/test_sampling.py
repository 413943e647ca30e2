import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from reskill_jax.rollout.jax.sampling import sample

LOGITS = jnp.array([2.0, 1.0, 0.5, -1.0, 3.0, 0.0])
draw = jax.jit(sample)


def many(count, temperature, top_p):
    full = lambda value: jnp.full(count, value, jnp.float32)  # noqa: E731
    seeds = jnp.stack([jnp.zeros(count), jnp.arange(count)], 1).astype(jnp.uint32)
    rows = jnp.tile(LOGITS, (count, 1))
    index = jnp.zeros(count, int)
    return draw(rows, full(temperature), full(top_p), seeds, index)


def test_draws_follow_the_tempered_softmax():
    tokens, logprobs = many(4000, 0.8, 1.0)
    expected = scipy.special.softmax(np.asarray(LOGITS, float) / 0.8)
    observed = np.bincount(tokens, minlength=6)
    assert scipy.stats.chisquare(observed, expected * 4000).pvalue > 1e-3
    np.testing.assert_allclose(logprobs, np.log(expected)[tokens], atol=1e-6)


def test_the_nucleus_is_the_smallest_set_with_enough_probability():
    # Probabilities .61 .22 .08 ...: one token reaches .5, two .8, three .85.
    for top_p, size in ((0.5, 1), (0.8, 2), (0.85, 3)):
        tokens, logprobs = many(2000, 1.0, top_p)
        assert set(np.asarray(tokens)) == set(np.argsort(-LOGITS)[:size].tolist())
        expected = jax.nn.log_softmax(LOGITS)[tokens]  # of the uncut distribution
        np.testing.assert_allclose(logprobs, expected, atol=1e-6)


@pytest.mark.parametrize("top_p", [1.0, 0.1])
def test_zero_temperature_is_greedy_with_logprobs_at_one(top_p):
    tokens, logprobs = many(5, 0.0, top_p)
    assert set(np.asarray(tokens)) == {4}
    np.testing.assert_allclose(logprobs, jax.nn.log_softmax(LOGITS)[4], atol=1e-6)


def test_a_row_does_not_depend_on_the_others():
    rng = np.random.default_rng(0)
    rows = jnp.asarray(rng.normal(size=(8, 50)).astype(np.float32))
    temperature = jnp.array([0, 1, 0.5, 2, 1, 0, 1, 1], jnp.float32)
    top_p = jnp.array([1, 1, 0.9, 1, 0.5, 1, 1, 1], jnp.float32)
    seeds = jnp.asarray(rng.integers(0, 2**32, (8, 2)), jnp.uint32)
    args = (rows, temperature, top_p, seeds, jnp.arange(8))
    tokens, logprobs = draw(*args)
    order = np.array([3, 1, 7, 0, 0, 6, 1, 1])  # no row with top_p below 1
    again = draw(*(x[order] for x in args))
    np.testing.assert_array_equal(tokens[order], again[0])
    np.testing.assert_array_equal(logprobs[order], again[1])
