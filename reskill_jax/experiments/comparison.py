"""Arms of an experiment compared, paired by seed and task.

Area under the curve is the mean success of the episodes that a run has trained on, or
found out from. Figures are what `attempt.Attempt.play` returns, by arm and seed.
"""

import math

import numpy as np

from reskill_jax.benchmarks.reporting import Bar, format_table
from reskill_jax.benchmarks.runs import Figures
from reskill_jax.experiments.arms import Claim, Experiment
from reskill_jax.report.statistics import Difference, paired_difference


def compare(
    found: dict[str, dict[int, Figures]], one: str, other: str, what: str = "successes"
) -> Difference | None:
    """Compare two arms on the seeds that both have; None where there are none.

    An arm without a run has no course.

    Args:
        found: figures by arm and seed.
        one: the first arm.
        other: the second.
        what: successes, on the held-out tasks; or course, success while it learnt, the
            mean over the steps (area under the curve).

    Raises:
        ValueError: they have played different panels.
    """
    seeds = sorted(found.get(one, {}).keys() & found.get(other, {}).keys())
    pairs = [(found[one][seed], found[other][seed]) for seed in seeds]
    pairs = [pair for pair in pairs if all(what in figures for figures in pair)]
    if not pairs:
        return None
    for a, b in pairs:
        if (a["panel"], a["samples"]) != (b["panel"], b["samples"]):
            raise ValueError(f"{one} and {other} have not played the same tasks")
    first, second = (
        np.array([_rates(pair[i], what) for pair in pairs])[..., None] for i in (1, 0)
    )
    return paired_difference(first, second)


def _rates(figures: Figures, what: str) -> np.ndarray:
    """Return success by task, or of a whole curve, which is one figure."""
    values = np.array(figures[what], float)
    return values.mean()[None] if what == "course" else values / figures["samples"]


def points(gain: Difference | None) -> str:
    """Write a difference in points, e.g. ``+12.5 [+3.1, +21.9]``.

    One figure of one seed has no interval, and one seed's own is for other tasks only,
    which is said.
    """
    if gain is None:
        return ""
    if math.isnan(gain.error):
        return f"{100 * gain.mean:+.1f} [unknown]"
    text = "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * gain[i] for i in (0, 2, 3)))
    return f"{text} of tasks" if gain.seeds == 1 else text


def success(found: dict[int, Figures]) -> float:
    """Return the mean success of an arm."""
    return float(
        np.mean([np.mean(f["successes"]) / f["samples"] for f in found.values()])
    )


def area(found: dict[int, Figures]) -> float | None:
    """Return the mean area under the curve of an arm; None where it has no run."""
    courses = [np.mean(f["course"]) for f in found.values() if "course" in f]
    return float(np.mean(courses)) if courses else None


def table(found: dict[str, dict[int, Figures]], first: str) -> str:
    """Lay out success and area of every arm, and their differences to the first one."""
    rows: list[list[str | float]] = []
    for name, by_seed in found.items():
        trials = [t for figures in by_seed.values() for t in figures.get("trials", ())]
        taken = f"{sum(t['accepted'] for t in trials)} of {len(trials)}"
        of = {name: by_seed, first: found.get(first, {})}
        gain, more = (
            "" if name == first else _cell(compare(of, name, first, what), len(by_seed))
            for what in ("successes", "course")
        )
        curve = area(by_seed)
        rows.append(
            [
                name,
                len(by_seed),
                f"{success(by_seed):.1%}",
                gain,
                "" if curve is None else f"{curve:.1%}",
                more,
                taken if trials else "",
            ]
        )
    over = f"over {first}, 95%"
    header = ["arm", "seeds", "success", over, "area", over, "accepted"]
    return format_table(header, rows)


def _cell(gain: Difference | None, seeds: int) -> str:
    """Write a difference, with its number of seeds where the row has more."""
    text = points(gain)
    return f"{text} ({gain.seeds} seeds)" if gain and gain.seeds < seeds else text


def summary(
    found: dict[str, dict[int, Figures]], experiment: Experiment
) -> tuple[dict[str, float], dict[str, Bar]]:
    """Return the figures behind the table, and what is promised of them."""
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    first = experiment.arms[0]
    for name, by_seed in found.items():
        figures |= {f"{name}/seeds": len(by_seed), f"{name}/success": success(by_seed)}
        if (curve := area(by_seed)) is not None:
            figures[f"{name}/area"] = curve
        if gain := compare(found, name, first) if name != first else None:
            figures |= {f"{name}/gain": gain.mean, f"{name}/gain_se": gain.error}
            figures[f"{name}/gain_seeds"] = gain.seeds
    for claim in experiment.claims:
        gain = compare(found, claim.one, claim.other, claim.what)
        if gain:
            print(f"{claim}: {points(gain)}")
            figures[str(claim)] = gain.mean
        if gain or {claim.one, claim.other} & found.keys():
            title, bar = _judged(claim, gain)
            bars[title] = bar
    return figures, bars


def _judged(claim: Claim, gain: Difference | None) -> tuple[str, Bar]:
    """Return what a claim is called, and whether it holds.

    That there is a gain at all is for the interval to show, which takes two seeds.
    """
    if claim.least:
        return str(claim), Bar(gain.mean if gain else math.nan, claim.least)
    low = gain.low if gain and gain.seeds > 1 else math.nan
    return f"{claim}, lower end", Bar(low, 0.0, above=True)
