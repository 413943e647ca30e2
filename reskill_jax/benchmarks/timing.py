"""How benchmarks compare times on a noisy machine."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from reskill_jax.terminal import activity

_REST = 0.25  # seconds; OpenMP's threads spin for up to 0.2 after their work


def in_turn(steps: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Time several computations in turn; return the best time of each, in seconds.

    Before each there is a rest, in which the threads of the last one fall asleep.
    """
    best = [float("inf")] * len(steps)
    done = 0
    total = len(steps) * (1 + repeats)
    with activity("timing", lambda: f"{done} of {total} computations"):
        for step in steps:
            step()
            done += 1
        for _ in range(repeats):
            for number, step in enumerate(steps):
                time.sleep(_REST)
                started = time.perf_counter()
                step()
                best[number] = min(best[number], time.perf_counter() - started)
                done += 1
    return best
