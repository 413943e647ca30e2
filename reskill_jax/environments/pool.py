"""Environments in worker processes, awaited from asyncio, that survive their crashes.

A daemon thread per worker does the talking. So nothing is bound to an event loop: a
pool, even an episode, may be used from one `asyncio.run` after another.
"""

import asyncio
import pickle
import time
import weakref
from collections.abc import Callable, Hashable
from dataclasses import fields
from typing import Any, Self

from reskill_jax.environments.protocol import Environment, Observation
from reskill_jax.environments.task import Task
from reskill_jax.environments.worker import (
    GRACE_SECONDS,
    PoolCounters,
    ReplayLog,
    Worker,
    WorkerStartError,
)
from reskill_jax.environments.worker_process import Call, WorkerDiedError


class PooledEnvironment:
    """One episode's environment: `Environment` with awaitable methods.

    A context manager; closing it gives the environment to another episode.
    """

    def __init__(self, pool: "EnvironmentPool", worker: Worker, group: Hashable):
        self._pool = pool  # a pool that is forgotten closes itself
        self._worker = worker
        self._group = group
        self._record = ReplayLog(worker.acquire(group))
        self._open = True

    async def reset(self, task: Task) -> tuple[str, Observation]:
        """Start `task`; return its goal sentence and the first observation.

        Raises:
            EnvironmentRaisedError: e.g. for a broken game file.
            WorkerLostError: it killed or hung its worker too often.
            WorkerStartError: the worker had to be restarted and the factory failed.
        """
        return await self._play(Call(self._record.slot, "reset", task))

    async def step(self, action: str) -> Observation:
        """Play one action.

        Raises:
            EnvironmentRaisedError: the episode is lost; `reset` starts another.
            WorkerLostError: it killed or hung its worker too often; the episode still
                stands before this action.
            ReplayError: the environment turned out not to be deterministic.
            WorkerStartError: the worker had to be restarted and the factory failed.
        """
        return await self._play(Call(self._record.slot, "step", action))

    async def finish(self) -> Observation:
        """Score an episode that has reached the turn limit; raises what `step` does."""
        return await self._play(Call(self._record.slot, "finish"))

    def close(self) -> None:
        """Give the environment back; the worker keeps it for another episode."""
        if self._open:
            self._open = False
            self._worker.release(self._group, self._record.slot)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    async def _play(self, call: Call) -> Any:
        if not self._open:
            raise RuntimeError("this episode is closed; open another with pool.open")
        record, worker = self._record, self._worker
        return await asyncio.wrap_future(
            worker.submit(lambda: worker.play(record, call))
        )


class EnvironmentPool:
    """Worker processes that hold environments for many concurrent episodes.

    Example:
        with EnvironmentPool(make, workers=2) as pool:
            with pool.open(task.id) as environment:
                goal, observation = await environment.reset(task)
                observation = await environment.step("look")

    Environments are made when more episodes are open than a worker has seen before, and
    reused afterwards. Use a pool, and what it opens, from one thread at a time.

    Args:
        make: picklable, importable, called without arguments in the workers only.
        workers: number of processes, about one per core.
        timeout_s: seconds for one reset or step before its worker is killed.
        max_attempts: how often one request may take down its worker.
        start_timeout_s: seconds for a worker to start and make its first environment.

    Raises:
        WorkerStartError: a worker does not start, or the factory fails in it.
    """

    def __init__(
        self,
        make: Callable[[], Environment],
        *,
        workers: int,
        timeout_s: float = 60.0,
        max_attempts: int = 3,
        start_timeout_s: float = 120.0,
    ):
        for name, value in (("workers", workers), ("max_attempts", max_attempts)):
            if value < 1:
                raise ValueError(f"{name}={value}: at least 1 is needed")
        for name, seconds in (
            ("timeout_s", timeout_s),
            ("start_timeout_s", start_timeout_s),
        ):
            if not seconds > 0:
                raise ValueError(f"{name}={seconds}: needs a positive time in seconds")
        recipe = pickle.dumps(make)
        self._workers = [
            Worker(recipe, timeout_s, start_timeout_s, max_attempts)
            for _ in range(workers)
        ]
        # At exit and when forgotten, too; it must not refer to the pool itself.
        self._finalizer = weakref.finalize(self, _close, self._workers)
        starts = [worker.submit(worker.start) for worker in self._workers]
        try:
            for start in starts:
                start.result()
        except WorkerDiedError as died:
            self.close()
            raise WorkerStartError(f"at its start, a worker {died}") from None
        except BaseException:
            self.close()
            raise

    def open(self, group: Hashable) -> PooledEnvironment:
        """Begin an episode.

        Args:
            group: episodes of one group, e.g. of one game, that are open together
                share a worker and what it caches; groups spread over the workers.
        """
        homes = (worker for worker in self._workers if worker.groups[group])
        emptiest = min(self._workers, key=lambda worker: worker.groups.total())
        return PooledEnvironment(self, next(homes, emptiest), group)

    @property
    def counters(self) -> PoolCounters:
        """Sums over the workers, as of now."""
        parts = [worker.counters for worker in self._workers]
        return PoolCounters(
            **{
                each.name: sum(getattr(part, each.name) for part in parts)
                for each in fields(PoolCounters)
            }
        )

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the workers that are running."""
        processes = [worker.process for worker in self._workers]
        return tuple(process.pid for process in processes if process is not None)

    def close(self) -> None:
        """End the workers; requests in flight get a few seconds, waiting ones fail."""
        self._finalizer()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()


def _close(workers: list[Worker]) -> None:
    for worker in workers:
        worker.close_soon()
    deadline = time.monotonic() + GRACE_SECONDS
    for worker in workers:
        worker.close(deadline)
