"""SkillRL: a library of skills, distilled from episodes, that evolves with the policy.

All rollouts read the library that the step began with. The first one is distilled from
the episodes of the first steps; then, every few steps, the types of tasks that mostly
fail are worked on: the writer sees whole failed episodes of theirs and adds or refines
a few skills. This is the published algorithm without the faults of its released code,
see docs/methods.md.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from absl import logging

from reskill_jax.codec import decode, encode
from reskill_jax.environments.task import Task
from reskill_jax.llm.retry import CallError
from reskill_jax.memories.settings import SkillrlSettings
from reskill_jax.memories.skill_entries import (
    GENERAL,
    MISTAKES,
    Entry,
    EntryEdit,
    about,
)
from reskill_jax.memories.skill_evidence import SkillEvidence, compression
from reskill_jax.memories.skill_files import read_entries
from reskill_jax.memories.skill_library import SkillLibrary
from reskill_jax.memories.writer import Writer
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.base import NOT_PLAYED, Draw, Learned, Plan, Setup, waits

_FIRST = 12  # edits per type of task when the first library is distilled


def make(setup: Setup, *, train: bool = True) -> "SkillRL":
    """Make the strategy; `train` says whether the policy learns.

    Raises:
        ValueError: the library cannot be read, or `evolve_from` names tasks that are
            not here.
    """
    return SkillRL(setup, train)


class _Job(TypedDict):
    known: tuple[Entry, ...]
    # Successes and failures of each call.
    calls: list[tuple[list[EpisodeRecord], list[EpisodeRecord]]]
    kinds: list[str]
    count: int  # edits that a call is asked for
    limit: int  # that may be applied


def distil(writer: Writer, job: Any) -> Any:
    """Have skills written, call by call."""
    held = decode(_Job, job, name="job")
    edits: list[EntryEdit] = []
    for won, lost in held["calls"]:
        known = [*held["known"], *(edit.entry for edit in edits)]
        edits += writer.skills(known, won, lost, held["kinds"], held["count"])
    return encode(edits)


class _State(TypedDict):
    library: Any
    evidence: SkillEvidence
    gathered: int
    desk: dict[str, Any]


class SkillRL:
    """See the module."""

    def __init__(self, setup: Setup, train: bool):
        self._setup = setup
        self._train = train
        settings = self._settings = SkillrlSettings(**setup.settings["skillrl"])
        given: tuple[Entry, ...] = ()
        if settings.library:
            given = read_entries(Path(settings.library))  # settings.py has checked it
            self._tell_strange(f"skillrl.library={settings.library!r}", given)
        self._library = SkillLibrary.from_json(
            SkillLibrary(settings, given).to_json(), setup.resources
        )
        self._evidence = SkillEvidence()
        # Steps whose episodes are gathered; a given library needs none.
        self._gathered = settings.gather_steps if given else 0
        self._panel = self._find_panel()
        self._desk = setup.make_desk(distil, waits(setup, train))

    @property
    def incumbent(self) -> Context:
        """The library as it has evolved; evaluation reads it and changes nothing."""
        return self._library

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks, and once each those that evolution learns from."""
        tasks = draw(self._setup.tasks_per_step)
        plan = Plan.alike(tasks, self._library, self._setup.group_size)
        if self._panel and step % self._settings.every == 0:
            plan = _with_panel(plan, self._panel)
        return plan if self._train else plan.frozen()

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Keep the episodes, have skills written when it is time, take what is."""
        own = [e for e in episodes if e.group < self._setup.tasks_per_step]
        asked = [e for e in episodes if e.group >= self._setup.tasks_per_step]
        gathering = self._gathered < self._settings.gather_steps
        for episode in own if gathering or not self._panel else asked:
            self._evidence.add(episode.record(step), episode.reward)
        metrics: dict[str, float] = {}
        self._gathered += bool(gathering and own)
        if gathering and self._gathered == self._settings.gather_steps:
            self._begin_library(step)
        elif not gathering and step % self._settings.every == 0:
            metrics |= self._evolve(step)
        news, events = self._take(step)
        items = Counter(entry.category for entry in self._library.entries)
        general, mistakes = items.pop(GENERAL, 0), items.pop(MISTAKES, 0)
        metrics |= self._desk.take_metrics() | news
        metrics |= {
            "memory/items": float(len(self._library.entries)),
            "memory/read": float(self._read(own)),
            "skillrl/general": float(general),
            "skillrl/specific": float(items.total()),
            "skillrl/mistakes": float(mistakes),
            "skillrl/leaks": float(self._settings.evolve_from == "paper"),
        }
        status = f"{len(self._library.entries)} skills"
        return Learned(metrics, events, status=status)

    def _tell_strange(self, name: str, given: Sequence[Entry]) -> None:
        """Warn of given skills that no task here is of the type of."""
        panel = self._setup.panel(self._setup.split, None)
        kinds = {task.kind for task in panel.tasks}
        strange = {
            entry.category
            for entry in given
            if entry.category not in (GENERAL, MISTAKES)
            and not any(about(entry.category, kind) for kind in kinds)
        }
        if strange:
            logging.warning(
                "%s has skills of types of tasks that are not played here and are "
                "never shown: %s; the types here are %s",
                name,
                ", ".join(sorted(strange)),
                ", ".join(sorted(kinds)) or "none",
            )

    def _tell_few(self, split: str, counts: Counter[str]) -> None:
        """Warn of types with too few tasks in the panel for a rate, see `weak`."""
        least = self._settings.least
        few = sorted(kind for kind, count in counts.items() if count < least)
        if few:
            logging.warning(
                "skillrl.least=%d: of %s, %d tasks are played per evolution, too few "
                "for skills to be written for %s: raise skillrl.panel_tasks, or lower "
                "skillrl.least",
                least,
                split,
                counts.total(),
                ", ".join(f"{kind or 'tasks'} ({counts[kind]})" for kind in few),
            )

    def _find_panel(self) -> tuple[Task, ...]:
        """Return the tasks beside training that evolution learns from."""
        split = {"dev": "dev", "paper": self._settings.reported_split}.get(
            self._settings.evolve_from
        )
        if split is None:
            return ()
        panel = self._setup.panel(split, self._settings.panel_tasks)
        self._tell_few(split, Counter(task.kind for task in panel.tasks))
        if self._settings.evolve_from == "paper":
            logging.warning(
                "skills are learnt from %s, as published: its figures leak", split
            )
        return panel.tasks

    def _begin_library(self, step: int) -> None:
        """Have the first library distilled: for each type, successes and failures."""
        kinds, most = sorted(self._evidence.counts), self._settings.per_kind
        calls = [
            (
                self._evidence.successes([kind], most),
                self._evidence.failures([kind], most),
            )
            for kind in kinds
        ]
        limit = _FIRST * max(len(kinds), 1)
        named = [kind for kind in kinds if kind]
        self._submit(step, calls, named, _FIRST, limit)

    def _evolve(self, step: int) -> dict[str, float]:
        """Have skills written for the types of tasks that mostly fail."""
        settings, evidence = self._settings, self._evidence
        weak = evidence.weak(settings.weak, settings.least)
        count = settings.failures
        if evidence.rate() > settings.weak:
            count = max(count // 2, 1)
        lost = evidence.failures(weak, count)
        if lost:
            kinds = sorted(kind for kind in evidence.counts if kind)
            calls = [(list[EpisodeRecord](), lost)]
            self._submit(step, calls, kinds, settings.operations, settings.operations)
        self._evidence = SkillEvidence()
        return {
            "skillrl/weak_kinds": float(len(weak)),
            "skillrl/analysed": float(len(lost)),
        }

    def _submit(
        self,
        step: int,
        calls: list[tuple[list[EpisodeRecord], list[EpisodeRecord]]],
        kinds: list[str],
        count: int,
        limit: int,
    ) -> None:
        known = self._library.entries
        job = _Job(known=known, calls=calls, kinds=kinds, count=count, limit=limit)
        self._desk.submit(step, encode(job))
        self._evidence = SkillEvidence()

    def _take(self, step: int) -> tuple[dict[str, float], tuple[str, ...]]:
        """Let into the library what has been written and is fit.

        Returns:
            Metrics, and what happened.
        """
        before = {entry.id for entry in self._library.entries}
        records: list[EpisodeRecord] = []  # that it was written from
        refused: Counter[str] = Counter()
        for job, result in self._desk.take(step):
            held = decode(_Job, job, name="job")
            records += [r for won, lost in held["calls"] for r in (*won, *lost)]
            edits = [
                replace(edit, entry=replace(edit.entry, born=step))
                for edit in decode(list[EntryEdit], result)
            ]
            try:
                self._library, why = self._library.admit(
                    edits, held["kinds"], held["limit"]
                )
            except CallError as error:
                logging.error(
                    "skills are lost: the embedder does not answer: %s", error
                )
                why = Counter(embedder=len(edits))
            refused += why
        new = [entry for entry in self._library.entries if entry.id not in before]
        events = tuple(f"step {step}: new skill: {entry.title}" for entry in new)
        metrics = {f"skillrl/refused/{why}": float(n) for why, n in refused.items()}
        metrics |= {"memory/written": float(len(new))} | compression(records, new)
        return metrics, events

    def _read(self, episodes: Sequence[Episode]) -> int:
        """Count the episodes that were played on a library that was not empty."""
        empty = SkillLibrary(self._settings).hash
        groups = groupby(episodes, lambda episode: episode.context)
        return sum(len([*members]) for hash_, members in groups if hash_ != empty)

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return encode(
            _State(
                library=self._library.to_json(),
                evidence=self._evidence,
                gathered=self._gathered,
                desk=self._desk.state(),
            )
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        held = decode(_State, state, name="strategy")
        self._library = SkillLibrary.from_json(held["library"], self._setup.resources)
        self._evidence = held["evidence"]
        self._gathered = held["gathered"]
        self._desk.restore(held["desk"])


def _with_panel(plan: Plan, panel: Sequence[Task]) -> Plan:
    """Add tasks that are played once each, on the same library, without training."""
    arms = np.full((len(panel), plan.arms.shape[1]), NOT_PLAYED, np.int32)
    arms[:, 0] = 0
    return replace(
        plan,
        tasks=(*plan.tasks, *panel),
        arms=np.concatenate([plan.arms, arms]),
        train=np.concatenate([plan.train, np.zeros(len(panel), bool)]),
    )
