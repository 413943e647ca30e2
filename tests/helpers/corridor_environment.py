"""The corridor as a module that `env.name` can name; any words go somewhere.

What a random policy says is nonsense, so its words are mapped to moves, and it reaches
the door now and then. With `remote` it plays in the trainer's own process.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from zlib import crc32

from corridor import ACTIONS, FORMAT, WORDING, Corridor

from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.protocol import EnvironmentSpec, Observation
from reskill_jax.environments.task import Task


@dataclass(frozen=True)
class Settings:
    """Its own keys of the section `env`."""

    train: int = 12
    held_out: int = 4
    remote: bool = False
    broken: int = 0  # the first so many tasks of each split cannot be begun

    def __post_init__(self) -> None:
        if self.train < 1:
            raise ValueError(f"train={self.train}: must be 1 or more")


class Drift(Corridor):
    """A corridor in which any words move."""

    def step(self, action: str) -> Observation:
        return super().step(ACTIONS[crc32(action.encode()) % len(ACTIONS)])


class RemoteDrift:
    """The same with coroutines."""

    def __init__(self) -> None:
        self._world = Drift()

    async def reset(self, task: Task) -> tuple[str, Observation]:
        await asyncio.sleep(0)
        return self._world.reset(task)

    async def step(self, action: str) -> Observation:
        await asyncio.sleep(0)
        return self._world.step(action)

    async def finish(self) -> Observation:
        await asyncio.sleep(0)
        return self._world.finish()

    def close(self) -> None:
        pass


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    return EnvironmentSpec(
        panel=partial(_panel, settings),
        make=RemoteDrift if settings.remote else Drift,
        action_format=FORMAT,
        wordings={"short": WORDING},
        remote=settings.remote,
    )


def _panel(settings: Settings, split: str, limit: int | None) -> TaskPanel:
    if split not in ("train", "held_out"):
        raise ValueError(f"split={split!r}: choose train or held_out")
    tasks = [
        Task(
            f"{split}/{k}",
            f"from-{k % 3}",
            split,
            "broken" if k < settings.broken else str(k % 3),
        )
        for k in range(getattr(settings, split))
    ]
    columns = {"ends": ("from-0", "from-2"), "absent": ("from-0", "from-9")}
    return TaskPanel(evenly_spaced(tasks, limit), columns)
