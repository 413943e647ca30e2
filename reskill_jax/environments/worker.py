"""Restarts a worker process that dies or hangs, and replays its episodes.

Every worker serves one request at a time, so that the request in flight is what a dead
or hanging worker is blamed on. Each episode is replayed from its task and recorded
actions before its next step, and compared with what it saw last. The caller notices
nothing but a delay and a counter.
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

from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.environments.task import Task
from reskill_jax.environments.worker_process import (
    Call,
    Failure,
    Open,
    Reply,
    WorkerDiedError,
    WorkerProcess,
)

GRACE_SECONDS = 5.0  # that a worker gets to close its environments
_logger = logging.getLogger(__name__)


class WorkerStartError(RuntimeError):
    """The worker process does not start, or the environment factory fails in it."""


class WorkerLostError(EpisodeLostError):
    """One request made its worker die or hang `max_attempts` times."""

    again_after_s = None


class ReplayError(EpisodeLostError):
    """An environment is not deterministic: a replayed episode differs."""


class EnvironmentRaisedError(EpisodeLostError):
    """The environment itself raised an exception; its worker keeps running.

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
    """Totals since the pool was made.

    Attributes:
        restarts: restarts of worker processes.
        timeouts: requests that took longer than `timeout_s`.
        replayed_episodes: episodes replayed after a restart.
        replayed_steps: steps of those.
        resets: resets answered, without replays.
        steps: steps answered, without replays.
        cpu_seconds: CPU time of worker processes in environments, their construction
            and replays included; processes that environments start are not.
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
    """What an episode is replayed from after its worker was restarted.

    Attributes:
        slot: number of its environment in the worker.
        task: None before the first reset and after the environment raised.
        actions: those answered since the reset.
        last: what the last request returned.
        process_number: the process of the worker that the episode was last played in.
    """

    slot: int
    task: Task | None = None
    actions: list[str] = field(default_factory=list)
    last: Any = None
    process_number: int = 0


class Worker:
    """A worker process with the thread that sends it requests and restarts it.

    Attributes:
        counters: written by the thread only.
        groups: number of open episodes by group.
        process: the present process; None before the first and after the last.
    """

    def __init__(
        self,
        factory: bytes,
        timeout_s: float,
        start_timeout_s: float,
        max_attempts: int,
    ):
        """Start the thread, not yet the process.

        Args:
            factory: makes an environment; pickled.
            timeout_s: seconds that one request may take.
            start_timeout_s: seconds that a process may take to start and to make its
                first environment.
            max_attempts: how often one request may make its worker die or hang.
        """
        self.counters = PoolCounters()
        self.groups: Counter[Hashable] = Counter()
        self.process: WorkerProcess | None = None
        self._factory = factory
        self._timeout_s = timeout_s
        self._start_timeout_s = start_timeout_s
        self._max_attempts = max_attempts
        self._process_number = 0
        self._free: list[int] = []  # heap of unused slots
        self._slots = 0
        self._closing = False
        self._jobs: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None]
        self._jobs = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def acquire(self, group: Hashable) -> int:
        """Return a slot for an episode of the group."""
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
        """Queue a job for the thread."""
        future: Future = Future()
        self._jobs.put((future, job))
        return future

    def start(self) -> None:
        """Start the process unless it is running; a job for the thread.

        Raises:
            WorkerStartError: the factory raised; trying again would not help.
            WorkerDiedError: the worker died or hung at its start.
        """
        if self._closing:
            raise RuntimeError("the environment pool is closed; make a new one")
        if self.process is not None:
            if self.process.alive():
                return
            self.process.end()
            _logger.warning("an idle environment worker died; it is restarted")
        self.process = WorkerProcess()
        reply = self._send(Open(self._factory), self._start_timeout_s)
        if reply.failure is not None:
            self.process.end()
            self.process = None
            raise WorkerStartError(
                f"the environment factory raised {reply.failure.kind}: "
                f"{reply.failure.message}\nIt runs in a worker process, so it must be "
                "importable (not defined in the main script) and its package "
                f"installed. In the worker:\n{reply.failure.traceback}"
            )
        self._process_number += 1
        self.counters.restarts += self._process_number > 1

    def play(self, record: ReplayLog, call: Call) -> Any:
        """Do one request of an episode, with restarts; a job for the thread."""
        if call.method != "reset" and record.task is None:
            raise RuntimeError(f"{call.method} without a task: reset first")
        losses: list[str] = []
        while len(losses) < self._max_attempts:
            try:
                self.start()
                if (
                    call.method != "reset"
                    and record.process_number != self._process_number
                ):
                    self._replay(record)
                value = self._ask(record, call)
            except WorkerDiedError as died:
                losses.append(f"attempt {len(losses) + 1}: the worker {died}")
                _logger.warning("an environment worker %s", died)
                continue
            self._note(record, call, value)
            return value
        raise WorkerLostError(
            f"{_describe(record, call)} made its worker fail {len(losses)} times:\n"
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
        """Refuse further requests; stop the process after those that are queued."""
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

    def _send(self, message: Open | Call, timeout_s: float) -> Reply:
        assert self.process is not None
        try:
            reply = self.process.ask(message, timeout_s)
        except WorkerDiedError as died:
            self.process = None
            self.counters.timeouts += died.timed_out
            raise
        self.counters.cpu_seconds += reply.cpu_seconds
        return reply

    def _ask(self, record: ReplayLog, call: Call) -> Any:
        reply = self._send(call, self._timeout_s)
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
        record.last, record.process_number = value, self._process_number

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
        record.process_number = self._process_number
        self.counters.replayed_episodes += 1
        self.counters.replayed_steps += len(record.actions)


def _describe(record: ReplayLog, call: Call) -> str:
    if isinstance(call.argument, Task):
        return f"reset of task {call.argument.id} (source {call.argument.place})"
    task = record.task.id if record.task is not None else None
    what = call.method if call.argument is None else f"step {call.argument!r}"
    return f"{what} of task {task} after actions {record.actions}"
