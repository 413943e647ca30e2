"""Group-relative advantages, one per turn, from episodes' outcomes.

`corrected` (default) takes group statistics over one outcome per episode, so that arms
of a trial share a baseline and no turn leaks into it. `reference` keeps the numbers of
the official code: statistics from the first turn of each episode, every turn normalised
with a score that holds its own invalid-action penalty, then whitening over the batch.
Where the first turns of a group tie, its standard deviation is 0 and one later invalid
turn gets -penalty / 1e-6; whitening then shrinks everything else to nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from reskill_jax.rollout.episode import Episode

Rule = Literal["corrected", "reference"]
Scale = Literal["std", "none"]

_STD_EPS = 1e-6
_WHITEN_EPS = 1e-8


@dataclass(frozen=True)
class Outcomes:
    """What advantages are computed from: E episodes, K turns in the longest.

    Attributes:
        reward: float64 [E], the episode's outcome.
        group: int64 [E], episodes of one task share it.
        valid: bool [E, K], whether the turn's action was valid; True where no turn is.
        tokens: int64 [E, K], response tokens of the turn; 0 where no turn is.
    """

    reward: np.ndarray
    group: np.ndarray
    valid: np.ndarray
    tokens: np.ndarray


def outcomes(episodes: Sequence[Episode]) -> Outcomes:
    """Tabulate episodes; the reward is `Episode.reward`."""
    shape = len(episodes), max((len(e.turns) for e in episodes), default=0)
    valid, tokens = np.ones(shape, bool), np.zeros(shape, np.int64)
    for i, episode in enumerate(episodes):
        valid[i, : len(episode.turns)] = [turn.valid for turn in episode.turns]
        tokens[i, : len(episode.turns)] = [len(turn.response) for turn in episode.turns]
    return Outcomes(
        reward=np.array([episode.reward for episode in episodes], np.float64),
        group=np.array([episode.group for episode in episodes], np.int64),
        valid=valid,
        tokens=tokens,
    )


def advantages(
    table: Outcomes,
    *,
    rule: Rule = "corrected",
    scale: Scale = "std",
    penalty: float = 0.1,
    reward_scale: float = 1.0,
) -> tuple[np.ndarray, dict[str, float]]:
    """Compute the advantage of every turn, on the whole batch of episodes.

    With `rule="reference"`, `reward_scale=10` and `penalty=0.1`, outcomes of 0 and 1
    give the released code's numbers. `corrected` depends with `std` on the ratio of
    the two only, and otherwise grows with both.

    Args:
        table: the outcomes.
        rule: see the module's docstring.
        scale: `std` divides by the group's standard deviation (paper, section 3.1),
            `none` does not (Dr. GRPO, arXiv 2503.20783).
        penalty: subtracted on invalid turns, on the scale of the scaled rewards: from
            the turn's score if `reference`; if `corrected`, from the advantage, and
            divided by `reward_scale` where that is normalised, so that it is the same
            share of a reward of 1.
        reward_scale: outcomes are multiplied by it first; above 0.

    Returns:
        float32 [E, K], and metrics: `adv/abs_max` (before whitening, so that a blow-up
        shows), `adv/mean` and `adv/std` over response tokens, `adv/zero_std_groups`.

    Raises:
        ValueError: on an unknown rule or scale.
    """
    if rule not in ("corrected", "reference"):
        raise ValueError(f"rule={rule!r}: choose 'corrected' or 'reference'")
    if scale not in ("std", "none"):
        raise ValueError(f"scale={scale!r}: choose 'std' or 'none'")
    table = replace(table, reward=table.reward * reward_scale)
    if rule == "corrected":
        penalty = penalty / reward_scale if scale == "std" else penalty
        values, tied_groups = corrected_advantages(table, scale=scale, penalty=penalty)
    else:
        values, tied_groups = reference_advantages(table, scale=scale, penalty=penalty)
    abs_max = np.abs(values[table.tokens > 0]).max(initial=0.0)
    if rule == "reference":
        values = whiten(values, table.tokens)
    mean, std = _token_moments(values, table.tokens)
    metrics = {
        "adv/abs_max": float(abs_max),
        "adv/mean": mean,
        "adv/std": std,
        "adv/zero_std_groups": float(tied_groups),
    }
    return values.astype(np.float32), metrics


def corrected_advantages(
    table: Outcomes, *, scale: Scale, penalty: float
) -> tuple[np.ndarray, int]:
    """Normalise outcomes within groups, then penalise invalid turns.

    A group whose outcomes are all equal (one of a single episode too) says nothing: its
    part is exactly 0, and only the penalty remains.

    Returns:
        float64 [E, K] and the number of tied groups.
    """
    mean, std, tied = _group_statistics(table.reward, table.group)
    divisor = std + _STD_EPS if scale == "std" else 1.0
    outcome = np.where(tied, 0.0, (table.reward - mean) / divisor)
    return outcome[:, None] - penalty * ~table.valid, _count(table.group, tied)


def reference_advantages(
    table: Outcomes, *, scale: Scale, penalty: float
) -> tuple[np.ndarray, int]:
    """Normalise every turn's own score with its group's first turns, as officially.

    A group of one episode has mean 0 and standard deviation 1.

    Returns:
        float64 [E, K] before whitening, and the number of tied groups.
    """
    scores = table.reward[:, None] - penalty * ~table.valid  # [E, K]
    mean, std, tied = _group_statistics(scores[:, 0], table.group)
    single = _group_sizes(table.group) == 1
    mean, std = np.where(single, 0.0, mean), np.where(single, 1.0, std)
    divisor = std + _STD_EPS if scale == "std" else np.ones_like(std)
    return (scores - mean[:, None]) / divisor[:, None], _count(table.group, tied)


def whiten(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Whiten turns [E, K] by population moments over all their response tokens."""
    mean, std = _token_moments(values, tokens)
    return (values - mean) / np.sqrt(std**2 + _WHITEN_EPS)


def _token_moments(values: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Return mean and population standard deviation, every turn weighted by tokens."""
    if tokens.sum() == 0:
        return 0.0, 0.0
    mean = np.average(values, weights=tokens)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=tokens)))


def _group_statistics(
    score: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each episode's group mean, std (ddof 1) and whether it tied, all [E]."""
    _, index, count = np.unique(group, return_inverse=True, return_counts=True)
    mean = np.bincount(index, score) / count
    squares = np.bincount(index, (score - mean[index]) ** 2)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    low, high = np.full(len(count), np.inf), np.full(len(count), -np.inf)
    np.minimum.at(low, index, score)
    np.maximum.at(high, index, score)
    # Equal outcomes, compared exactly: a rounded mean may leave std at 1e-17.
    return mean[index], std[index], (low == high)[index]


def _group_sizes(group: np.ndarray) -> np.ndarray:
    """Return the size of each episode's group, int64 [E]."""
    _, index, count = np.unique(group, return_inverse=True, return_counts=True)
    return count[index]


def _count(group: np.ndarray, chosen: np.ndarray) -> int:
    """Count the groups that hold a chosen episode."""
    return len(np.unique(group[chosen]))
