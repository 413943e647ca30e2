"""Weights of tokens in the loss, computed on the host.

They span everything that goes into one optimiser step, so that micro-batches add
exactly, whatever their number and order.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from reskill_jax.grpo.packing import PackedBatch

Aggregation = Literal["episode", "token", "turn", "prompt", "constant"]

AGGREGATIONS = ("episode", "token", "turn", "prompt", "constant")


def token_weights(
    batches: Sequence[PackedBatch],
    aggregation: Aggregation,
    *,
    groups: Sequence[int] = (),
    longest: int = 0,
) -> list[np.ndarray]:
    """Weight the response tokens of all micro-batches of one optimiser step.

    N is the number of episodes with response tokens:

    - `episode`: 1 / (N x tokens of the episode), the paper's (section 3.1);
    - `token`: 1 / all tokens, so that long episodes weigh more;
    - `turn`: 1 / (N x turns of the episode x tokens of the turn), so that long answers
      do not outweigh short ones within an episode;
    - `prompt`: 1 / (groups x tokens of the group), so that tasks weigh equally;
    - `constant`: 1 / (N x longest), unbiased in length (Dr. GRPO, arXiv 2503.20783).

    Args:
        batches: everything that goes into the step.
        aggregation: which.
        groups: the group of each episode, by its number in `batches`; of `prompt`.
        longest: response tokens that an episode can have at most, or any other
            constant; of `constant`.

    Returns:
        float32 [R, T] for every micro-batch; they sum to 1 over all of them, but for
        `constant`, whose sum is the mean length over the longest one.

    Raises:
        ValueError: on an unknown aggregation, if there is no response token at all, or
            no `longest` for `constant`.
    """
    if aggregation not in AGGREGATIONS:
        choices = ", ".join(map(repr, AGGREGATIONS))
        raise ValueError(f"aggregation={aggregation!r}: choose one of {choices}")
    if aggregation == "constant" and longest < 1:
        raise ValueError(
            f"longest={longest}: aggregation='constant' divides by a number of tokens: "
            "give 1 or more"
        )
    chosen = [np.asarray(batch.mask) > 0 for batch in batches]
    owners = [np.asarray(b.episode)[m] for b, m in zip(batches, chosen, strict=True)]
    turns = [np.asarray(b.turn)[m] for b, m in zip(batches, chosen, strict=True)]
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    turn = np.concatenate([np.zeros(0, np.int64), *turns])
    if not len(owner):
        raise ValueError("a batch without any response token: nothing to train on")
    share = _shares(owner, turn, aggregation, np.asarray(groups, np.int64), longest)
    weights = [np.zeros(mask.shape, np.float32) for mask in chosen]
    parts = np.split(share, np.cumsum([len(owner) for owner in owners])[:-1])
    for weight, mask, part in zip(weights, chosen, parts, strict=True):
        weight[mask] = part
    return weights


def _shares(
    owner: np.ndarray,
    turn: np.ndarray,
    aggregation: Aggregation,
    groups: np.ndarray,
    longest: int,
) -> np.ndarray:
    """Weigh n tokens, float64 [n].

    Args:
        owner: int [n], the episode of each.
        turn: int [n], its turn.
        aggregation: see `token_weights`.
        groups: int [E], the group of each episode.
        longest: see `token_weights`.
    """
    lengths = np.bincount(owner)
    count = np.count_nonzero(lengths)
    if aggregation == "token":
        return np.full(len(owner), 1 / lengths.sum())
    if aggregation == "constant":
        return np.full(len(owner), 1 / (count * longest))
    if aggregation == "episode":
        return 1 / (count * lengths)[owner]
    if aggregation == "prompt":
        tokens = np.bincount(groups[owner])
        return 1 / (np.count_nonzero(tokens) * tokens)[groups[owner]]
    played, place, tokens = np.unique(
        np.stack([owner, turn]), axis=1, return_inverse=True, return_counts=True
    )
    turns = np.bincount(played[0])
    return 1 / (count * turns[owner] * tokens[place.reshape(-1)])
