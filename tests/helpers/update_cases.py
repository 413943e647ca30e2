"""One update of the tiny model, and what any two ways of computing it must share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from grpo_cases import flatten, init_params, logprob_fn
from jax.flatten_util import ravel_pytree

from reskill_jax.grpo.optimizer import init_state
from reskill_jax.grpo.update import make_update

SGD = optax.sgd(1.0)  # new weights = old weights - gradient
DEFAULTS = {"buckets": (64,), "tokens_per_microbatch": 512, "kl_coef": 0.05}


@functools.cache
def compiled_update(model, tx, options):
    """One update per set of options, so that its compiled steps are shared."""
    return make_update(model, tx, **(DEFAULTS | dict(options)))


def train(episodes, *, tx=SGD, model=logprob_fn, params=None, seed=0, **options):
    """One update from given weights; return (new weights, metrics)."""
    params = init_params() if params is None else params
    update = compiled_update(model, tx, frozenset(options.items()))
    state = init_state(jax.tree.map(jnp.copy, params), tx)
    reference = jax.tree.map(lambda x: 0.9 * x, params)
    state, metrics = update(state, reference, episodes, seed=seed)
    return state.params, metrics


def assert_same(first, second):
    """Equal weights and metrics, but for rounding."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
        first[0],
        second[0],
    )
    for name, value in first[1].items():
        if name.startswith(("grpo/", "adv/", "rollout/logprob_")):
            assert second[1][name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


def assert_trees_equal_flat_rows(episodes, **options):
    """Gradients (by their norm) and metrics are the same within 1e-5 of their size."""
    steep = {"tx": optax.sgd(1e4), **options}  # the weights' own digits are lost in it
    trees = train(episodes, **steep)
    flat = train([flatten(episode) for episode in episodes], **steep)
    assert trees[1]["batch/tokens"] < flat[1]["batch/tokens"]
    before = options.get("params", init_params())
    found, wanted, apart = (
        np.linalg.norm(ravel_pytree(a)[0] - ravel_pytree(b)[0])
        for a, b in ((trees[0], before), (flat[0], before), (trees[0], flat[0]))
    )
    assert min(found, wanted) > 0
    assert apart <= 1e-5 * wanted
    for name, value in flat[1].items():
        if name.startswith(("grpo/", "adv/", "rollout/logprob_")):
            assert trees[1][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
