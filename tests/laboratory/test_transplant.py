"""Weights for another tokenizer: what both know stays, the rest is put together."""

import jax
import numpy as np
import pytest

from reskill_jax.laboratory.recipe import Shape
from reskill_jax.laboratory.transplant import transplant
from reskill_jax.policy.decoder import init
from reskill_jax.policy.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizers():
    old = train_tokenizer(["the cat sat on the mat " * 20], 280)
    new = train_tokenizer(["the dog sat on the teleport " * 20], 290)
    return old, new


@pytest.fixture(scope="module")
def params(tokenizers):
    shape = Shape(hidden_size=16, intermediate_size=32, layers=1, heads=1, kv_heads=1)
    return init(shape.decoder(tokenizers[0].vocab_size), jax.random.key(0))


def test_known_tokens_keep_their_embeddings_and_new_ones_get_the_mean(
    params, tokenizers
):
    old, new = tokenizers
    before = np.asarray(params["embed"]["embedding"])
    moved = transplant(params, old, new)["embed"]["embedding"]
    assert moved.shape == (new.vocab_size, before.shape[1])
    known = old.vocabulary()
    both = known.keys() & new.vocabulary().keys()
    assert "<|im_end|>" in both
    for token in both:
        np.testing.assert_array_equal(
            moved[new.vocabulary()[token]], before[known[token]]
        )
    others = new.vocabulary().keys() - both
    assert others
    for token in others:
        place = new.vocabulary()[token]
        pieces = old.encode(new.decode([place]))
        np.testing.assert_allclose(moved[place], before[pieces].mean(0), rtol=1e-6)


def test_all_else_stays(params, tokenizers):
    moved = transplant(params, *tokenizers)
    assert jax.tree.all(
        jax.tree.map(lambda a, b: (a == b).all(), moved["layers"], params["layers"])
    )


def test_an_output_layer_of_its_own_is_refused(params, tokenizers):
    with pytest.raises(ValueError, match="params: they have a lm_head"):
        transplant({**params, "lm_head": {"kernel": 0}}, *tokenizers)
