"""One worker process that plays environments, and the messages that it is sent.

The process is started afresh rather than forked, and not through `multiprocessing`,
whose spawned children run the parent's main module again and would load JAX with it.
It leads a process group of its own: Ctrl-C in the terminal does not reach it, and
processes that an environment starts (a Java machine, say) end with it. It ends with its
parent, however that ends.
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

from reskill_jax.environments.protocol import Environment, Task, check_answer
from reskill_jax.process import end_group_with_parent

_MAX_QUOTED = 2000  # bytes of a dead worker's error output that a message quotes
_EXIT_SECONDS = 1.0  # that a process gets to exit after it closed its connection


@dataclass(frozen=True)
class Open:
    """Load the pickled environment factory and make the first environment, slot 0."""

    factory: bytes


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
    """The result of a message: a value or a failure, and the CPU seconds it took."""

    value: Any
    failure: Failure | None
    cpu_seconds: float


class WorkerDiedError(Exception):
    """The worker ended, or was killed because it did not reply in time; says how."""

    def __init__(self, reason: str, timed_out: bool = False):
        super().__init__(reason)
        self.timed_out = timed_out


class WorkerProcess:
    """The parent's side of one worker process. One thread at a time may `ask`."""

    def __init__(self) -> None:
        self._connection, theirs = multiprocessing.Pipe()
        # Error output goes to an unnamed file: it stays out of the parent's terminal,
        # and shows why a worker died.
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

    def ask(self, message: Open | Call, timeout_s: float) -> Reply:
        """Send a message and wait for its reply.

        Args:
            message: what to do.
            timeout_s: seconds to wait before the worker is killed.

        Raises:
            WorkerDiedError: the worker ended, or did not reply in time and was killed.
                Its resources are freed already.
        """
        try:
            self._connection.send(message)
            if self._connection.poll(timeout_s):
                return self._connection.recv()
            reason, timed_out = f"did not reply within {timeout_s:g} s", True
        except (EOFError, OSError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_EXIT_SECONDS)
            reason, timed_out = self._exit_reason(), False
        output = self._error_output()
        self.end()
        raise WorkerDiedError(reason + output, timed_out)

    def alive(self) -> bool:
        """Whether the worker waits for a message (it sends nothing but replies)."""
        return not self._connection.poll(0)

    def stop(self, grace_s: float) -> None:
        """Let the worker close its environments; kill it after `grace_s` seconds."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            self._connection.send(None)
            self._process.wait(grace_s)
        self.end()

    def kill(self) -> None:
        """Kill the worker and processes that it started; any thread may call this."""
        # macOS answers PermissionError where only a zombie is left in the group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Kill the worker, reap it and free its resources."""
        self.kill()
        self._process.wait()
        self._connection.close()
        self._errors.close()

    def _exit_reason(self) -> str:
        code = self._process.returncode
        if code is None:
            return "closed its connection"
        if code < 0:
            return f"was killed by signal {-code} ({signal.strsignal(-code)})"
        return f"exited with code {code}"

    def _error_output(self) -> str:
        descriptor = self._errors.fileno()
        start = max(0, os.fstat(descriptor).st_size - _MAX_QUOTED)
        # pread: the worker writes through the same file offset.
        text = os.pread(descriptor, _MAX_QUOTED, start).decode(errors="replace")
        return f"; its error output ends:\n{text.strip()}" if text.strip() else ""


class _Host:
    """The environments in the worker process, by slot; they are reused."""

    def __init__(self) -> None:
        self._factory: Callable[[], Environment]
        self._environments: dict[int, Environment] = {}

    def handle(self, message: Open | Call) -> Any:
        """Do what the message says and return the value for its reply."""
        if isinstance(message, Open):
            self._factory = pickle.loads(message.factory)
            self._environments[0] = self._factory()
            return None
        if message.slot not in self._environments:
            self._environments[message.slot] = self._factory()
        environment = self._environments[message.slot]
        try:
            arguments = () if message.argument is None else (message.argument,)
            answer = getattr(environment, message.method)(*arguments)
            return check_answer(message.method, answer)
        except BaseException:
            # Its state is undefined now: the slot's next episode gets another.
            del self._environments[message.slot]
            environment.close()
            raise

    def close(self) -> None:
        for environment in self._environments.values():
            environment.close()


def _reply(host: _Host, message: Open | Call) -> Reply:
    start = time.process_time()
    value, failure = None, None
    try:
        value = host.handle(message)
    except (Exception, SystemExit) as error:  # PDDL parsers exit on a broken file
        failure = Failure(type(error).__name__, str(error), traceback.format_exc())
    return Reply(value, failure, time.process_time() - start)


def main(descriptor: int) -> None:
    """Serve the connection behind a file descriptor, until it sends None.

    Runs in the worker process only.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    faulthandler.enable()
    os.set_inheritable(descriptor, False)
    guard = threading.Thread(
        target=end_group_with_parent, args=(descriptor,), daemon=True
    )
    guard.start()
    connection = Connection(descriptor)
    host = _Host()
    while (message := connection.recv()) is not None:
        connection.send(_reply(host, message))
    host.close()
