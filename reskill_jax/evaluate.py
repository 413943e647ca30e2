"""Held-out success of the accepted bank, greedy; one rule for every strategy."""

import asyncio
import time
from collections.abc import Mapping, Sequence

import numpy as np

from reskill_jax.environments.protocol import Task
from reskill_jax.rollout.collector import Collector, greedy, rollout_metrics
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill import SkillBank


def evaluate(
    collector: Collector,
    splits: Mapping[str, Sequence[Task]],
    bank: SkillBank,
    sampling: Sampling,
) -> tuple[dict[str, float], list[Episode]]:
    """Play every task once.

    Args:
        collector: plays.
        splits: tasks by split.
        bank: the accepted one; a candidate on trial is never evaluated.
        sampling: gives the length limit; temperature and top-p are those of greedy.

    Returns:
        Metrics: success by split, and by split and task kind (so that a column that is
        the mean of several kinds can be made of them); and the episodes.
    """
    metrics: dict[str, float] = {}
    episodes: list[Episode] = []
    for split, tasks in splits.items():
        started = time.perf_counter()
        arms = np.zeros((len(tasks), 1), np.int32)
        played = asyncio.run(
            collector.collect(tasks, arms, (bank,), sampling=greedy(sampling), seed=0)
        )
        seconds = time.perf_counter() - started
        metrics |= rollout_metrics(played, seconds, prefix=split)
        for kind in sorted({task.kind for task in tasks}):
            won = [e.success for e in played if e.task.kind == kind]
            metrics[f"{split}/success/{kind}"] = float(np.mean(won))
        episodes += played
    return metrics, episodes
