"""SIGTERM: keep the last finished step, and end so that a scheduler starts again.

SLURM, Kubernetes and spot TPUs send SIGTERM some seconds before they kill. A step may
take longer than that, so waiting for an answer or an episode is interrupted; an update,
which has given its old state away, is finished first.

    with Termination() as termination:
        with termination.interrupts():  # TerminatedError may be raised here
            batch = collect()
        state = update(state, batch)    # finished first
        termination.check()             # raises TerminatedError, in all processes
"""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

from reskill_jax import distributed

EXIT_CODE = 128 + signal.SIGTERM  # what a process that SIGTERM ended would have


class TerminatedError(BaseException):
    """The run was asked to end.

    Like KeyboardInterrupt no `Exception`: it may be raised inside of anything, and what
    names or counts the failures of others must not take it for one.
    """


class Termination:
    """Notices SIGTERM while it is entered; to be used in the main thread."""

    def __init__(self) -> None:
        self._asked = False
        self._interruptible = False

    def __enter__(self) -> Self:
        """Begin to listen."""
        self._former = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        signal.signal(signal.SIGTERM, self._former)

    @contextmanager
    def interrupts(self, yes: bool = True) -> Iterator[None]:
        """Let SIGTERM raise here; with several processes only `check` does.

        One that left alone would leave the others waiting for its share.

        Args:
            yes: whether it may be interrupted.

        Raises:
            TerminatedError: it was sent, now or before.
        """
        self._interruptible = yes and distributed.is_alone()
        try:
            if self._interruptible:
                self._raise_if_asked()
            yield
        except asyncio.CancelledError:
            self._raise_if_asked()
            raise
        finally:
            self._interruptible = False

    def check(self) -> None:
        """End here if any process was asked to; all processes must call it together.

        Raises:
            TerminatedError: in all processes.
        """
        if any(distributed.gather(self._asked)):  # asked meanwhile: the next time
            raise TerminatedError("SIGTERM")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if not self._interruptible:
            return
        self._interruptible = False
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise TerminatedError("SIGTERM") from None
        # What is raised in a callback of a loop is logged there and forgotten, and who
        # waits for what the callback was to do waits forever.
        loop.call_soon_threadsafe(_cancel_all, loop)

    def _raise_if_asked(self) -> None:
        if self._asked:
            raise TerminatedError("SIGTERM")


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()
