import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from grpo_cases import flatten, init_params, logprob_fn, make_batch

from reskill_jax.grpo.optimizer import init_state, make_optimizer
from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.supervised import make_supervised_update

BUCKETS = (32, 64, 128)


def fit_once(episodes, tokens, tx):
    update = make_supervised_update(logprob_fn, tx)
    batches = pack(episodes, buckets=BUCKETS, tokens_per_microbatch=tokens)
    state, metrics = update(init_state(init_params(), tx), batches)
    return state.params, metrics


@pytest.mark.parametrize("tokens", [128, 1024])
@pytest.mark.parametrize("flat", [False, True])
def test_step_follows_the_mean_over_demonstrated_tokens(tokens, flat):
    episodes = make_batch(0)
    (packed,) = pack(episodes, buckets=[128], tokens_per_microbatch=128 * 12)
    mask = packed.mask

    def mean_nll(params):
        return -jnp.sum(logprob_fn(params, packed) * mask) / jnp.sum(mask)

    params = init_params()
    loss, grads = jax.value_and_grad(mean_nll)(params)
    if flat:
        episodes = [flatten(episode) for episode in episodes]
    new, metrics = fit_once(episodes, tokens, optax.sgd(1.0))
    assert metrics["supervised/loss"] == pytest.approx(float(loss), rel=1e-5)
    jax.tree.map(
        lambda a, p, g: np.testing.assert_allclose(a, p - g, rtol=1e-4, atol=1e-6),
        new,
        params,
        grads,
    )
    p = np.exp(np.asarray(logprob_fn(params, packed)))[mask > 0]
    assert metrics["supervised/sure"] == pytest.approx((p > 0.5).mean())


def test_demonstrations_are_learnt():
    tx = make_optimizer(3e-2, weight_decay=0.0)
    update = make_supervised_update(logprob_fn, tx)
    batches = pack(
        make_batch(1, groups=1, size=3), buckets=BUCKETS, tokens_per_microbatch=128
    )
    state = init_state(init_params(), tx)
    losses, sure = [], []
    for _ in range(60):
        state, metrics = update(state, batches)
        losses.append(metrics["supervised/loss"])
        sure.append(metrics["supervised/sure"])
    assert losses[0] > 2
    assert losses[-1] < 0.3
    assert sure[-1] > 0.9
    assert int(state.step) == 60
