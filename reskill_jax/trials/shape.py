"""The shape of a step's batch, from which it follows how much the step tells."""

from typing import NamedTuple


class Shape(NamedTuple):
    """What a step tells about a candidate follows from these.

    Attributes:
        tasks: groups of a step.
        group_size: rollouts of a group.
        candidates: on trial at once.
    """

    tasks: int
    group_size: int
    candidates: int = 1

    @property
    def episodes(self) -> int:
        """Of a step."""
        return self.tasks * self.group_size

    def __str__(self) -> str:
        """Name it in messages."""
        several = f", {self.candidates} candidates" if self.candidates > 1 else ""
        return f"{self.tasks} x {self.group_size}{several}"
