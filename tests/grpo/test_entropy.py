"""The exact entropy and its bonus, against dense logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from grpo_cases import init_params, logprob_fn, make_batch, next_logprobs, visible
from loss_cases import random_batch
from update_cases import SGD, assert_same, assert_trees_equal_flat_rows, train

from reskill_jax.grpo.aggregation import token_weights
from reskill_jax.grpo.losses import grpo_loss
from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.scoring import make_scores
from reskill_jax.grpo.update import make_update
from reskill_jax.grpo.weighted_metrics import reduce_metrics
from reskill_jax.policy import decoder
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder_config import DecoderConfig

CONFIG = DecoderConfig(
    vocab_size=16,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
)


def tiny_scores(params, packed):
    """Log-probs and entropies of the tiny model."""
    logs = next_logprobs(params, packed.tokens, packed.positions, visible(packed))
    return logprob_fn(params, packed), -jnp.sum(jnp.exp(logs) * logs, axis=-1)


@functools.cache
def packed_and_weights():
    (packed,) = pack(make_batch(1), buckets=[64], tokens_per_microbatch=64 * 8)
    return packed, token_weights([packed], "episode")[0]


def dense_mean(params, temperature):
    """The weighted mean entropy from whole logits, as a function of parameters."""
    packed, weights = packed_and_weights()
    states = decoder.hidden_states(
        CONFIG, params, packed.tokens, packed.positions, packed.visible_end, Compute()
    )
    scores = decoder.logits(CONFIG, params, states) / temperature
    p = jax.nn.softmax(scores, axis=-1)
    return jnp.sum(weights * -jnp.sum(p * jnp.log(p), axis=-1))


@pytest.mark.parametrize(("remat", "chunk"), [("none", 64), ("full", 24), ("dots", 4)])
def test_the_bonus_has_the_gradient_of_the_dense_mean(remat, chunk):
    packed, weights = packed_and_weights()
    params = decoder.init(CONFIG, jax.random.key(0))
    scores = make_scores(
        CONFIG, temperature=0.7, compute=Compute(remat=remat, logprob_chunk=chunk)
    )

    def bonus(params):
        return jnp.sum(weights * scores(params, packed)[1])

    value, grads = jax.jit(jax.value_and_grad(bonus))(params)
    expected, dense = jax.jit(jax.value_and_grad(dense_mean))(params, 0.7)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6),
        grads,
        dense,
    )
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads)) > 1e-3


def test_the_loss_takes_the_bonus_off_and_measures_the_mean():
    logprobs, batch = random_batch(0, reference=False)
    entropy = np.random.default_rng(0).uniform(0, 3, logprobs.shape).astype(np.float32)
    entropy[batch.packed.mask == 0] = np.nan  # padding may hold anything
    plain, _ = grpo_loss(logprobs, batch)
    same, metrics = grpo_loss(logprobs, batch, entropy=entropy)
    less, _ = grpo_loss(logprobs, batch, entropy=entropy, entropy_coef=0.5)
    own = batch.packed.mask > 0
    assert float(same) == float(plain)
    assert float(plain - less) == pytest.approx(
        0.5 * (batch.weights[own] * entropy[own]).sum(), rel=1e-4
    )
    mean = reduce_metrics([metrics])["grpo/entropy"]
    assert mean == pytest.approx(entropy[own].mean(), rel=1e-5)


def test_trees_equal_flat_rows_and_microbatches_do_not_matter():
    options = {"score_fn": tiny_scores, "entropy_coef": 0.3}
    assert_trees_equal_flat_rows(make_batch(2), **options)
    whole = train(make_batch(2), **options)
    cut = train(make_batch(2), buckets=(32, 64), tokens_per_microbatch=128, **options)
    assert whole[1]["grpo/entropy"] > 0
    assert_same(whole, cut)


def test_a_bonus_alone_raises_the_entropy():
    options = {"score_fn": tiny_scores, "kl_coef": 0.0, "invalid_penalty": 0.0}
    tied = make_batch(5, reward=1.0)  # there is nothing else to learn
    params, metrics = train(tied, entropy_coef=0.5, **options)
    _, after = train(tied, params=params, **options)
    assert after["grpo/entropy"] > metrics["grpo/entropy"]
    same, _ = train(tied, **options)
    jax.tree.map(np.testing.assert_array_equal, same, init_params())


def test_a_bonus_needs_entropies():
    with pytest.raises(ValueError, match=r"entropy_coef=0\.1: .* without score_fn"):
        make_update(
            logprob_fn,
            SGD,
            buckets=(64,),
            tokens_per_microbatch=64,
            entropy_coef=0.1,
        )
