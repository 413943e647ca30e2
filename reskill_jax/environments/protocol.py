"""What every text environment offers, whatever its engine.

A `Task` names one problem of one split. An `Environment` plays one task at a time:
`reset` returns the goal and the first observation, `step` takes an action string.
Environments hold no step limit and no prompt text: both belong to the rollout.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Task:
    """One problem.

    Attributes:
        id: unique and stable, e.g. ``valid_seen/pick_heat...-22/trial_T2019``.
        kind: task type, e.g. ``pick_heat_then_place_in_recep``.
        split: ``train``, ``valid_seen`` or ``valid_unseen``.
        source: what the environment needs to load it, e.g. a game file's path.
    """

    id: str
    kind: str
    split: str
    source: str


@dataclass(frozen=True)
class Observation:
    """What the agent sees after a reset or a step.

    Attributes:
        text: the environment's words, without surrounding blanks.
        admissible: commands that would be accepted now, in the engine's order.
        reward: reward of this step (0 at reset).
        done: whether the environment has ended the episode.
        success: whether the goal is reached.
    """

    text: str
    admissible: tuple[str, ...]
    reward: float = 0.0
    done: bool = False
    success: bool = False


class Environment(Protocol):
    """One player of tasks; reusable: `reset` may be called any number of times."""

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Start `task`; return its goal sentence and the first observation."""
        ...

    def step(self, action: str) -> Observation:
        """Play one action; an inadmissible one is a turn that changes nothing."""
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...
