"""Reflexion: attempts at the same tasks, with a word about why the last one failed.

The policy is frozen. A batch of tasks is attempted up to k times; beside the chain with
reflections runs one of plain retries, so that success within k attempts, which uses the
outcome of each, is compared with the same number of attempts without memory. Evaluation
is of one attempt, with the reflections on training tasks of the same kind.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.memories.reflections import Reflections
from reskill_jax.memories.settings import ReflexionSettings
from reskill_jax.memories.writer import Writer
from reskill_jax.rollout.context import Context, EmptyContext
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.attempts import Attempts
from reskill_jax.strategies.base import NOT_PLAYED, Draw, Learned, Plan, Setup

_PLAIN, _REFLECTING = 0, 1  # chains, and their contexts' places
CHAINS = ("retry", "reflexion")


def make(setup: Setup) -> "Reflexion":
    """Make the strategy."""
    return Reflexion(setup)


class _Failure(TypedDict):
    record: EpisodeRecord
    earlier: list[str]


def reflect(writer: Writer, job: Any) -> list[list[str]]:
    """Have a lesson written on each failed episode; pairs of task and text."""
    failures = decode(list[_Failure], job)
    return [
        [failure["record"].task, writer.lesson(failure["record"], failure["earlier"])]
        for failure in failures
    ]


def failures(
    context: Reflections, episodes: Sequence[Episode], step: int
) -> list[dict[str, Any]]:
    """Return the job of reflecting on failed episodes, as a JSON document."""
    return [
        encode(
            _Failure(record=episode.record(step), earlier=context.about(episode.task))
        )
        for episode in episodes
        if not episode.success
    ]


class _State(TypedDict):
    attempts: Attempts
    reflections: Any
    totals: list[list[int]]
    played: int
    desk: dict[str, Any]


class Reflexion:
    """See the module.

    A step is one attempt at all tasks of the batch that are not solved.
    """

    def __init__(self, setup: Setup):
        self._settings = ReflexionSettings(**setup.settings["reflexion"])
        self._tasks_per_step = setup.tasks_per_step
        self._attempts = Attempts(self._settings.attempts, len(CHAINS))
        self._reflections = Reflections(shown=self._settings.shown)
        # By chain, tasks solved at each attempt, of all finished batches.
        self._totals = [[0] * self._settings.attempts for _ in CHAINS]
        self._played = 0  # tasks of those batches
        self._desk = setup.make_desk(reflect, True)

    @property
    def incumbent(self) -> Context:
        """Reflections on training tasks, found by kind."""
        return replace(self._reflections, match="kind")

    def plan(self, step: int, draw: Draw) -> Plan:
        """Attempt what is not solved again, or the next tasks."""
        if self._attempts.over:
            self._attempts.begin(draw(self._tasks_per_step))
        places = self._attempts.pending()
        arms = np.array(
            [
                [
                    NOT_PLAYED if self._attempts.solved[chain][place] else chain
                    for chain in range(len(CHAINS))
                ]
                for place in places
            ],
            np.int32,
        )
        return Plan(
            tasks=tuple(self._attempts.tasks[place] for place in places),
            contexts=(EmptyContext(), self._reflections),
            arms=arms,
            train=np.zeros(len(places), bool),
        )

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Reflect on what failed; nothing else goes on until that is written."""
        won = {(e.arm, e.task.id) for e in episodes if e.success}
        tasks = {e.task.id: e.task for e in episodes}
        shown = [e for e in episodes if e.arm == _REFLECTING]
        read = sum(bool(self._reflections.about(e.task)) for e in shown)
        self._attempts.record(lambda chain, task: (chain, task) in won)
        before = len(self._reflections.items)
        if self._attempts.made < self._attempts.most:
            self._desk.submit(step, failures(self._reflections, shown, step))
        for _, written in self._desk.take(step):
            for task, text in written:
                self._reflections = self._reflections.plus(tasks[task], text)
        items = len(self._reflections.items)
        metrics = self._desk.take_metrics() | {
            "memory/items": float(items),
            "memory/written": float(items - before),
            "memory/read": float(read),
        }
        if self._attempts.over and self._attempts.tasks:
            metrics |= self._count()
        return Learned(
            metrics,
            status=f"attempt {self._attempts.made} of {self._attempts.most}, {items} "
            "reflections",
        )

    def _count(self) -> dict[str, float]:
        """Add a finished batch to the totals; return success@1 and success@k of all."""
        self._played += len(self._attempts.tasks)
        metrics = {}
        most = self._attempts.most
        for chain, name in enumerate(CHAINS):
            for attempt in self._attempts.solved[chain]:
                if attempt:
                    self._totals[chain][attempt - 1] += 1
            solved = np.cumsum(self._totals[chain]) / self._played
            for k in sorted({1, most}):
                metrics[f"{name}/success_at_{k}"] = float(solved[k - 1])
        return metrics

    def state(self) -> dict[str, Any]:
        """Return everything that changes."""
        return encode(
            _State(
                attempts=self._attempts,
                reflections=self._reflections.to_json(),
                totals=self._totals,
                played=self._played,
                desk=self._desk.state(),
            )
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        held = decode(_State, state, name="strategy")
        self._attempts = held["attempts"]
        self._reflections = Reflections.from_json(held["reflections"], {})
        self._totals, self._played = held["totals"], held["played"]
        self._desk.restore(held["desk"])
