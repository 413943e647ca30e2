"""Remote environments: coroutines in the trainer, which only wait for a network.

They need neither processes nor replay: what failed, failed at the other end, and
whoever plays the episode decides whether to play it again. Hundreds are in flight at
once; each has a time limit per call.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from reskill_jax.environments.protocol import (
    EpisodeLostError,
    Observation,
    check_answer,
)
from reskill_jax.environments.task import Task

_T = TypeVar("_T")


class RemoteError(EpisodeLostError):
    """A remote environment raised an error, or did not answer in time."""

    again_after_s = 1.0  # what was overloaded or restarts needs a moment


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
        with _failing("opening an environment"):
            environment = self._make()
        try:
            yield _Limited(environment, self._timeout_s)
        finally:
            with _failing("close"):
                environment.close()


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Name what failed.

    Raises:
        RemoteError: instead of any other exception.
    """
    try:
        yield
    except Exception as error:
        raise RemoteError(f"{what} raised {type(error).__name__}: {error}") from error


class _Limited:
    """A remote environment whose calls have a time limit."""

    def __init__(self, environment: RemoteEnvironment, timeout_s: float):
        self._environment = environment
        self._timeout_s = timeout_s
        self._task: str | None = None  # id of the one that was begun

    async def reset(self, task: Task) -> tuple[str, Observation]:
        self._task = task.id
        return await self._limit("reset", lambda: self._environment.reset(task))

    async def step(self, action: str) -> Observation:
        return await self._limit(
            "step", lambda: self._environment.step(action), f" {action!r}"
        )

    async def finish(self) -> Observation:
        return await self._limit("finish", self._environment.finish)

    async def _limit(
        self, method: str, call: Callable[[], Coroutine[Any, Any, _T]], words: str = ""
    ) -> _T:
        what = f"{method}{words} of task {self._task}"
        try:
            with _failing(what):
                async with asyncio.timeout(self._timeout_s) as limit:
                    return check_answer(method, await call())
        except RemoteError as error:
            if not limit.expired():
                raise
            raise RemoteError(
                f"{what} had no answer in timeout_s={self._timeout_s:g}: is the "
                "service up, and fast enough?"
            ) from error
