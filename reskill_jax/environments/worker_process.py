"""One worker process that plays environments: its life, and what it is told.

The process is started afresh rather than forked, and not through `multiprocessing`,
whose spawned children run the parent's main module again and would load JAX with it.
It leads a process group of its own: Ctrl-C in the terminal does not reach it, and what
an environment starts (a Java machine, say) ends with it. It ends with its parent, too,
however that ends.
"""

import contextlib
import faulthandler
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal

from reskill_jax.environments.protocol import Environment, Task
from reskill_jax.process import end_group_with_parent

_LAST_WORDS = 2000  # bytes of a dead worker's error output that a message quotes
_EXIT_SECONDS = 1.0  # from a closed connection to the end of the process


@dataclass(frozen=True)
class Open:
    """Load the pickled factory of environments and make the first one, slot 0."""

    make: bytes


@dataclass(frozen=True)
class Call:
    """Call a method of the environment in a slot, which is made when it is missing."""

    slot: int
    method: Literal["reset", "step", "finish"]
    argument: Task | str | None = None  # None for `finish`, which has none


@dataclass(frozen=True)
class Failure:
    """An exception as text: its type's name, its message, its traceback."""

    kind: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Reply:
    """What a message led to: a value or a failure, and the worker's CPU seconds."""

    value: Any
    failure: Failure | None
    cpu_seconds: float


class WorkerGoneError(Exception):
    """The worker ended or had to be killed; says how."""

    def __init__(self, reason: str, timed_out: bool = False):
        super().__init__(reason)
        self.timed_out = timed_out


class WorkerProcess:
    """The parent's end of one worker process. One thread at a time may `ask`."""

    def __init__(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        # Error output goes to a file without a name: it does not disturb the parent's
        # terminal, and tells why a worker died.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `end`)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:] = {sys.path!r}; "
                f"from {__name__} import main; main({theirs.fileno()})",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=[theirs.fileno()],
            process_group=0,
            # Replays in another process must not depend on the order of sets.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        theirs.close()
        self.pid = self._process.pid

    def ask(self, message: Open | Call, limit: float) -> Reply:
        """Send a message and wait for its reply.

        Args:
            message: what to do.
            limit: seconds to wait before the worker is killed.

        Raises:
            WorkerGoneError: the worker ended, or gave no answer in time. It is cleared
                away already.
        """
        try:
            self._connection.send(message)
            if self._connection.poll(limit):
                return self._connection.recv()
            reason, timed_out = f"gave no answer within {limit:g} s", True
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_SECONDS)
            reason, timed_out = self._fate(), False
        last_words = self._last_words()
        self.end()
        raise WorkerGoneError(reason + last_words, timed_out)

    def alive(self) -> bool:
        """Whether the worker waits for a message (it never speaks unasked)."""
        return not self._connection.poll(0)

    def stop(self, grace: float) -> None:
        """Let the worker close its environments; kill it after `grace` seconds."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._connection.send(None)
            self._process.wait(grace)
        self.end()

    def kill(self) -> None:
        """Kill the worker and all that it started; any thread may call this."""
        # macOS answers PermissionError where only a zombie is left in the group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the worker, reap it and free what belongs to it."""
        self.kill()
        self._process.wait()
        self._connection.close()
        self._errors.close()

    def _fate(self) -> str:
        code = self._process.returncode
        if code is None:
            return "closed its connection"
        if code < 0:
            return f"was ended by signal {-code} ({signal.strsignal(-code)})"
        return f"ended with exit code {code}"

    def _last_words(self) -> str:
        descriptor = self._errors.fileno()
        start = max(0, os.fstat(descriptor).st_size - _LAST_WORDS)
        # pread: the worker writes through the same file offset.
        words = os.pread(descriptor, _LAST_WORDS, start).decode(errors="replace")
        return f"; its last words:\n{words.strip()}" if words.strip() else ""


class _Host:
    """The child's environments by slot; a slot is one player, reused for ever."""

    def __init__(self) -> None:
        self._make: Callable[[], Environment]
        self._environments: dict[int, Environment] = {}

    def handle(self, message: Open | Call) -> Any:
        """Do what the message says and return the value for its reply."""
        if isinstance(message, Open):
            self._make = pickle.loads(message.make)
            self._environments[0] = self._make()
            return None
        if message.slot not in self._environments:
            self._environments[message.slot] = self._make()
        environment = self._environments[message.slot]
        try:
            arguments = () if message.argument is None else (message.argument,)
            return getattr(environment, message.method)(*arguments)
        except BaseException:
            # One that raised may be half changed: the slot's next episode gets another.
            del self._environments[message.slot]
            environment.close()
            raise

    def close(self) -> None:
        for environment in self._environments.values():
            environment.close()


def _reply(server: _Host, message: Open | Call) -> Reply:
    start = time.process_time()
    value, failure = None, None
    try:
        value = server.handle(message)
    except (Exception, SystemExit) as error:  # PDDL parsers exit on a broken file
        failure = Failure(type(error).__name__, str(error), traceback.format_exc())
    return Reply(value, failure, time.process_time() - start)


def main(descriptor: int) -> None:
    """Serve the connection behind a file descriptor until told to stop.

    Runs in the child only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    guard = threading.Thread(
        target=end_group_with_parent, args=(descriptor,), daemon=True
    )
    guard.start()
    connection = Connection(descriptor)
    server = _Host()
    while (message := connection.recv()) is not None:
        connection.send(_reply(server, message))
    server.close()
