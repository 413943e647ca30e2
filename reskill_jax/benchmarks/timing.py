"""How benchmarks compare times on a noisy machine."""

import time
from collections.abc import Callable, Sequence
from typing import Any


def in_turn(steps: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Time several computations in turn; return the best time of each, in seconds."""
    for step in steps:
        step()
    best = [float("inf")] * len(steps)
    for _ in range(repeats):
        for number, step in enumerate(steps):
            started = time.perf_counter()
            step()
            best[number] = min(best[number], time.perf_counter() - started)
    return best
