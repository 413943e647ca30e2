"""Errors of figures that were measured on tasks, each of which was played often.

Samples of one task are alike, and so are runs of one seed: they are clusters, and what
counts for an error is how many clusters there are. All functions take arrays with an
axis of tasks, and one of seeds where methods are compared.

    share_of_tasks(success.mean(axis=1), samples=4)       # success: [tasks, samples]
    paired_difference(grpo, reskill)                      # [seeds, tasks, samples] each
    paired_difference(area_under_curve(steps, a)[:, None, None], ...)    # of curves
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

Z = 1.959964  # two-sided 95%


class Share(NamedTuple):
    """A rate from 0 to 1 with its 95% interval.

    Attributes:
        mean: the rate.
        low: lower end.
        high: upper end.
        effective: number of independent episodes that would tell as much.
    """

    mean: float
    low: float
    high: float
    effective: float


def share_of_tasks(values: ArrayLike, samples: int) -> Share:
    """Return the mean of a rate over tasks, with a cluster-robust interval.

    The tasks' spread gives the standard error, that of clusters of equal size, and the
    error an effective number of episodes (Kish's design effect), for which Wilson's
    interval is taken, so that it is sensible near 0 and 1, too. Where all tasks have
    the same rate of 0 or 1, nothing says that samples differ: a task counts once.

    Args:
        values: float [tasks], of each task from 0 to 1, e.g. its share of successes or
            `pass_at_k`.
        samples: episodes behind each.
    """
    values = np.asarray(values, float)
    tasks, mean = len(values), float(values.mean())
    spread = mean * (1 - mean)
    error = float(values.std(ddof=1)) / math.sqrt(tasks) if tasks > 1 else 0.0
    if spread == 0 or tasks == 1:
        effective = float(tasks)
    else:
        most = float(tasks * samples)
        effective = min(spread / error**2, most) if error else most
        # The spread of few tasks is not well known (Korn and Graubard 1998).
        effective *= (Z / float(stdtrit(tasks - 1, 0.975))) ** 2
    return Share(mean, *_wilson(mean, effective), effective)


def mean_of_shares(shares: Sequence[Share]) -> Share:
    """Return the plain mean of rates on different tasks, each of which counts the same.

    Their errors are those of Agresti and Coull, so that a rate of 0 or 1 does not claim
    certainty, and the interval is normal.
    """
    count = len(shares)
    mean = sum(share.mean for share in shares) / count
    variance = 0.0
    for share in shares:
        size = share.effective + Z**2
        rate = (share.mean * share.effective + Z**2 / 2) / size
        variance += rate * (1 - rate) / size / count**2
    half = Z * math.sqrt(variance)
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Share(mean, low, high, sum(share.effective for share in shares))


class Difference(NamedTuple):
    """What one method is better than another, paired by seed and task.

    Attributes:
        mean: second less first.
        error: standard error, for other seeds and other tasks.
        low: lower end of the 95% interval.
        high: upper end.
        error_over_seeds: with the tasks as they are; NaN from one seed.
        error_over_tasks: with the seeds as they are; NaN from one task.
        seeds: how many.
        tasks: how many.
    """

    mean: float
    error: float
    low: float
    high: float
    error_over_seeds: float
    error_over_tasks: float
    seeds: int
    tasks: int


def paired_difference(first: ArrayLike, second: ArrayLike) -> Difference:
    """Compare two methods that were run with the same seeds on the same tasks.

    The error is robust to clusters in both ways, seeds and tasks (Cameron, Gelbach and
    Miller, J. Bus. Econ. Stat. 29, 2011), and at least that of either alone; the
    interval is Student's with one degree of freedom less than there are clusters in
    the smaller way. A way with a single cluster is taken as fixed.

    Args:
        first: float [seeds, tasks, samples], e.g. whether episodes succeeded.
        second: likewise; the number of samples may be another.

    Raises:
        ValueError: the seeds or tasks are not as many.
    """
    a, b = (np.asarray(x, float).mean(axis=2) for x in (first, second))
    if a.shape != b.shape:
        raise ValueError(
            f"first has {a.shape} seeds and tasks, second {b.shape}: give those that "
            "both have, in the same order"
        )
    cells = b - a  # [seeds, tasks]
    seeds, tasks = cells.shape
    mean = float(cells.mean())
    over_seeds = _error(cells.mean(axis=1))
    over_tasks = _error(cells.mean(axis=0))
    ways = [error for error in (over_seeds, over_tasks) if not math.isnan(error)]
    if not ways:
        nan = math.nan
        return Difference(mean, nan, nan, nan, nan, nan, seeds, tasks)
    variance = max(error**2 for error in ways)
    if len(ways) == 2:
        both = sum(error**2 for error in ways) - _error(cells.ravel()) ** 2
        variance = max(variance, both)
    error = math.sqrt(variance)
    freedom = min(count for count in (seeds, tasks) if count > 1) - 1
    half = float(stdtrit(freedom, 0.975)) * error
    return Difference(
        mean, error, mean - half, mean + half, over_seeds, over_tasks, seeds, tasks
    )


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> np.ndarray:
    """Return the mean height of curves over their steps, by the trapezoid rule.

    Args:
        steps: increasing, [points]; two or more.
        values: float [..., points].

    Returns:
        float [...], in the unit of the values.

    Raises:
        ValueError: the steps do not increase, or are not as many as the values.
    """
    steps, values = np.asarray(steps, float), np.asarray(values, float)
    if len(steps) < 2 or np.any(np.diff(steps) <= 0):
        raise ValueError(f"steps={steps.tolist()}: needs two or more that increase")
    if values.shape[-1] != len(steps):
        raise ValueError(
            f"values has {values.shape[-1]} points, steps {len(steps)}: give one each"
        )
    area: np.ndarray = np.trapezoid(values, steps, axis=-1)
    return area / (steps[-1] - steps[0])


def _error(values: np.ndarray) -> float:
    """Return the standard error of a mean; NaN of a single value."""
    if len(values) < 2:
        return math.nan
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _wilson(share: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95% interval of a share of so many episodes."""
    square = Z * Z / count
    middle = (share + square / 2) / (1 + square)
    spread = share * (1 - share) / count + square / count / 4
    half = Z / (1 + square) * math.sqrt(spread)
    return max(0.0, middle - half), min(1.0, middle + half)
