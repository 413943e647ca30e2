"""A worker process that is restarted and its episodes replayed when it is lost.

Every worker serves one request at a time, so a worker that dies or hangs names its
culprit: the request in flight. It is started again, and each of its episodes, when it
next asks for a step, is first replayed from its task and recorded actions and compared
with what it saw last. The caller notices a delay and a counter.
"""

import heapq
import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from reskill_jax.environments.task import Task
from reskill_jax.environments.worker_process import (
    Call,
    Failure,
    Open,
    Reply,
    WorkerGoneError,
    WorkerProcess,
)

GRACE_SECONDS = 5.0  # for a worker to close its environments
_logger = logging.getLogger(__name__)


class WorkerStartError(RuntimeError):
    """The factory of environments fails in the worker, or the worker does not start."""


class WorkerLostError(RuntimeError):
    """One request killed or hung its worker as often as is allowed."""


class ReplayError(RuntimeError):
    """An environment is not deterministic: a replayed episode differs."""


class EnvironmentRaisedError(RuntimeError):
    """The environment itself raised; its worker goes on.

    Attributes:
        kind: name of the exception's type in the worker.
        message: its message.
        traceback: its traceback as text.
    """

    def __init__(self, context: str, failure: Failure):
        super().__init__(
            f"{context} raised {failure.kind}: {failure.message}\n"
            f"In the worker:\n{failure.traceback}"
        )
        self.kind = failure.kind
        self.message = failure.message
        self.traceback = failure.traceback


@dataclass
class PoolCounters:
    """What a pool has done since it was made.

    Attributes:
        restarts: workers started again.
        timeouts: requests that passed the time limit.
        replayed_episodes: episodes played again after a restart.
        replayed_steps: steps of those.
        resets: resets answered, without replays.
        steps: steps answered, without replays.
        cpu_seconds: of the worker processes in environments, replays and the making of
            environments included; without processes that environments start.
    """

    restarts: int = 0
    timeouts: int = 0
    replayed_episodes: int = 0
    replayed_steps: int = 0
    resets: int = 0
    steps: int = 0
    cpu_seconds: float = 0.0


@dataclass
class ReplayLog:
    """All it takes to bring an episode back.

    Attributes:
        slot: its environment in the worker.
        task: None before the first reset and after the environment raised.
        actions: answered since the reset.
        last: what the reset returned, then the observation of the last step.
        life: which life of the worker has it on the board.
    """

    slot: int
    task: Task | None = None
    actions: list[str] = field(default_factory=list)
    last: Any = None
    life: int = 0


