"""Figures of the report: rates with intervals, effects with posteriors."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

Z = 1.959964  # two-sided 95%
# Two-sided 95% quantiles of Student's t, by degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


def rate(won: int, played: int) -> dict[str, Any]:
    """Return a success rate with its Wilson interval (95%).

    Args:
        won: successes.
        played: episodes; of none there is no rate.
    """
    if not played:
        return {"rate": None, "n": 0, "low": None, "high": None}
    share, square = won / played, Z * Z / played
    middle = (share + square / 2) / (1 + square)
    half = (
        Z / (1 + square) * math.sqrt(share * (1 - share) / played + square / played / 4)
    )
    return {
        "rate": share,
        "n": played,
        "low": max(0.0, middle - half),
        "high": min(1.0, middle + half),
    }


def mean_of_rates(rates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the plain mean of rates, each of which counts the same, with an interval.

    The interval is normal, from the rates' own errors, which are those of Agresti and
    Coull so that a rate of 0 or 1 does not claim certainty.
    """
    known = [r for r in rates if r["n"]]
    if not known or len(known) < len(rates):
        return {"rate": None, "n": 0, "low": None, "high": None}
    mean = sum(r["rate"] for r in known) / len(known)
    variance = 0.0
    for r in known:
        n = r["n"] + 4
        share = (r["rate"] * r["n"] + 2) / n
        variance += share * (1 - share) / n
    half = Z * math.sqrt(variance) / len(known)
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {"rate": mean, "n": sum(r["n"] for r in known), "low": low, "high": high}


def mean_interval(values: Iterable[float]) -> dict[str, Any]:
    """Return the mean of a few values with Student's interval (95%)."""
    values = list(values)
    count = len(values)
    if not count:
        return {"mean": None, "n": 0, "half": None}
    mean = sum(values) / count
    if count == 1:
        return {"mean": mean, "n": 1, "half": None}
    variance = sum((v - mean) ** 2 for v in values) / (count - 1)
    quantile = _T95[count - 2] if count - 2 < len(_T95) else Z + 2.5 / (count - 1)
    return {"mean": mean, "n": count, "half": quantile * math.sqrt(variance / count)}


def posterior(
    effect: float, error: float | None, prior_sd: float
) -> tuple[float, float]:
    """Return mean and standard deviation of an effect under a normal prior around 0.

    The same shrinkage as `trials.paired.probability_above`.

    Args:
        effect: the estimate.
        error: its standard error; None, as long as nothing is measured, is infinite.
        prior_sd: standard deviation of the prior.
    """
    if error is None:
        return 0.0, prior_sd
    share = prior_sd**2 / (prior_sd**2 + error**2) if prior_sd else 0.0
    return effect * share, prior_sd * math.sqrt(1 - share)


def within_groups(
    groups: Iterable[tuple[int, int, int, int]],
) -> tuple[float, float] | None:
    """Return the difference of success rates within groups, and its standard error.

    The estimate of `trials.paired.effect_of_sums`, without discount.

    Args:
        groups: successes and episodes of the candidate, then of the incumbent.

    Returns:
        None where no group has both.
    """
    weight = difference = p = q = 0.0
    for y1, n1, y0, n0 in groups:
        if not n1 or not n0:
            continue
        size = n1 + n0
        weight += n1 * n0 / size
        difference += (y1 * n0 - y0 * n1) / size
        p += (n1**2 * y0 - n0**2 * y1 + n1 * n0 * (n0 - n1) / 2) / size**2
        q += (y1 * (n0 - y0) + y0 * (n1 - y1)) / (2 * size)
    if not weight:
        return None
    effect = difference / weight
    return effect, math.sqrt(max(effect * p + q, 0) + 0.25) / weight


def short(value: Any) -> Any:
    """Round floats to five digits, through lists and dicts: pages are for eyes."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [short(item) for item in value]
    return value
