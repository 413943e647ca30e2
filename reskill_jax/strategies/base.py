"""The one seam for every method: which banks are in play, what is learnt of them.

GRPO is the strategy with one empty bank; a static library is one bank that never
changes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill import SkillBank


class Strategy(Protocol):
    """A method's decisions about skills, between rollouts and updates."""

    @property
    def banks(self) -> tuple[SkillBank, ...]:
        """Banks in play, by arm; the first is the accepted one, used in evaluation."""
        ...

    def assign(self, seed: int, tasks: int, group_size: int) -> np.ndarray:
        """Return the arm of every rollout: int [tasks, group_size]."""
        ...

    def trains_policy(self, step: int) -> bool:
        """Tell whether the policy learns from a step's episodes."""
        ...

    def observe(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Learn from a step's episodes; return metrics."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that changes, as JSON values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        ...

    def status(self) -> str:
        """Describe the state of affairs in a few words, for the progress line."""
        ...

    def take_events(self) -> list[str]:
        """Return, once, what happened since the last call: trials begun and decided."""
        ...

    def history(self) -> list[dict[str, Any]]:
        """Return all decided trials as JSON documents, oldest first."""
        ...


@dataclass
class Static:
    """One bank for everyone, for ever; with an empty bank, plain GRPO."""

    bank: SkillBank = field(default_factory=SkillBank)

    @property
    def banks(self) -> tuple[SkillBank, ...]:
        """The one bank."""
        return (self.bank,)

    def assign(self, seed: int, tasks: int, group_size: int) -> np.ndarray:
        """Give everyone the one bank."""
        return np.zeros((tasks, group_size), np.int32)

    def trains_policy(self, step: int) -> bool:
        """Train at every step."""
        return True

    def observe(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Learn nothing."""
        return {}

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def status(self) -> str:
        """Tell how many skills there are."""
        return f"{len(self.bank.skills)} skills"

    def take_events(self) -> list[str]:
        """Nothing happens."""
        return []

    def history(self) -> list[dict[str, Any]]:
        """No trials are held."""
        return []
