"""Task panels, and the order in which training draws from one.

A panel is a list of tasks that depends on nothing but its content: its hash stands
beside every figure that was measured on it.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from reskill_jax.environments.task import Task

_T = TypeVar("_T")


@dataclass(frozen=True)
class TaskPanel:
    """The tasks of a split, in order, each once.

    Attributes:
        tasks: the tasks.
        columns: reported means of several kinds' rates, name -> kinds. Every kind
            counts the same, however many tasks it has.

    Raises:
        ValueError: a task occurs twice.
    """

    tasks: tuple[Task, ...]
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a task that occurs twice."""
        ids = [task.id for task in self.tasks]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ValueError(f"task {twice!r} occurs twice in its panel: give it an id")

    @cached_property
    def hash(self) -> str:
        """Content hash of ids, types, splits and digests, 12 hex digits."""
        rows = [(task.id, task.kind, task.split, task.digest) for task in self.tasks]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:12]

    @cached_property
    def by_id(self) -> dict[str, Task]:
        """The tasks by id."""
        return {task.id: task for task in self.tasks}

    @property
    def label(self) -> str:
        """What stands beside a figure of this panel, e.g. ``140:3fa94c0b12de``."""
        return f"{len(self)}:{self.hash}"

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


def check_pins(panels: Mapping[str, TaskPanel], pins: Iterable[str]) -> None:
    """Refuse panels that are not the pinned ones.

    Args:
        panels: by split.
        pins: ``split:count:hash`` each, as they stand beside a figure.

    Raises:
        ValueError: a pin cannot be read, its split is not evaluated, or the split's
            panel has another count or content.
    """
    for pin in pins:
        split, _, label = pin.partition(":")
        if not re.fullmatch(r"\d+:[0-9a-f]{12}", label):
            raise ValueError(f"{pin!r} is not split:count:hash: copy a printed one")
        if split not in panels:
            raise ValueError(f"{pin!r}: only {', '.join(panels) or 'none'} evaluated")
        if panels[split].label != label:
            raise ValueError(
                f"{pin!r}: the tasks found for {split} are {panels[split].label}; get "
                "the data that the pin was made with, or pin what is there"
            )


def check_disjoint(panels: Mapping[str, TaskPanel]) -> None:
    """Refuse splits that share a task.

    Args:
        panels: by split.

    Raises:
        ValueError: a task is in two of them; the message names it.
    """
    split_of: dict[str, str] = {}
    for split, panel in panels.items():
        for task in panel:
            if (other := split_of.setdefault(task.id, split)) != split:
                raise ValueError(f"task {task.id!r} is in {other} and in {split}")


def hold_out(tasks: Sequence[Task], count: int) -> tuple[list[Task], list[Task]]:
    """Hold tasks of a training split out as the split ``dev``, for choices.

    They are those whose ids have the smallest hashes, so that the choice depends
    neither on the order of files nor, but for few tasks, on tasks that are added.

    Args:
        tasks: of the training split.
        count: how many to hold out.

    Returns:
        What is left to train on, and dev.

    Raises:
        ValueError: nothing would be left to train on.
    """
    if count and count >= len(tasks):
        raise ValueError(
            f"dev={count}: of {len(tasks)} tasks, none is left to train on"
        )
    ids = sorted(
        (task.id for task in tasks),
        key=lambda name: hashlib.sha256(name.encode()).digest(),
    )
    chosen = set(ids[:count])
    rest = [task for task in tasks if task.id not in chosen]
    return rest, [replace(task, split="dev") for task in tasks if task.id in chosen]


def evenly_spaced(tasks: Sequence[_T], limit: int | None) -> tuple[_T, ...]:
    """Return at most `limit` tasks, spread over the list so that all types stay."""
    count = len(tasks) if limit is None else min(limit, len(tasks))
    return tuple(tasks[i * len(tasks) // count] for i in range(count))
