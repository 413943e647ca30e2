"""Corridors that really fail, for worker processes to import."""

import os
from pathlib import Path

from corridor import Corridor

from reskill_jax.environments.task import Task


class Flaky(Corridor):
    """Its source is a file with the number of steps that will still fail."""

    def reset(self, task):
        self._path = Path(task.source)
        return super().reset(Task(task.id, task.kind, task.split, "1"))

    def step(self, action):
        left = int(self._path.read_text())
        if left:
            self._path.write_text(str(left - 1))
            raise ConnectionError(f"{left} left")
        return super().step(action)


class Deadly(Corridor):
    """Kills its worker process at the second step."""

    def step(self, action):
        if self._played:
            os._exit(3)
        return super().step(action)
