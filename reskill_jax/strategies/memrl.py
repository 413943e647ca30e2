"""MemRL: memories of episodes, each with a utility that their use has earned.

Before an episode the memories of similar tasks are retrieved, the same for a whole
group; after it, the utility of what was shown follows the group's mean return, and a
success and a failure of each group become memories. With GRPO beside it, as the ReSkill
paper compares it, or with a frozen policy, as published.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypedDict

import numpy as np
from absl import logging

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.memories.settings import MemrlSettings
from reskill_jax.memories.texts import trajectory
from reskill_jax.memories.utility import Experience, UtilityMemory
from reskill_jax.memories.writer import Writer
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup, waits


def make(setup: Setup, *, train: bool = True) -> "Memrl":
    """Make the strategy; `train` says whether the policy learns."""
    return Memrl(setup, train)


class _Job(TypedDict):
    records: list[EpisodeRecord]


def write(writer: Writer, job: Any) -> list[str]:
    """Have a script written of every success, and a lesson of every failure."""
    return [
        writer.script(record) if record.success else writer.lesson(record, ())
        for record in decode(_Job, job)["records"]
    ]


class _State(TypedDict):
    memory: Any
    desk: dict[str, Any]


class Memrl:
    """See the module."""

    def __init__(self, setup: Setup, train: bool):
        self._setup = setup
        self._train = train
        settings = MemrlSettings(**setup.settings["memrl"])
        self._memory = UtilityMemory.from_json(
            UtilityMemory(settings).to_json(), setup.resources
        )
        self._desk = setup.make_desk(write, waits(setup, train))
        self._lost = 0  # look-ups at this step that failed

    @property
    def incumbent(self) -> Context:
        """The memory; evaluation reads it and changes nothing."""
        return self._memory

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks on the memory."""
        tasks = draw(self._setup.tasks_per_step)
        size = self._setup.group_size
        return Plan.alike(tasks, self._memory, size, train=self._train)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Reward what was shown, take what is written, ask for more."""
        returns: dict[str, list[float]] = defaultdict(list)
        records: list[EpisodeRecord] = []
        read = self._lost = 0
        for _, members in groupby(episodes, lambda episode: episode.group):
            group = list(members)
            mean = 2 * float(np.mean([episode.success for episode in group])) - 1
            shown = self._shown(group[0])
            read += len(group) * bool(shown)
            for item in shown:
                returns[item.id].append(mean)
            records += _to_write([episode.record(step) for episode in group])
        self._memory = self._memory.rewarded(returns)
        if records:
            self._desk.submit(step, encode(_Job(records=records)))
        written = self._take(step)
        items = self._memory.items
        metrics = self._desk.take_metrics() | {
            "memory/items": float(len(items)),
            "memory/written": float(written),
            "memory/read": float(read),
            "memory/failed_lookups": float(self._lost),
        }
        if items:
            metrics["memory/utility"] = float(np.mean([item.q for item in items]))
        return Learned(metrics, status=f"{len(items)} memories")

    def _shown(self, episode: Episode) -> list[Experience]:
        """Return what an episode was shown; its vectors are remembered.

        Nothing, counted, where the embedder does not know them any more and its service
        does not answer: training goes on.
        """
        key = self._memory.key(episode.goal, episode.observations[0])
        try:
            return asyncio.run(self._memory.retrieve(key))
        except EpisodeLostError as error:
            logging.error("utilities are not updated: %s", error)
            self._lost += 1
            return []

    def _take(self, step: int) -> int:
        """Add what has been written."""
        before = {item.id for item in self._memory.items}
        for job, texts in self._desk.take(step):
            records = decode(_Job, job)["records"]
            for record, text in zip(records, texts, strict=True):
                seen = record.observations[0] if record.observations else ""
                kept = self._memory.settings.show == "trajectory"
                new = Experience(
                    key=self._memory.key(record.goal, seen),
                    text=text,
                    success=record.success,
                    trajectory=trajectory(record) if kept else "",
                    born=step,
                )
                try:
                    self._memory = asyncio.run(self._memory.plus(new))
                except EpisodeLostError as error:
                    logging.error("a memory is lost: %s", error)
                    self._lost += 1
        return len({item.id for item in self._memory.items} - before)

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return {"memory": self._memory.to_json(), "desk": self._desk.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        held = decode(_State, state, name="strategy")
        self._memory = UtilityMemory.from_json(held["memory"], self._setup.resources)
        self._desk.restore(held["desk"])


def _to_write(records: Sequence[EpisodeRecord]) -> list[EpisodeRecord]:
    """Return a group's shortest success, and its first failure."""
    won = [record for record in records if record.success]
    lost = [record for record in records if not record.success]
    return [*sorted(won, key=lambda r: len(r.actions))[:1], *lost[:1]]