class Worker:
    """A worker process with the thread that talks to it and restarts it."""

    def __init__(self, make: bytes, limit: float, start_limit: float, attempts: int):
        self.counters = PoolCounters()  # written by the thread only
        self.groups: Counter[Hashable] = Counter()  # open episodes
        self.process: WorkerProcess | None = None
        self._make = make
        self._limit = limit
        self._start_limit = start_limit
        self._attempts = attempts
        self._life = 0
        self._free: list[int] = []  # slots, a heap
        self._slots = 0
        self._closing = False
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def acquire(self, group: Hashable) -> int:
        """Give a slot to an episode of the group."""
        self.groups[group] += 1
        if self._free:
            return heapq.heappop(self._free)
        self._slots += 1
        return self._slots - 1

    def release(self, group: Hashable, slot: int) -> None:
        """Take an episode's slot back."""
        self.groups[group] -= 1
        if not self.groups[group]:
            del self.groups[group]
        heapq.heappush(self._free, slot)

    def submit(self, job: Callable[[], Any]) -> Future:
        """Have the thread do a job, after those before it."""
        future: Future = Future()
        self._jobs.put((future, job))
        return future

    def start(self) -> None:
        """Start the process if there is none alive; a job for the thread.

        Raises:
            WorkerStartError: the factory raised; another attempt would, too.
            WorkerGoneError: the worker died or hung while starting.
        """
        if self._closing:
            raise RuntimeError("the environment pool is closed; make a new one")
        if self.process is not None:
            if self.process.alive():
                return
            self.process.end()
            _logger.warning("an environment worker died idle; it is restarted")
        self.process = WorkerProcess()
        reply = self._send(Open(self._make), self._start_limit)
        if reply.failure is not None:
            self.process.end()
            self.process = None
            raise WorkerStartError(
                f"the factory of environments raised {reply.failure.kind}: "
                f"{reply.failure.message}\nIt runs in a worker process: it must be "
                "importable there (not defined in the main script) and its package "
                f"installed. In the worker:\n{reply.failure.traceback}"
            )
        self._life += 1
        self.counters.restarts += self._life > 1

    def play(self, record: ReplayLog, call: Call) -> Any:
        """Do one request of an episode, through crashes; a job for the thread."""
        if call.method != "reset" and record.task is None:
            raise RuntimeError(f"{call.method} without a task: reset first")
        losses: list[str] = []
        while len(losses) < self._attempts:
            try:
                self.start()
                if call.method != "reset" and record.life != self._life:
                    self._replay(record)
                value = self._ask(record, call)
            except WorkerGoneError as gone:
                losses.append(f"attempt {len(losses) + 1}: the worker {gone}")
                _logger.warning("an environment worker %s", gone)
                continue
            self._note(record, call, value)
            return value
        raise WorkerLostError(
            f"{_describe(record, call)} took down its worker {len(losses)} times:\n"
            + "\n".join(losses)
        )

    def close(self, deadline: float) -> None:
        """Wait for the thread to stop the process; kill it after the deadline."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        while self._thread.is_alive():
            if (process := self.process) is not None:
                process.kill()
            self._thread.join(0.1)

    def close_soon(self) -> None:
        """Take no new request; stop the process after the one in flight."""
        self._closing = True
        self._jobs.put(None)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(job())
            except BaseException as error:
                future.set_exception(error)
        if self.process is not None:
            self.process.stop(GRACE_SECONDS)
            self.process = None

    def _send(self, message: Open | Call, limit: float) -> Reply:
        assert self.process is not None
        try:
            reply = self.process.ask(message, limit)
        except WorkerGoneError as gone:
            self.process = None
            self.counters.timeouts += gone.timed_out
            raise
        self.counters.cpu_seconds += reply.cpu_seconds
        return reply

    def _ask(self, record: ReplayLog, call: Call) -> Any:
        reply = self._send(call, self._limit)
        if reply.failure is not None:
            context = _describe(record, call)
            record.task = None
            raise EnvironmentRaisedError(context, reply.failure)
        return reply.value

    def _note(self, record: ReplayLog, call: Call, value: Any) -> None:
        if isinstance(call.argument, Task):
            record.task, record.actions = call.argument, []
            self.counters.resets += 1
        elif call.argument is not None:
            record.actions.append(call.argument)
            self.counters.steps += 1
        else:  # finished: another turn would be an error
            record.task = None
        record.last, record.life = value, self._life

    def _replay(self, record: ReplayLog) -> None:
        assert record.task is not None
        seen = self._ask(record, Call(record.slot, "reset", record.task))
        for action in record.actions:
            seen = self._ask(record, Call(record.slot, "step", action))
        if seen != record.last:
            raise ReplayError(
                f"task {record.task.id} replayed after a restart, actions "
                f"{record.actions}: now {seen}, before {record.last}; the environment "
                "must be a function of task and actions"
            )
        record.life = self._life
        self.counters.replayed_episodes += 1
        self.counters.replayed_steps += len(record.actions)


def _describe(record: ReplayLog, call: Call) -> str:
    if isinstance(call.argument, Task):
        return f"reset of task {call.argument.id} (source {call.argument.source})"
    task = record.task.id if record.task is not None else None
    what = call.method if call.argument is None else f"step {call.argument!r}"
    return f"{what} of task {task} after actions {record.actions}"
