"""Plays what a strategy plans, with outcomes drawn instead of played."""

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from reskill_jax.environments.task import Task
from reskill_jax.rollout.episode import Ablation, Episode, Turn
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies.base import Learned, Strategy

NO_TOKENS = np.zeros(1, np.int32)
ACTIONS = ("go to shelf 1", "open shelf 1", "take mug 1 from shelf 1")


def draw(count: int) -> list[Task]:
    return [Task(f"train/t{k}/x", "kind", "train", "") for k in range(count)]


def banks(strategy: Strategy, step: int = 0) -> tuple[SkillBank, ...]:
    """The banks that a step is played on; to plan changes nothing in ReSkill."""
    return tuple(context.bank for context in strategy.plan(step, draw).contexts)


def history(strategy: Strategy) -> list[dict]:
    """All decided trials of ReSkill."""
    return strategy.state()["history"]


def play(
    strategy: Strategy,
    step: int,
    chance: Sequence[float],
    goal="put a mug in shelf",
    dropped: Collection[int] = (),
    effects: Mapping[str, float] | None = None,
) -> Learned:
    """Play a step in which arm k wins with probability chance[k].

    Groups may have been dropped, because their environment failed. One of
    the skills of `effects` was measured at every turn that shows any.
    """
    plan = strategy.plan(step, draw)
    rng = np.random.default_rng(step)
    episodes = []
    for group, index in np.ndindex(*plan.arms.shape):
        arm = int(plan.arms[group, index])
        context = plan.contexts[arm]
        episode = Episode(
            plan.tasks[group], group, index, arm, context.hash,
            goal=goal,
            final_observation="end",
            success=bool(rng.random() < chance[arm]),
        )  # fmt: skip
        for action in ACTIONS:
            active_skills = tuple(s.name for s in context.bank.active(action))
            episode.turns.append(
                Turn(
                    0, 0, NO_TOKENS, NO_TOKENS, NO_TOKENS, 0,
                    "You see a shelf.", "", action, True, active_skills,
                )
            )  # fmt: skip
            for name, effect in (effects or {}).items():  # the last one shown
                if name in active_skills:
                    ablation = Ablation(name, NO_TOKENS, 0, effect)
                    episode.turns[-1].ablation = ablation
        episodes.append(episode)
    return strategy.observe(step, [e for e in episodes if e.group not in dropped])
