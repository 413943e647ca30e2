"""Weights for another tokenizer: embeddings put together from those that are there."""

import numpy as np

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.tokenizer import Tokenizer


def transplant(params: Params, old: Tokenizer, new: Tokenizer) -> Params:
    """Give a decoder with tied embeddings the vocabulary of another tokenizer.

    A token that the old tokenizer has, too, keeps its embedding; any other one gets the
    mean of the embeddings that the old tokenizer reads its text as. All else stays.

    Args:
        params: of a decoder with tied embeddings, embedding [V, D].
        old: the tokenizer that it was trained with.
        new: the one that it is to have.

    Raises:
        ValueError: the decoder has an output layer of its own.
    """
    if "lm_head" in params:
        raise ValueError("params: they have a lm_head; only tied embeddings are moved")
    embedding = np.asarray(params["embed"]["embedding"])
    known = old.vocabulary()
    moved = np.empty((new.vocab_size, embedding.shape[1]), embedding.dtype)
    for token, place in new.vocabulary().items():
        pieces = [known[token]] if token in known else old.encode(new.decode([place]))
        moved[place] = embedding[pieces].mean(axis=0)
    return {**params, "embed": {"embedding": moved}}
