"""Remote environments: coroutines in the trainer, which only wait for a network.

They need neither processes nor replay: what failed, failed at the other end. Hundreds
are in flight at once; each has a time limit per call.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task

_T = TypeVar("_T")


class RemoteEnvironment(Protocol):
    """`Environment` with coroutines; one per episode, closed at its end."""

    async def reset(self, task: Task) -> tuple[str, Observation]:
        """Start `task`; return its goal sentence and the first observation."""
        ...

    async def step(self, action: str) -> Observation:
        """Play one action."""
        ...

    async def finish(self) -> Observation:
        """Score an episode that has reached the turn limit."""
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...


class RemotePlayers:
    """Opens remote environments for episodes; see `collector.Players`.

    Args:
        make: makes an environment; called in the trainer.
        timeout_s: seconds for one call.
    """

    def __init__(self, make: Callable[[], RemoteEnvironment], *, timeout_s: float):
        self._make = make
        self._timeout_s = timeout_s

    @contextmanager
    def open(self, group: str) -> Iterator["_Limited"]:
        """Begin an episode; groups share nothing here."""
        environment = self._make()
        try:
            yield _Limited(environment, self._timeout_s)
        finally:
            environment.close()


class _Limited:
    """A remote environment whose calls have a time limit."""

    def __init__(self, environment: RemoteEnvironment, timeout_s: float):
        self._environment = environment
        self._timeout_s = timeout_s

    async def reset(self, task: Task) -> tuple[str, Observation]:
        return await self._limit(
            self._environment.reset(task), f"reset of task {task.id}"
        )

    async def step(self, action: str) -> Observation:
        return await self._limit(self._environment.step(action), f"step {action!r}")

    async def finish(self) -> Observation:
        return await self._limit(self._environment.finish(), "finish")

    async def _limit(self, call: Coroutine[Any, Any, _T], what: str) -> _T:
        try:
            return await asyncio.wait_for(call, self._timeout_s)
        except TimeoutError as error:
            raise TimeoutError(
                f"{what} had no answer in timeout_s={self._timeout_s:g}: is the "
                "service up, and fast enough?"
            ) from error
