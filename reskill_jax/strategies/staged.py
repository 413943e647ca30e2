"""Two stages instead of co-evolution: first the one, then the other (ablations)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies.base import Strategy


@dataclass
class Staged:
    """Lets skills evolve for a frozen policy, and the policy learn with a fixed bank.

    Attributes:
        strategy: evolves the skills; a trial that runs when its stage ends is not
            decided, its candidate is not used any more.
        first: how many steps the first stage takes.
        skills_first: whether skills evolve in the first stage or in the second.
        done: the last step observed.
    """

    strategy: Strategy
    first: int
    skills_first: bool
    done: int = 0

    @property
    def banks(self) -> tuple[SkillBank, ...]:
        """The banks of the next step."""
        banks = self.strategy.banks
        return banks[:1] if self.trains_policy(self.done + 1) else banks

    def assign(self, seed: int, tasks: int, group_size: int) -> np.ndarray:
        """Assign as the strategy does while skills evolve; else all to the one bank."""
        if self.trains_policy(self.done + 1):
            return np.zeros((tasks, group_size), np.int32)
        return self.strategy.assign(seed, tasks, group_size)

    def trains_policy(self, step: int) -> bool:
        """Tell in which stage a step is; the first step is 1."""
        return (step <= self.first) != self.skills_first

    def observe(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Learn about skills in their stage only."""
        self.done = step
        if self.trains_policy(step):
            return {}
        return self.strategy.observe(step, episodes)

    def status(self) -> str:
        """Describe the state of the skills."""
        return self.strategy.status()

    def take_events(self) -> list[str]:
        """Return, once, what happened since the last call."""
        return self.strategy.take_events()

    def history(self) -> list[dict[str, Any]]:
        """Return all decided trials, oldest first."""
        return self.strategy.history()

    def state(self) -> dict[str, Any]:
        """Return the strategy's state and the last step."""
        return {"done": self.done, "strategy": self.strategy.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.done = state["done"]
        self.strategy.restore(state["strategy"])
