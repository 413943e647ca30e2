"""What advantages are computed from: a table of episodes, and statistics of groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.metrics import equal


@dataclass(frozen=True)
class Outcomes:
    """What advantages are computed from: E episodes, K turns in the longest.

    Attributes:
        reward: float64 [E], the episode's outcome.
        group: int64 [E], episodes of one task share it.
        valid: bool [E, K], whether the turn's action was valid; True where no turn is.
        tokens: int64 [E, K], response tokens of the turn; 0 where no turn is.
        rewards: float64 [E, K], what the turn itself was paid; 0 where no turn is.
        anchor: int64 [E, K], turns of a group that saw the same observation share it,
            and no others; -1 where no turn is.
        arm_effect: float64 [E], see `Episode.arm_effect`; of a reward of 1.
    """

    reward: np.ndarray
    group: np.ndarray
    valid: np.ndarray
    tokens: np.ndarray
    rewards: np.ndarray
    anchor: np.ndarray
    arm_effect: np.ndarray

    def scaled(self, factor: float) -> "Outcomes":
        """Return the same with all that was paid, or was expected, times a factor."""
        return replace(
            self,
            reward=self.reward * factor,
            rewards=self.rewards * factor,
            arm_effect=self.arm_effect * factor,
        )


def outcomes(episodes: Sequence[Episode]) -> Outcomes:
    """Tabulate episodes; the reward is `Episode.reward`."""
    return tabulate(
        max((len(e.turns) for e in episodes), default=0),
        reward=np.array([e.reward for e in episodes], np.float64),
        group=np.array([e.group for e in episodes], np.int64),
        valid=[[turn.valid for turn in e.turns] for e in episodes],
        tokens=[[len(turn.response) for turn in e.turns] for e in episodes],
        rewards=[[turn.reward for turn in e.turns] for e in episodes],
        seen=[[turn.observation for turn in e.turns] for e in episodes],
        arm_effect=np.array([e.arm_effect for e in episodes], np.float64),
    )


def tabulate(
    longest: int,
    *,
    reward: np.ndarray,
    group: np.ndarray,
    valid: Sequence[Sequence[bool]],
    tokens: Sequence[Sequence[int]],
    rewards: Sequence[Sequence[float]],
    seen: Sequence[Sequence[str]],
    arm_effect: np.ndarray,
) -> Outcomes:
    """Tabulate what is known by episode and by turn, at most `longest` turns of each.

    Args:
        longest: turns of the longest episode.
        reward: float64 [E], see `Outcomes`.
        group: int64 [E], see `Outcomes`.
        valid: by episode and turn, like `tokens`, `rewards` and `seen`.
        tokens: see `Outcomes`.
        rewards: see `Outcomes`.
        seen: what the environment said before each turn.
        arm_effect: float64 [E], see `Outcomes`.

    Raises:
        OverflowError: an integer does not fit.
    """
    shape = len(reward), longest
    table = np.ones(shape, bool), np.zeros(shape, np.int64), np.zeros(shape)
    for values, column in zip((valid, tokens, rewards), table, strict=True):
        for row, given in zip(column, values, strict=True):
            row[: len(given)] = given[:longest]
    return Outcomes(
        reward=reward,
        group=group,
        valid=table[0],
        tokens=table[1],
        rewards=table[2],
        anchor=anchors(group, seen, longest),
        arm_effect=arm_effect,
    )


def anchors(
    group: np.ndarray, observations: Sequence[Sequence[str]], longest: int
) -> np.ndarray:
    """Number what turns saw, by the group and the text: int64 [E, longest]."""
    known: dict[tuple[int, str], int] = {}
    numbers = np.full((len(observations), longest), -1, np.int64)
    for i, texts in enumerate(observations):
        for k, text in enumerate(texts):
            numbers[i, k] = known.setdefault((int(group[i]), text), len(known))
    return numbers


class Statistics(NamedTuple):
    """What the values that share a label have in common, for each value: all [N].

    Attributes:
        mean: of them.
        std: their standard deviation, ddof 1; 0 of a single one.
        tied: whether all of them are `equal`.
        size: how many they are.
    """

    mean: np.ndarray
    std: np.ndarray
    tied: np.ndarray
    size: np.ndarray


def statistics(value: np.ndarray, label: np.ndarray) -> Statistics:
    """Summarise values [N] by their labels [N]."""
    _, index, count = np.unique(label, return_inverse=True, return_counts=True)
    mean = np.bincount(index, value) / count
    squares = np.bincount(index, (value - mean[index]) ** 2)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    low, high = np.full(len(count), np.inf), np.full(len(count), -np.inf)
    np.minimum.at(low, index, value)
    np.maximum.at(high, index, value)
    # Not by std, which is 1e-17 where the mean is rounded.
    tied = equal(low, high)
    return Statistics(mean[index], std[index], tied[index], count[index])
