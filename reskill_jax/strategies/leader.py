"""A strategy for many processes: the first decides, all do as it says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from reskill_jax import distributed
from reskill_jax.codec import decode, encode
from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import Context, context_to_json, open_context
from reskill_jax.rollout.episode import Episode
from reskill_jax.strategies.base import Draw, Learned, Plan, Strategy


class _Plan(TypedDict):
    tasks: tuple[Task, ...]
    contexts: list[dict[str, Any]]
    arms: NDArray[np.int32]
    train: NDArray[np.bool_]
    effects: tuple[float, ...]


class Leader:
    """Holds the strategy in the leader; the other processes hear what it decides.

    So statistics, random draws and calls to language models are made once, and the
    processes cannot drift apart. Its state is the leader's alone.
    """

    def __init__(self, make: Callable[[], Strategy], resources: Mapping[str, Any]):
        """Make the leader's strategy; the others have none.

        Args:
            make: makes it.
            resources: see `open_context`.
        """
        self._strategy: Strategy | None = None

        def begin() -> None:
            self._strategy = make()

        distributed.on_leader(begin)  # all hear it where it cannot be made
        self._resources = resources
        self._incumbent = self._hear_incumbent()

    def plan(self, step: int, draw: Draw) -> Plan:
        """Plan as the leader does."""
        document = distributed.on_leader(
            lambda: _plan_to_json(self._known().plan(step, draw))
        )
        return _plan_from_json(document, self._resources)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Let the leader learn; all get what came of it."""
        document = distributed.on_leader(
            lambda: encode(self._known().observe(step, episodes))
        )
        self._incumbent = self._hear_incumbent()
        return decode(Learned, document)

    @property
    def incumbent(self) -> Context:
        """The leader's."""
        return self._incumbent

    def state(self) -> dict[str, Any]:
        """Return the leader's state; nothing elsewhere."""
        return self._strategy.state() if self._strategy else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state of the leader."""
        distributed.on_leader(lambda: self._known().restore(state))
        self._incumbent = self._hear_incumbent()

    def _known(self) -> Strategy:
        assert self._strategy is not None, "only the leader has a strategy"
        return self._strategy

    def _hear_incumbent(self) -> Context:
        document = distributed.on_leader(
            lambda: context_to_json(self._known().incumbent)
        )
        return open_context(document, self._resources)


def _plan_to_json(plan: Plan) -> Any:
    return encode(
        _Plan(
            tasks=plan.tasks,
            contexts=[context_to_json(context) for context in plan.contexts],
            arms=plan.arms,
            train=plan.train,
            effects=plan.effects,
        )
    )


def _plan_from_json(document: Any, resources: Mapping[str, Any]) -> Plan:
    told = decode(_Plan, document)
    contexts = tuple(open_context(context, resources) for context in told["contexts"])
    return Plan(told["tasks"], contexts, told["arms"], told["train"], told["effects"])
