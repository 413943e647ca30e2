"""The 30 tasks, their official variations, and which of them are in which split.

The simulator divides the variations of every task: the first half is for training, a
quarter each for development and test. A test compares these numbers with it; so
listing tasks needs no Java.

    train    variations for training of the tasks that are trained on
    dev      their variations for development, for choices
    test     their variations for test, that no training has seen
    unseen   variations for test of tasks that are not trained on at all
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.task import Task

SPLITS = ("train", "dev", "test", "unseen")
# Numbers of variations for training, development and test.
VARIATIONS: Mapping[str, tuple[int, int, int]] = {
    "boil": (14, 7, 9),
    "change-the-state-of-matter-of": (14, 7, 9),
    "chemistry-mix": (16, 8, 8),
    "chemistry-mix-paint-secondary-color": (18, 9, 9),
    "chemistry-mix-paint-tertiary-color": (18, 9, 9),
    "find-animal": (150, 75, 75),
    "find-living-thing": (150, 75, 75),
    "find-non-living-thing": (150, 75, 75),
    "find-plant": (150, 75, 75),
    "freeze": (14, 7, 9),
    "grow-fruit": (62, 31, 33),
    "grow-plant": (62, 31, 33),
    "identify-life-stages-1": (6, 3, 5),
    "identify-life-stages-2": (4, 2, 4),
    "inclined-plane-determine-angle": (84, 42, 42),
    "inclined-plane-friction-named-surfaces": (692, 346, 348),
    "inclined-plane-friction-unnamed-surfaces": (80, 40, 42),
    "lifespan-longest-lived": (62, 31, 32),
    "lifespan-longest-lived-then-shortest-lived": (62, 31, 32),
    "lifespan-shortest-lived": (62, 31, 32),
    "measure-melting-point-known-substance": (218, 109, 109),
    "measure-melting-point-unknown-substance": (150, 75, 75),
    "melt": (14, 7, 9),
    "mendelian-genetics-known-plant": (60, 30, 30),
    "mendelian-genetics-unknown-plant": (240, 120, 120),
    "power-component": (10, 5, 5),
    "power-component-renewable-vs-nonrenewable-energy": (10, 5, 5),
    "test-conductivity": (450, 225, 225),
    "test-conductivity-of-unknown-substances": (300, 150, 150),
    "use-thermometer": (270, 135, 135),
}
# Tasks that are trained on, and unseen ones, by the name of the choice.
CHOICES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "all": (tuple(VARIATIONS), ()),
    "paper": (
        ("power-component", "test-conductivity"),
        (
            "power-component-renewable-vs-nonrenewable-energy",
            "test-conductivity-of-unknown-substances",
        ),
    ),
    # Solved in a few commands: for small policies.
    "short": (
        (
            "find-animal",
            "find-non-living-thing",
            "find-plant",
            "lifespan-longest-lived",
            "lifespan-shortest-lived",
        ),
        ("find-living-thing",),
    ),
}
SIMPLIFICATIONS = (
    "easy",
    "teleportAction",
    "selfWateringFlowerPots",
    "openContainers",
    "openDoors",
    "noElectricalAction",
)


def parse_names(key: str, names: str) -> tuple[str, ...]:
    """Return the tasks of a list with commas.

    Args:
        key: what errors call the list.
        names: the list.

    Raises:
        ValueError: there is no such task; the message names those that there are.
    """
    parts = tuple(part.strip() for part in names.split(",") if part.strip())
    for part in parts:
        if part not in VARIATIONS:
            raise ValueError(
                f"{key}={names!r}: there is no task {part!r}: {', '.join(VARIATIONS)}"
            )
    if len(set(parts)) < len(parts):
        raise ValueError(f"{key}={names!r} names a task twice")
    return parts


def chosen(tasks: str, unseen: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tasks that are trained on, and the unseen ones.

    Args:
        tasks: a key of `CHOICES`, or names with commas.
        unseen: names with commas, where `tasks` has names.

    Raises:
        ValueError: they name no tasks, or one of them in both.
    """
    if tasks in CHOICES:
        if unseen:
            raise ValueError(f"unseen={unseen!r} with tasks={tasks!r}: name the tasks")
        return CHOICES[tasks]
    known, others = parse_names("tasks", tasks), parse_names("unseen", unseen)
    if not known:
        raise ValueError(
            f"tasks={tasks!r}: choose one of {', '.join(CHOICES)}, or names of tasks"
        )
    if both := set(known) & set(others):
        raise ValueError(f"unseen={unseen!r}: {sorted(both)} are in tasks, too")
    return known, others


