"""Figures of played episodes: lengths of responses, and what groups of a task tell.

A group's episodes are pooled whatever arm of a trial they were on.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from reskill_jax.rollout.episode import Episode

_ROUNDING = 1e-9  # absolute, and as a share


def equal(low: ArrayLike, high: ArrayLike) -> np.ndarray:
    """Tell whether rewards are the same but for rounding, elementwise.

    What turns were paid adds up to 1 or to 0.9999999999999999 by the order in which it
    came, and a standard deviation of such a group would turn that into advantages.
    """
    return np.asarray(np.isclose(low, high, rtol=_ROUNDING, atol=_ROUNDING))


def length_metrics(episodes: Sequence[Episode], prefix: str) -> dict[str, float]:
    """Summarise the lengths of responses, in sampled tokens.

    Returns:
        Mean, max and clip ratio (share cut at the length limit) of single responses,
        ``PREFIX/response_length/*``, and of all that an episode said,
        ``PREFIX/episode_length/*``, where an episode is cut if one of its responses is.
    """
    turns = [turn for episode in episodes for turn in episode.turns]
    return _lengths(
        f"{prefix}/response_length",
        [len(turn.response) for turn in turns],
        [not turn.stopped for turn in turns],
    ) | _lengths(
        f"{prefix}/episode_length",
        [sum(len(turn.response) for turn in e.turns) for e in episodes],
        [any(not turn.stopped for turn in e.turns) for e in episodes],
    )


def _lengths(name: str, tokens: list[int], cut: list[bool]) -> dict[str, float]:
    return {
        f"{name}/mean": float(np.mean(tokens)) if tokens else 0.0,
        f"{name}/max": float(max(tokens, default=0)),
        f"{name}/clip_ratio": float(np.mean(cut)) if cut else 0.0,
    }


def group_metrics(
    episodes: Sequence[Episode], prefix: str = "rollout"
) -> dict[str, float]:
    """Summarise a training batch by its groups and by types of tasks.

    Returns:
        ``reward_std`` over all episodes; the share of groups whose rewards are equal
        (``frac_reward_zero_std``), that were solved by all of their episodes
        (``solve_all``) and by none (``solve_none``); ``pass@k`` for k = 1, 2, 4, 8, ..
        up to the smallest group; ``success/TYPE``. Empty without episodes.
    """
    if not episodes:
        return {}
    rewards: dict[int, list[float]] = defaultdict(list)
    solved: dict[int, list[bool]] = defaultdict(list)
    for episode in episodes:
        rewards[episode.group].append(episode.reward)
        solved[episode.group].append(episode.success)
    sizes = [len(group) for group in solved.values()]
    counts = [sum(group) for group in solved.values()]
    tied = [equal(min(group), max(group)) for group in rewards.values()]
    metrics = {
        "reward_std": float(np.std([episode.reward for episode in episodes])),
        "frac_reward_zero_std": float(np.mean(tied)),
        "solve_all": float(np.mean([all(group) for group in solved.values()])),
        "solve_none": float(np.mean([not any(group) for group in solved.values()])),
    }
    for k in powers_of_two(min(sizes)):
        estimates = [pass_at_k(n, c, k) for n, c in zip(sizes, counts, strict=True)]
        metrics[f"pass@{k}"] = float(np.mean(estimates))
    metrics |= {f"success/{k}": v for k, v in success_by_kind(episodes).items()}
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def success_by_kind(episodes: Iterable[Episode]) -> Mapping[str, float]:
    """Return the success rate on each type of task that was played, sorted."""
    won: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        won[episode.task.kind].append(episode.success)
    return {kind: float(np.mean(won[kind])) for kind in sorted(won)}


def pass_at_k(samples: int, successes: int, k: int) -> float:
    """Estimate the chance that at least one of k samples of a task succeeds.

    Unbiased: 1 - C(n - c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374).

    Args:
        samples: n, how many there are.
        successes: c, how many of them succeeded.
        k: at most n.

    Raises:
        ValueError: k is not from 1 to n.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k={k}: choose from 1 to samples={samples}")
    return 1 - math.comb(samples - successes, k) / math.comb(samples, k)


def powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ..., at most `most`."""
    return [1 << i for i in range(most.bit_length())]
