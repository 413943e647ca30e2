"""EvolveR: the policy asks a memory of principles that its own episodes have taught.

`<search_experience>` is answered by the guide and is a turn like others; what it says
is in the trunk and no target of the loss. A share of each group's episodes, half of
them successes, is summarised into principles; those that say the same are merged, and
those whose use has not paid are pruned. Episodes, outcomes and what was shown are
paired by the episode, never by a place in a list.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypedDict

import numpy as np
from absl import logging

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.memories.principles import TAG, Principle, Principles
from reskill_jax.memories.settings import EvolverSettings
from reskill_jax.memories.writer import Writer
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup, waits


def make(setup: Setup, *, train: bool = True) -> "Evolver":
    """Make the strategy; `train` says whether the policy learns."""
    return Evolver(setup, train)


class _Job(TypedDict):
    records: list[EpisodeRecord]
    memory: Any


class _Merge(TypedDict):
    new: Principle
    into: str


class _Written(TypedDict):
    merges: list[_Merge]  # into: id of a known principle, or "" for none


def write(resources: Mapping[str, Any], writer: Writer, job: Any) -> Any:
    """Summarise episodes, and tell which principles are known already.

    Of those from one task and of one type that mean the same, the first is kept. Then
    the nearest known ones of the same type are compared, one new principle after the
    other: what an earlier one says is known to those that follow.
    """
    held = decode(_Job, job)
    memory = Principles.from_json(held["memory"], resources)
    kept: list[Principle] = []
    for record in held["records"]:
        text = writer.principle(record)
        new = Principle(text, record.success, (record.task,), born=record.step)
        siblings = (
            p for p in kept if p.tasks == new.tasks and p.guiding == new.guiding
        )
        if text and not any(writer.same(p.text, text) for p in siblings):
            kept.append(new)
    merges = []
    for new in kept:
        near = asyncio.run(memory.matches(new))
        into = next((p.id for p in near if writer.same(p.text, new.text)), "")
        merges.append(_Merge(new=new, into=into))
        if not into:
            memory = memory.plus(new)
    return encode(_Written(merges=merges))


class _State(TypedDict):
    memory: Any
    desk: dict[str, Any]
    records: list[EpisodeRecord]


class Evolver:
    """See the module."""

    def __init__(self, setup: Setup, train: bool):
        self._setup = setup
        self._train = train
        self._settings = EvolverSettings(**setup.settings["evolver"])
        self._memory = Principles.from_json(
            Principles(self._settings).to_json(), setup.resources
        )
        # Chosen for summaries since the last ones were asked for.
        self._records: list[EpisodeRecord] = []
        self._desk = setup.make_desk(
            partial(write, setup.resources), waits(setup, train)
        )

    @property
    def incumbent(self) -> Context:
        """The principles; evaluation reads them and changes nothing."""
        return self._memory

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks; all may ask."""
        tasks = draw(self._setup.tasks_per_step)
        size = self._setup.group_size
        return Plan.alike(tasks, self._memory, size, train=self._train)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Credit what was shown, take what is written, ask for more, prune."""
        groups = [list(g) for _, g in groupby(episodes, lambda e: e.group)]
        read, lost = 0, 0
        uses, wins = Counter[str](), Counter[str]()
        for group in groups:
            mean = float(np.mean([episode.success for episode in group]))
            for episode in group:
                try:
                    shown = self._shown(episode)
                except EpisodeLostError as error:
                    logging.error("an episode's principles get no credit: %s", error)
                    lost += 1
                    continue
                read += bool(shown)
                uses.update(shown)
                won = episode.success
                if self._settings.credit == "relative":
                    won = episode.success > mean
                wins.update(shown if won else ())
        self._memory = self._memory.credited(uses, wins)
        self._records += [
            episode.record(step)
            for group in groups
            for episode in to_summarise(group, self._settings.share)
        ]
        if self._records and step % self._settings.organise_every == 0:
            job = _Job(records=self._records, memory=self._memory.to_json())
            self._desk.submit(step, encode(job))
            self._records = []
        written = self._take(step)
        pruned = 0
        every = self._settings.prune_every
        if every and step % every == 0:
            before = len(self._memory.items)
            self._memory = self._memory.pruned()
            pruned = before - len(self._memory.items)
        turns = [turn for episode in episodes for turn in episode.turns]
        items = self._memory.items
        metrics = self._desk.take_metrics() | {
            "memory/items": float(len(items)),
            "memory/written": float(written),
            "memory/read": float(read),
            "memory/failed_lookups": float(lost),
            "memory/pruned": float(pruned),
        }
        if turns:
            asked = sum(_asks(turn.text) for turn in turns)
            metrics["memory/queries_per_turn"] = asked / len(turns)
        return Learned(metrics, status=f"{len(items)} principles")

    def _shown(self, episode: Episode) -> set[str]:
        """Return the ids of the principles that an episode was shown.

        Raises:
            EpisodeLostError: the embedder's service does not answer.
        """
        shown: set[str] = set()
        after = episode.observations[1:]
        for turn, seen in zip(episode.turns, after, strict=True):
            if _asks(turn.text):
                shown |= self._memory.shown_in(seen)
        if self._settings.ask == "goal":
            opening = asyncio.run(self._memory.opening(episode.goal))
            shown |= self._memory.shown_in(opening)
        return shown

    def _take(self, step: int) -> int:
        """Add or merge what has been written; a known one may be gone by now."""
        written = 0
        for _, result in self._desk.take(step):
            for merge in decode(_Written, result)["merges"]:
                known = {item.id: item for item in self._memory.items}
                if merge["into"] in known:
                    into = known[merge["into"]]
                    self._memory = self._memory.merged(merge["new"], into)
                else:
                    self._memory = self._memory.plus(merge["new"])
                    written += 1
        return written

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return {
            "memory": self._memory.to_json(),
            "desk": self._desk.state(),
            "records": encode(self._records),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        # Checkpoints of earlier versions have no records.
        held = decode(_State, {"records": []} | state, name="strategy")
        self._records = held["records"]
        self._memory = Principles.from_json(held["memory"], self._setup.resources)
        self._desk.restore(held["desk"])


def to_summarise(group: Sequence[Episode], share: float) -> list[Episode]:
    """Choose max(1, floor(share G)) episodes of a group, half of each outcome.

    Where there are too few of one outcome, the other fills up. The first ones are
    taken, which chance has put there.
    """
    count = min(len(group), max(1, int(share * len(group))))
    won = [episode for episode in group if episode.success]
    lost = [episode for episode in group if not episode.success]
    wins = min(len(won), max((count + 1) // 2, count - len(lost)))
    return [*won[:wins], *lost[: count - wins]]


def _asks(response: str) -> bool:
    return f"<{TAG}>" in response.lower()
