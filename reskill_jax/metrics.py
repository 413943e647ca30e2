"""What a run reports: metrics to files, progress to the terminal.

A *step* in this file is the index of a training step, from 0. A checkpoint saved under
`s` holds the state before step s, so that a run resumed from it writes step s next:
`MetricWriter(..., start=s)` drops lines of steps >= s that the killed process had still
written. The file then ends up as if nothing had happened, but for keys that begin with
``time/`` or ``speed/``. For this to hold, the metrics of all steps below s are written
before checkpoint s is saved, and what is measured between two steps counts to the
earlier one.
"""

import json
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import SupportsFloat, TextIO

from tensorboardX import SummaryWriter

from reskill_jax.workdir import write_text

_RESERVED = ("phase", "step")
_RECENT = 20  # steps over which speed and time left are averaged


class MetricWriter:
    """Writes flat metrics as JSON lines and as TensorBoard events.

    A line holds ``phase``, ``step`` and the metrics, keys sorted. JSON has no NaN:
    values that are not finite are written as the strings "nan", "inf" and "-inf", which
    `read_metrics` turns back.

    Args:
        path: the JSON lines file.
        tensorboard: directory of the event files, one subdirectory per phase, so that
            TensorBoard shows the phases of one metric in one chart.
        start: first step to be written; later lines of a former process are dropped.
    """

    def __init__(self, path: Path, tensorboard: Path, start: int = 0) -> None:
        self._tensorboard = tensorboard
        self._start = start
        self._events: dict[str, SummaryWriter] = {}
        self._last: dict[str, int] = {}
        cut(path, start)
        for line in read_metrics(path):
            self._last[str(line["phase"])] = int(line["step"])
        self._file = path.open("a", encoding="utf-8")

    def write(
        self, step: int, metrics: Mapping[str, SupportsFloat], phase: str = "train"
    ) -> None:
        """Append the metrics of one step; they are in the files when this returns.

        Raises:
            ValueError: a phase's steps do not increase, or a metric's name is reserved.
        """
        last = self._last.get(phase, self._start - 1)
        if step <= last:
            raise ValueError(f"phase {phase!r}: step {step} comes after step {last}")
        for key in _RESERVED:
            if key in metrics:
                raise ValueError(f"a metric cannot be called {key!r}: rename it")
        values = {key: float(value) for key, value in metrics.items()}
        line = {"phase": phase, "step": step} | {
            key: _encode(value) for key, value in values.items()
        }
        self._file.write(json.dumps(line, sort_keys=True, allow_nan=False) + "\n")
        self._file.flush()
        self._last[phase] = step
        events = self._phase_events(phase)
        for key, value in values.items():
            events.add_scalar(key, value, step)
        events.flush()

    def close(self) -> None:
        """Flush and close all files."""
        self._file.close()
        for events in self._events.values():
            events.close()

    def _phase_events(self, phase: str) -> SummaryWriter:
        if phase not in self._events:
            self._events[phase] = SummaryWriter(
                str(self._tensorboard / phase),
                # TensorBoard hides what a former process wrote from this step on.
                purge_step=self._start,
                # Files are named by the second: two starts in one would share a file.
                filename_suffix=f".{self._start}",
            )
        return self._events[phase]


def read_metrics(path: Path) -> list[dict[str, str | int | float]]:
    """Read a file of `MetricWriter`; an unfinished last line is left out.

    Returns:
        One dict per line: ``phase`` (str), ``step`` (int) and the metrics (float).

    Raises:
        ValueError: a line before the last is damaged.
    """
    return [_decode(line) for line in _lines(path)]


def cut(path: Path, start: int) -> None:
    """Drop lines of steps >= `start` and an unfinished last line, by one rename."""
    lines = [line for line in _lines(path) if int(_decode(line)["step"]) < start]
    write_text(path, "".join(line + "\n" for line in lines))


def _lines(path: Path) -> list[str]:
    """Return the complete lines; a killed process may have left a part of one."""
    if not path.exists():
        return []
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}, line {number} is damaged ({error}): remove that line"
            ) from error
    return lines


def _encode(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)


def _decode(line: str) -> dict[str, str | int | float]:
    return {
        key: value if key in _RESERVED else float(value)
        for key, value in json.loads(line).items()
    }


class Progress:
    """One line about a run, updated in place on a terminal.

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
    ) -> None:
        """Show the state of the run.

        Args:
            done: steps done.
            tokens: tokens processed since the last call.
            old: success of the incumbent bank's arm, 0 to 1; None if not played.
            new: success of the candidate's arm, 0 to 1; None outside a trial.
            trial: state of the trial in a few words.
        """
        now = self._clock()
        self._recent.append((now, done, self._recent[-1][2] + tokens))
        then, done_then, tokens_then = self._recent[0]
        seconds = max(now - then, 1e-9)
        left = (self._total - done) * seconds / max(done - done_then, 1)
        rate = (self._recent[-1][2] - tokens_then) / seconds
        parts = [
            f"step {done}/{self._total}",
            f"success old {_percent(old)} new {_percent(new)}",
            trial,
            f"{rate:,.0f} tokens/s",
            f"{_duration(left)} left",
        ]
        self._line = " | ".join(part for part in parts if part)
        if self._live:
            self._draw()
        elif done >= self._total or now - self._printed >= self._interval:
            self._printed = now
            print(self._line, file=self._stream, flush=True)

    def note(self, text: str) -> None:
        """Print a line that stays, e.g. the decision of a trial."""
        if self._live:
            self._stream.write("\r\x1b[K")
        print(text, file=self._stream, flush=True)
        if self._live and self._line:
            self._draw()

    def close(self) -> None:
        """Leave the live line as it is and go on below it."""
        if self._live and self._line:
            print(file=self._stream, flush=True)
        self._line = ""

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns
        self._stream.write(f"\r{self._line[: width - 1]}\x1b[K")
        self._stream.flush()


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
