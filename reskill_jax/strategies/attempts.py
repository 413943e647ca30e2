"""Repeated attempts at the same tasks, until they are solved or given up."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from reskill_jax.environments.task import Task


@dataclass
class Attempts:
    """A batch of tasks and how far they are.

    A chain is a way of attempting a task again, e.g. with or without memory; each has
    its own outcomes. An attempt counts as made once its step is over, whether its
    environment failed or not.

    Attributes:
        most: attempts at a task.
        chains: how many.
        tasks: of the batch.
        solved: by chain and task, the attempt that solved it, from 1; 0: none so far.
        made: attempts made.
    """

    most: int
    chains: int
    tasks: list[Task] = field(default_factory=list)
    solved: list[list[int]] = field(default_factory=list)
    made: int = 0

    @property
    def over(self) -> bool:
        """Whether the batch has ended, or none was begun."""
        return self.made >= self.most or not self.pending()

    def begin(self, tasks: Iterable[Task]) -> None:
        """Begin a batch; a task that is in it twice is attempted once."""
        self.tasks = list({task.id: task for task in tasks}.values())
        self.solved = [[0] * len(self.tasks) for _ in range(self.chains)]
        self.made = 0

    def pending(self) -> list[int]:
        """Return the places of tasks that some chain has not solved."""
        return [
            place
            for place in range(len(self.tasks))
            if any(not chain[place] for chain in self.solved)
        ]

    def record(self, won: Callable[[int, str], bool]) -> None:
        """End an attempt.

        Args:
            won: whether a chain has now solved the task of an id.
        """
        self.made += 1
        for number, chain in enumerate(self.solved):
            for place, task in enumerate(self.tasks):
                if not chain[place] and won(number, task.id):
                    chain[place] = self.made

    def success_within(self, chain: int, attempts: int) -> float:
        """Return the share of the batch that a chain solved within so many attempts."""
        found: Sequence[int] = self.solved[chain]
        return sum(0 < attempt <= attempts for attempt in found) / len(found)
