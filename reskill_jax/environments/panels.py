"""Task panels, and the order in which training draws from one.

A panel is a list of tasks that depends on nothing but its content: its hash stands
beside every figure that was measured on it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from reskill_jax.environments.task import Task


@dataclass(frozen=True)
class TaskPanel:
    """The tasks of a split, in order, each once.

    Raises:
        ValueError: a task occurs twice.
    """

    tasks: tuple[Task, ...]

    def __post_init__(self) -> None:
        """Refuse a task that occurs twice."""
        ids = [task.id for task in self.tasks]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ValueError(f"task {twice!r} occurs twice in its panel: give it an id")

    @cached_property
    def hash(self) -> str:
        """Content hash of ids, types and splits, 12 hex digits; not of sources."""
        rows = [(task.id, task.kind, task.split) for task in self.tasks]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        """Yield the tasks, in order."""
        return iter(self.tasks)


@dataclass(frozen=True)
class Panels:
    """The tasks of a run.

    Attributes:
        train: drawn from in training.
        held_out: by split, for evaluation.
    """

    train: TaskPanel
    held_out: dict[str, TaskPanel]


@dataclass
class TaskStream:
    """The order in which training draws tasks: epoch by epoch, each a permutation.

    What is drawn is a function of (panel, seed, number of tasks drawn before).

    Attributes:
        panel: the tasks of the split that is trained on.
        seed: of the run.
        drawn: tasks drawn so far.
    """

    panel: TaskPanel
    seed: int
    drawn: int = 0

    def draw(self, count: int) -> list[Task]:
        """Return the next `count` tasks; a batch may span two epochs."""
        places = range(self.drawn, self.drawn + count)
        self.drawn += count
        size = len(self.panel)
        orders = {
            epoch: np.random.default_rng((self.seed, epoch)).permutation(size)
            for epoch in {place // size for place in places}
        }
        return [
            self.panel.tasks[orders[place // size][place % size]] for place in places
        ]


def evenly_spaced(tasks: Sequence[Task], limit: int | None) -> tuple[Task, ...]:
    """Return at most `limit` tasks, spread over the list so that all types stay."""
    count = len(tasks) if limit is None else min(limit, len(tasks))
    return tuple(tasks[i * len(tasks) // count] for i in range(count))
