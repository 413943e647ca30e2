"""Differences between two ways to play the same tasks, and how sure they are."""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Difference:
    """A mean difference of success.

    Attributes:
        mean: over seeds and tasks.
        error: its standard error; NaN where it cannot be told.
        low: lower end of the 95% interval.
        high: upper end.
    """

    mean: float
    error: float
    low: float
    high: float

    def __str__(self) -> str:
        """Write it in points, e.g. ``+12.5 [+3.1, +21.9]``."""
        points = (100 * value for value in (self.mean, self.low, self.high))
        return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*points)


def difference(one: np.ndarray, other: np.ndarray) -> Difference:
    """Compare two ways, paired by seed and task.

    Runs of one seed share what the seed decides, and all seeds play the same tasks, so
    that errors are clustered both ways (Cameron, Gelbach and Miller 2011): the variance
    of means by seed, plus that by task, less that of single pairs. Where that is
    smaller than either of the first two, the larger one counts. The interval is that of
    Student's t with one degree of freedom less than there are seeds; with one seed, it
    holds for this seed only and has those of the tasks.

    Args:
        one: success of the first way, float [seeds, tasks], means over samples.
        other: of the second way, likewise.

    Raises:
        ValueError: their shapes differ, or are no [seeds, tasks].
    """
    if one.shape != other.shape or one.ndim != 2 or not one.size:
        raise ValueError(
            f"one has the shape {one.shape}, other {other.shape}: both must be "
            "[seeds, tasks]"
        )
    pairs = one - other
    mean = float(pairs.mean())
    seeds, tasks = pairs.shape
    by_seed, by_task = _variance(pairs.mean(axis=1)), _variance(pairs.mean(axis=0))
    if seeds == 1 and tasks == 1:
        return Difference(mean, math.nan, math.nan, math.nan)
    if seeds == 1 or tasks == 1:
        error = math.sqrt(by_task if seeds == 1 else by_seed)
    else:
        both = by_seed + by_task - _variance(pairs.ravel())
        error = math.sqrt(max(both, by_seed, by_task))
    freedom = (tasks if seeds == 1 else seeds) - 1
    half = float(stats.t.ppf(0.975, freedom)) * error
    return Difference(mean, error, mean - half, mean + half)


def _variance(means: np.ndarray) -> float:
    """Return the variance of the mean of independent values; NaN of one."""
    return float(means.var(ddof=1) / len(means)) if len(means) > 1 else math.nan
