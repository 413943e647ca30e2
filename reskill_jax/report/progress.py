"""The progress of a run on the terminal."""

import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from reskill_jax.terminal import duration, one_line, printable

_RECENT = 20  # steps over which speed and time left are averaged


class Progress:
    """One line about a run, updated in place on a terminal; for many threads.

    Where the output is no terminal, a line is printed at most every `interval` seconds,
    and for the last step.

    Args:
        total: number of steps of the run.
        start: steps done before this process.
        stream: where to write, by default standard output.
        interval: seconds between lines where the output is no terminal.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        total: int,
        start: int = 0,
        stream: TextIO | None = None,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._total = total
        self._stream = sys.stdout if stream is None else stream
        self._live = self._stream.isatty()
        self._interval = interval
        self._clock = clock
        self._line = ""
        self._lock = threading.Lock()
        self._printed = -float("inf")
        # (time, steps done, tokens so far) at the ends of the newest steps
        self._recent = deque([(clock(), start, 0)], maxlen=_RECENT + 1)

    def update(
        self,
        done: int,
        tokens: int,
        old: float | None = None,
        new: float | None = None,
        trial: str = "",
        *,
        compared: bool = True,
    ) -> None:
        """Show the state of the run.

        Args:
            done: steps done.
            tokens: tokens processed since the last call.
            old: success of the incumbent bank's arm, 0 to 1; None if not played.
            new: success of the candidate's arm, 0 to 1; None outside a trial.
            trial: state of the trial in a few words.
            compared: whether the method has banks to compare; otherwise there is but
                one success, `old`.
        """
        now = self._clock()
        self._recent.append((now, done, self._recent[-1][2] + tokens))
        then, done_then, tokens_then = self._recent[0]
        seconds = max(now - then, 1e-9)
        left = (self._total - done) * seconds / max(done - done_then, 1)
        rate = (self._recent[-1][2] - tokens_then) / seconds
        parts = [
            f"step {done}/{self._total}",
            f"success old {_percent(old)} new {_percent(new)}"
            if compared
            else f"success {_percent(old)}",
            one_line(trial),
            f"{rate:,.0f} tokens/s",
            f"{duration(left)} left",
        ]
        with self._lock:
            self._line = " | ".join(part for part in parts if part)
            if self._live:
                self._draw()
            elif done >= self._total or now - self._printed >= self._interval:
                self._printed = now
                print(self._line, file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Print a line that stays, e.g. the decision of a trial."""
        with self._lock:
            if self._live:
                self._stream.write("\r\x1b[K")
            print(printable(text), file=self._stream, flush=True)
            if self._live and self._line:
                self._draw()

    def close(self) -> None:
        """Leave the live line as it is and go on below it."""
        with self._lock:
            if self._live and self._line:
                print(file=self._stream, flush=True)
            self._line = ""

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns
        self._stream.write(f"\r{self._line[: width - 1]}\x1b[K")
        self._stream.flush()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"