def panel(
    names: Sequence[str],
    unseen: Sequence[str],
    split: str,
    limit: int | None,
    *,
    simplifications: str,
    per_task: int = 0,
) -> TaskPanel:
    """Return the tasks of a split, by name and number.

    Args:
        names: of tasks that are trained on.
        unseen: of tasks that are not.
        split: one of `SPLITS`.
        limit: at most so many; all names get the same share as far as they have it.
        simplifications: of all of them; part of the panel's hash.
        per_task: so many of each name in train, rare ones repeated and frequent ones
            spaced evenly; 0: all that there are, each once.

    Raises:
        ValueError: there is no such split, or no unseen task.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    if split == "unseen" and not unseen:
        raise ValueError(
            "split='unseen': there are no such tasks; leave it out, or name tasks in "
            "tasks and others in unseen"
        )
    by_name = [
        _tasks(name, split, simplifications)
        for name in (unseen if split == "unseen" else names)
    ]
    if split == "train" and per_task:
        by_name = [_resized(tasks, per_task) for tasks in by_name]
    return share_out([task for tasks in by_name for task in tasks], limit)


def share_out(tasks: Iterable[Task], limit: int | None) -> TaskPanel:
    """Return a panel of at most `limit` tasks, of each name as many as of others.

    What names with few tasks leave is for those with more.
    """
    by_name: dict[str, list[Task]] = {}
    for task in tasks:
        by_name.setdefault(task.kind, []).append(task)
    left = sum(map(len, by_name.values())) if limit is None else limit
    shares = {}
    smallest_first = sorted(by_name, key=lambda name: len(by_name[name]))
    for position, name in enumerate(smallest_first):
        equal = left // (len(by_name) - position)
        shares[name] = min(len(by_name[name]), equal)
        left -= shares[name]
    chosen = (
        task
        for name, tasks in by_name.items()
        for task in evenly_spaced(tasks, shares[name])
    )
    return TaskPanel(tuple(chosen), {"mean_of_tasks": tuple(by_name)})


def _tasks(name: str, split: str, simplifications: str) -> list[Task]:
    train, dev, test = VARIATIONS[name]
    numbers = {
        "train": range(train),
        "dev": range(train, train + dev),
    }.get(split, range(train + dev, train + dev + test))
    return [
        Task(
            f"{name}/{number}",
            name,
            split,
            json.dumps([name, number, simplifications]),
            digest=f"{_version()} {simplifications}".strip(),
        )
        for number in numbers
    ]


def _resized(tasks: Sequence[Task], count: int) -> list[Task]:
    """Return so many tasks; those that come again have a number of their own."""
    rounds, rest = divmod(count, len(tasks))
    again = [
        replace(task, id=f"{task.id}~{k + 1}") if k else task
        for k in range(rounds)
        for task in tasks
    ]
    more = evenly_spaced(tasks, rest)
    if rounds:
        more = tuple(replace(task, id=f"{task.id}~{rounds + 1}") for task in more)
    return [*again, *more]


def _version() -> str:
    """Name the simulator; without it tasks can be listed, but not played."""
    try:
        return f"scienceworld {version('scienceworld')}"
    except PackageNotFoundError:
        return "scienceworld"
