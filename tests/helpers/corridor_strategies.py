"""Strategies that use all that a plan may be, as a module for `strategy.name`.

`strategy.mode` says which liberties are taken, with "+" between them:

    again     tasks that nobody solved are played again, with a word about the last try
    pauses    at every third step nothing is played
    frozen    at every second step the policy does not learn
    sizes     groups have one rollout more or fewer than configured, by turns
    parts     one group is for verification only; some rollouts are not played
    arms      every second rollout is on an arm that is said to be better each time
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import (
    Context,
    EmptyContext,
    StaticGuide,
    context_kind,
    context_to_json,
    open_context,
)
from reskill_jax.rollout.episode import Episode
from reskill_jax.strategies.base import NOT_PLAYED, Draw, Learned, Plan, Setup


@context_kind("test/tries")
@dataclass(frozen=True)
class Tries:
    """Opens with how the last try of a task ended."""

    kind = "test/tries"
    ends: tuple[tuple[str, str], ...] = ()  # (id of a task, how it ended)

    @property
    def hash(self) -> str:
        return f"tries:{self.ends!r}"

    async def begin(self, task: Task, goal: str, observation: Observation):
        return StaticGuide(dict(self.ends).get(task.id, ""))

    def to_json(self) -> Any:
        return self.ends

    @classmethod
    def from_json(cls, document: Any, resources: Any) -> "Tries":
        return cls(tuple((task, end) for task, end in document))


class Liberties:
    """See the module's docstring."""

    def __init__(self, setup: Setup):
        self._modes = setup.settings["mode"].split("+")
        self._tasks, self._size = setup.tasks_per_step, setup.group_size
        self._unsolved: list[Task] = []
        self._context: Context = Tries() if "again" in self._modes else EmptyContext()
        self._planned = 0

    def plan(self, step: int, draw: Draw) -> Plan:
        self._planned += 1
        if "pauses" in self._modes and step % 3 == 2:
            return Plan((), (), np.zeros((0, self._size), np.int32), np.zeros(0, bool))
        again = self._unsolved[: self._tasks]
        tasks = (*again, *draw(self._tasks - len(again)))
        size = self._size
        if "sizes" in self._modes:
            size += (1, -1)[step % 2]
        plan = Plan.alike(tasks, self._context, size)
        arms, train, contexts = plan.arms.copy(), plan.train.copy(), plan.contexts
        if "frozen" in self._modes and step % 2 == 0:
            train[:] = False
        if "parts" in self._modes:
            train[step % len(tasks)] = False  # for verification
            arms[0] = 1
            arms[:, step % self._size] = NOT_PLAYED
            contexts = (*contexts, Tries(((tasks[0].id, f"step {step}"),)))
        effects: tuple[float, ...] = ()
        if "arms" in self._modes:
            arms[:, 1::2] = 1
            contexts = (*contexts, Tries((("", "arm"),)))
            effects = (0.0, self._planned / 7)
        return replace(plan, contexts=contexts, arms=arms, train=train, effects=effects)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        if "again" in self._modes and episodes:
            solved = {e.task for e in episodes if e.success}
            ends = {e.task: e.final_observation for e in episodes}
            ends = {task: end for task, end in ends.items() if task not in solved}
            self._unsolved = list(ends)
            self._context = Tries(tuple((task.id, end) for task, end in ends.items()))
        return Learned(
            metrics={"test/unsolved": float(len(self._unsolved))},
            events=(f"step {step}: {len(episodes)} episodes",),
            status=f"plan {self._planned}",
        )

    @property
    def incumbent(self) -> Context:
        return self._context

    def state(self) -> dict[str, Any]:
        return {
            "unsolved": [asdict(task) for task in self._unsolved],
            "context": context_to_json(self._context),
            "planned": self._planned,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._unsolved = [Task(**task) for task in state["unsolved"]]
        self._context = open_context(state["context"], {})
        self._planned = state["planned"]


def make(setup: Setup) -> Liberties:
    return Liberties(setup)
