"""What becomes of responses that the length limit cut."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.rollout.episode import Episode

Overlong = Literal["none", "mask", "penalty"]

OVERLONG = ("none", "mask", "penalty")


def cut_turns(episodes: Sequence[Episode]) -> np.ndarray:
    """Tell which turns' responses were cut: bool [E, K], K turns in the longest."""
    most = max((len(episode.turns) for episode in episodes), default=0)
    cut = np.zeros((len(episodes), most), bool)
    for row, episode in zip(cut, episodes, strict=True):
        row[: len(episode.turns)] = [not turn.stopped for turn in episode.turns]
    return cut


def without_turns(batch: PackedBatch, left_out: np.ndarray) -> PackedBatch:
    """Take the responses of some turns, bool [E, K], out of a micro-batch's mask."""
    mask = np.asarray(batch.mask)
    own = left_out[batch.episode, batch.turn] & (mask > 0)
    return replace(batch, mask=np.where(own, np.float32(0), mask))


def soft_penalties(
    episodes: Sequence[Episode], *, longest: int, buffer: float, penalty: float
) -> np.ndarray:
    """Charge long responses (DAPO, arXiv 2503.14476, soft overlong punishment).

    A response is free up to (1 - buffer) of the limit; from there its charge rises
    linearly, to `penalty` at the limit.

    Args:
        episodes: E of them.
        longest: response tokens, the limit.
        buffer: share of it, above 0.
        penalty: of a response that is as long.

    Returns:
        float64 [E, K], 0 or more; K turns in the longest episode.
    """
    most = max((len(episode.turns) for episode in episodes), default=0)
    charge = np.zeros((len(episodes), most))
    for row, episode in zip(charge, episodes, strict=True):
        lengths = np.array([len(turn.response) for turn in episode.turns])
        over = (lengths - (1 - buffer) * longest) / (buffer * longest)
        row[: len(lengths)] = penalty * np.clip(over, 0.0, 1.0)
    return charge
