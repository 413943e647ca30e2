"""Metrics of a run, to a file.

A *step* in this file is the index of a training step, from 0. A checkpoint saved under
`s` holds the state before step s, so that a run resumed from it writes step s next:
`MetricWriter(..., start=s)` drops lines of steps >= s that the killed process had still
written. The file then ends up as if nothing had happened, but for keys that begin with
``time/`` or ``speed/``. For this to hold, the metrics of all steps below s are written
before checkpoint s is saved, and what is measured between two steps counts to the
earlier one. A checkpoint may be saved before the evaluation of its state; then a killed
process may have written what the next one measures again.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

from reskill_jax.storage import append_line, write_text

RESERVED = ("phase", "step", "panels")


class MetricWriter:
    """Writes flat metrics as JSON lines.

    A line holds ``phase``, ``step``, ``panels`` if given, and the metrics, keys sorted.
    JSON has no NaN: values that are not finite are written as the strings "nan", "inf"
    and "-inf", which `read_metrics` turns back.

    Args:
        path: the JSON lines file.
        start: first step to be written; later lines of a former process are dropped.
        evaluation: first step whose evaluation is written; None: `start`.
    """

    def __init__(
        self, path: Path, start: int = 0, evaluation: int | None = None
    ) -> None:
        self._path = path
        self._start = start
        self._evaluation = start if evaluation is None else evaluation
        self._last: dict[str, int] = {}
        cut(path, start, self._evaluation)
        for line in read_metrics(path):
            self._last[str(line["phase"])] = int(line["step"])

    def write(
        self,
        step: int,
        metrics: Mapping[str, SupportsFloat],
        phase: str = "train",
        panels: Mapping[str, str] | None = None,
    ) -> None:
        """Append the metrics of one step; they are in the file when this returns.

        Args:
            step: the metrics' step.
            metrics: values by name.
            phase: train or eval.
            panels: by split, the count and hash of the tasks that were measured on.

        Raises:
            ValueError: a phase's steps do not increase, or a metric's name is reserved.
            OSError: the file cannot be written; it is as it was.
        """
        first = self._evaluation if phase == "eval" else self._start
        last = self._last.get(phase, first - 1)
        if step <= last:
            raise ValueError(f"phase {phase!r}: step {step} comes after step {last}")
        for key in RESERVED:
            if key in metrics:
                raise ValueError(f"a metric cannot be called {key!r}: rename it")
        values = {key: float(value) for key, value in metrics.items()}
        line: dict[str, Any] = {"phase": phase, "step": step}
        if panels:
            line["panels"] = dict(panels)
        line |= {key: _encode(value) for key, value in values.items()}
        append_line(self._path, json.dumps(line, sort_keys=True, allow_nan=False))
        self._last[phase] = step


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read a file of `MetricWriter`; an unfinished last line is left out.

    Returns:
        One dict per line: ``phase`` (str), ``step`` (int), ``panels`` (dict) where the
        line has them, and the metrics (float).

    Raises:
        ValueError: a line before the last is damaged.
    """
    return [
        read_line(line, f"{path}, line {number}")
        for number, line in enumerate(finished_lines(path), 1)
    ]


def is_evaluated(path: Path, step: int) -> bool:
    """Tell whether a file of `MetricWriter` has the evaluation after so many steps.

    Raises:
        ValueError: a line is damaged.
    """
    return any(
        line["phase"] == "eval" and line["step"] == step for line in read_metrics(path)
    )


def sampled_names(metrics: Mapping[str, Any], split: str) -> list[str]:
    """Return the names of a split's figures of samples: mean@n, then pass@k by k."""
    wanted = re.compile(rf"{re.escape(split)}/((?:mean|pass)@\d+)")
    found = [match[1] for key in metrics if (match := wanted.fullmatch(key))]
    # A foreign or an older line may lack what belongs to it.
    common = {f"{split}/samples", f"{split}/temperature"}
    names = [
        name
        for name in found
        if common | {f"{split}/{name}_{end}" for end in ("low", "high")}
        <= metrics.keys()
    ]
    return sorted(names, key=lambda name: (name[:4], int(name[5:])))


def sampled_words(metrics: Mapping[str, Any], split: str) -> str:
    """Say what a split's samples showed, with 95% intervals; empty without samples."""
    parts = [
        f"{name} {metrics[f'{split}/{name}']:.1%} "
        f"[{metrics[f'{split}/{name}_low']:.0%}, {metrics[f'{split}/{name}_high']:.0%}]"
        for name in sampled_names(metrics, split)
    ]
    if not parts:
        return ""
    return f"at temperature {metrics[f'{split}/temperature']:g} {', '.join(parts)}"


def cut(path: Path, start: int, evaluation: int | None = None) -> None:
    """Drop lines of steps >= `start` and an unfinished last line, by one rename.

    Args:
        path: a file of JSON objects with a ``step``, one per line.
        start: the first step that is dropped.
        evaluation: the first one for lines of the phase eval; None: `start`.
    """
    first = {} if evaluation is None else {"eval": evaluation}

    def kept(line: dict[str, Any]) -> bool:
        return bool(line["step"] < first.get(line.get("phase", ""), start))

    lines = [
        line
        for number, line in enumerate(finished_lines(path), 1)
        if kept(_object(line, f"{path}, line {number}"))
    ]
    write_text(path, "".join(line + "\n" for line in lines))


def finished_lines(path: Path) -> list[str]:
    """Return a file's finished lines; a process may be writing, or have left, a part.

    An absent file has none.
    """
    if not path.exists():
        return []
    return path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]


def _object(line: str, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
        if not isinstance(value, dict) or not isinstance(value.get("step"), int):
            raise ValueError("it is no object with a step")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place} is damaged ({error}): remove that line") from error
    return value


def _encode(value: float) -> float | str:
    return value if abs(value) < float("inf") else str(value)


def read_line(line: str, place: str) -> dict[str, Any]:
    """Read one line of a file of `MetricWriter`, see `read_metrics`.

    Raises:
        ValueError: it is damaged; begins with `place`.
    """
    values = _object(line, place)
    if not isinstance(values.get("phase"), str):
        raise ValueError(f"{place} is damaged (it has no phase): remove that line")
    if not isinstance(values.get("panels", {}), dict):
        raise ValueError(f"{place} is damaged (panels is no dict): remove that line")
    try:
        return {
            key: value if key in RESERVED else float(value)
            for key, value in values.items()
        }
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{place} is damaged ({error}): remove that line") from error
