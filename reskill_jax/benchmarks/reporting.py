"""How every benchmark reports: a table for people, one line of JSON for programs."""

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Bar:
    """What a benchmark promises of one of its figures.

    Attributes:
        value: the figure; NaN where it is not known, which does not meet it.
        target: its bound.
        at_most: whether the bound is an upper one; otherwise it is a lower one.
        above: whether a lower bound itself does not do.
    """

    value: float
    target: float
    at_most: bool = False
    above: bool = False

    @property
    def known(self) -> bool:
        """Whether there is such a figure."""
        return math.isfinite(self.value)

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        if self.at_most:
            return bool(self.value <= self.target)
        if self.above:
            return bool(self.value > self.target)
        return bool(self.value >= self.target)


def format_table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Align rows under a header: text to the left, numbers to the right."""
    cells = [list(header)] + [[_format(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    first = rows[0] if rows else header
    numeric = [isinstance(cell, int | float) for cell in first]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "-" * sum(widths, 2 * (len(widths) - 1)), *lines[1:]])


def report(
    benchmark: str, figures: Mapping[str, float], bars: Mapping[str, Bar]
) -> None:
    """Print which bars are met, and everything as one JSON object in the last line."""
    for name, bar in bars.items():
        sign = "at most" if bar.at_most else "above" if bar.above else "at least"
        verdict = "met" if bar.met else "MISSED" if bar.known else "NOT KNOWN"
        print(f"{name}: {_format(bar.value)}, {sign} {_format(bar.target)}: {verdict}")
    result = {
        "benchmark": benchmark,
        "machine": machine(),
        "figures": {k: float(v) for k, v in figures.items() if math.isfinite(v)},
        "bars": {
            name: {
                "value": float(bar.value) if bar.known else None,
                "target": bar.target,
                "met": bar.met,
            }
            for name, bar in bars.items()
        },
    }
    print(json.dumps(result), flush=True)


def machine() -> str:
    """Describe this machine: processor, cores, system, Python."""
    info = Path("/proc/cpuinfo")
    names = [
        line.partition(":")[2].strip()
        for line in (info.read_text().splitlines() if info.exists() else [])
        if line.startswith("model name")
    ]
    processor = names[0] if names else platform.machine()
    return (
        f"{processor}, {os.cpu_count()} cores, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def _format(cell: str | float) -> str:
    if isinstance(cell, float):
        return "unknown" if math.isnan(cell) else f"{cell:.4g}"
    return str(cell)
