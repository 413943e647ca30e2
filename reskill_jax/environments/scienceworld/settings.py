"""The keys of a configuration's section `env` that only ScienceWorld has."""

from dataclasses import dataclass

from reskill_jax.environments.scienceworld.tasks import SIMPLIFICATIONS, chosen
from reskill_jax.environments.tfds import parse_source


@dataclass(frozen=True)
class Settings:
    """Which tasks are played, and how hard they are.

    Attributes:
        source: ``tfds:<name>/<version>``, a task set that `write_task_set` wrote;
            empty: the official variations, as follows.
        tasks: which tasks are trained on: all, paper (those of the paper), short (which
            take few commands), or names with commas.
        unseen: names of tasks for the split unseen, where `tasks` has names; the paper
            and short have their own.
        per_task: so many variations of each task in train, rare ones repeated; 0: each
            variation once, so that tasks with many of them are played most.
        simplifications: what is made easier, with commas: easy (all that suit the
            task), teleportAction, selfWateringFlowerPots, openContainers, openDoors,
            noElectricalAction; empty: nothing.
        heap_mb: most memory for objects in each worker's Java machine, in MiB; an open
            episode takes about 30.

    Raises:
        ValueError: a value is out of range.
    """

    source: str = ""
    tasks: str = "all"
    unseen: str = ""
    per_task: int = 0
    simplifications: str = "easy"
    heap_mb: int = 2048

    def __post_init__(self) -> None:
        """Check the values."""
        if self.source:
            parse_source(self.source)
        names = [
            *chosen(self.tasks, self.unseen)[0],
            *chosen(self.tasks, self.unseen)[1],
        ]
        if self.per_task < 0:
            raise ValueError(f"per_task={self.per_task}: must be 0 or more")
        parts = self.simplifications.split(",") if self.simplifications else []
        for part in parts:
            if part not in SIMPLIFICATIONS:
                raise ValueError(
                    f"simplifications={self.simplifications!r}: {part!r} is none of "
                    f"{', '.join(SIMPLIFICATIONS)}"
                )
        electrical = [n for n in names if "power" in n or "conductivity" in n]
        if "noElectricalAction" in parts and electrical:
            raise ValueError(
                f"simplifications={self.simplifications!r}: {electrical[0]} needs "
                "electrical actions; easy leaves them where they are needed"
            )
        if self.heap_mb < 128:
            raise ValueError(f"heap_mb={self.heap_mb}: one episode needs 128")
