"""Does the trial's rule decide better than the published one, over whole runs?

    python -m reskill_jax.benchmarks.trials --plot=trials.png

simulates training runs (`trial_simulation`) of 150 steps in many worlds: tasks alike or
unlike, policies that learn or not, groups of 5 and 8, 128 and 1,280 episodes per step.
Paper mode and default mode see the same proposals, side by side. Figures come with
their Monte Carlo error, runs being the units; as the bars are about the worst of many
scenarios, chance decides about them with much fewer runs. The plot shows what could be
had instead: the trade-off between taking in skills that help and skills that do
nothing, for rules from lax to strict.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from absl import app, flags
from numpy.typing import ArrayLike

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.trial_simulation import Scenario, Steps, simulate
from reskill_jax.terminal import activity
from reskill_jax.trials.trial_config import TrialConfig

_RUNS = flags.DEFINE_integer(
    "runs",
    2000,
    "Runs per scenario and rule; a tenth of them where a step has 1,000 episodes or "
    "more, since each takes so much longer.",
    lower_bound=20,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of all runs.")
_TASK_SDS = flags.DEFINE_list("task_sds", ["0", "0.2", "0.4"], "How tasks differ.")
_SHAPES = flags.DEFINE_list(
    "shapes", ["16x8", "26x5", "160x8", "256x5"], "Tasks x rollouts of a step."
)
_PLOT = flags.DEFINE_string("plot", "", "Where to save the trade-off; empty: nowhere.")

RULES = {"paper": TrialConfig.paper(), "default": TrialConfig()}
POINTS = (-5, 0, 2, 5, 10)  # true effects reported
CURVE_WORLDS = (Scenario(16, 8, 0.0, True), Scenario(16, 8, 0.4, True))


@dataclass(frozen=True)
class Estimate:
    """A mean over runs and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """Show percentages, as all but the steps are."""
        return f"{100 * self.value:.1f}±{100 * self.error:.1f}"

    def __sub__(self, other: "Estimate") -> "Estimate":
        """Subtract, as if independent: equal proposals hardly correlate two rules."""
        error = float(np.hypot(self.error, other.error))
        return Estimate(self.value - other.value, error)


@dataclass(frozen=True)
class Outcome:
    """What a rule achieves in a scenario.

    Attributes:
        accepted: by true effect in points, the share of candidates accepted.
        steps: per decision.
        success: mean success rate of all rollouts of a run.
        regret: how far that is below one who knows all effects.
    """

    accepted: dict[int, Estimate]
    steps: Estimate
    success: Estimate
    regret: Estimate


def measure(steps: Steps) -> Outcome:
    """Summarise simulated runs."""
    points = np.round(100 * steps.effect)
    accepted = {
        point: _ratio(steps.accepted, steps.ended & (points == point))
        for point in POINTS
    }
    everywhere = np.ones_like(steps.ended)
    return Outcome(
        accepted=accepted,
        steps=_ratio(steps.length, steps.ended),
        success=_ratio(steps.success, everywhere),
        regret=_ratio(steps.oracle - steps.success, everywhere),
    )


def _ratio(values: ArrayLike, where: ArrayLike) -> Estimate:
    """Mean of `values` at `where`, both [runs, steps], runs being independent."""
    values, where = np.asarray(values), np.asarray(where)
    counts = where.sum(1)
    if not counts.any():
        return Estimate(float("nan"), float("nan"))
    sums = np.where(where, values, 0).sum(1)
    mean = sums.sum() / counts.sum()
    residuals = (sums - mean * counts) / counts.mean()
    error = residuals.std(ddof=1) / np.sqrt(len(counts))
    return Estimate(float(mean), float(error))


def main(argv: Sequence[str]) -> None:
    """Simulate all scenarios, print the table and the bars, save the plot."""
    del argv
    shapes = [tuple(map(int, shape.split("x"))) for shape in _SHAPES.value]
    found: dict[Scenario, dict[str, Outcome]] = {}
    rows: list[list[str | float]] = []
    for (tasks, group_size), sd, drift in itertools.product(
        shapes, map(float, _TASK_SDS.value), (False, True)
    ):
        scenario = Scenario(tasks, group_size, sd, drift)
        runs = _RUNS.value if tasks * group_size < 1000 else _RUNS.value // 10
        with activity(f"simulating {scenario}"):
            found[scenario] = {
                name: measure(simulate(scenario, config, runs, _SEED.value))
                for name, config in RULES.items()
            }
        for name, outcome in found[scenario].items():
            rows.append(_row(str(scenario), name, outcome))
            print("simulated", *rows[-1], flush=True)
    header = ["scenario", "rule", *(f"{point:+d}" for point in POINTS)]
    print("accepted by true effect, success and regret in percent")
    print(format_table([*header, "steps", "success", "regret"], rows))
    if _PLOT.value:
        with activity("simulating the curve"):
            save_curve(_PLOT.value)
        print(f"saved {_PLOT.value}")
    report("trials", figures(found), bars(found))


def _row(scenario: str, rule: str, outcome: Outcome) -> list[str | float]:
    rates = [str(outcome.accepted[point]) for point in POINTS]
    steps = f"{outcome.steps.value:.2f}±{outcome.steps.error:.2f}"
    return [scenario, rule, *rates, steps, str(outcome.success), str(outcome.regret)]


def figures(found: Mapping[Scenario, Mapping[str, Outcome]]) -> dict[str, float]:
    """Flatten the table."""
    values: dict[str, float] = {"runs": _RUNS.value}
    for scenario, outcomes in found.items():
        for name, outcome in outcomes.items():
            estimates = {f"accepted{p:+d}": e for p, e in outcome.accepted.items()}
            estimates |= {
                "steps": outcome.steps,
                "success": outcome.success,
                "regret": outcome.regret,
            }
            for key, estimate in estimates.items():
                values[f"{scenario}/{name}/{key}"] = round(estimate.value, 5)
                values[f"{scenario}/{name}/{key}_se"] = round(estimate.error, 5)
    return values


def bars(found: Mapping[Scenario, Mapping[str, Outcome]]) -> dict[str, Bar]:
    """Return the promises; each is about the scenario where it is kept worst."""
    pairs = [(s, by["default"], by["paper"]) for s, by in found.items()]
    unlike = [(s, ours, paper) for s, ours, paper in pairs if s.task_sd > 0]
    most = {
        "null accepted": ([(s, a.accepted[0]) for s, a, _ in pairs], 0.30),
        "-5 accepted": ([(s, a.accepted[-5]) for s, a, _ in pairs], 0.03),
        "steps over paper's": ([(s, a.steps - b.steps) for s, a, b in pairs], 0.0),
    }
    least = {
        "+5 accepted over paper's": (
            [(s, a.accepted[5] - b.accepted[5]) for s, a, b in pairs],
            -0.02,
        ),
        "success over paper's": (
            [(s, a.success - b.success) for s, a, b in pairs],
            0.0,
        ),
        "success over paper's, unlike tasks": (
            [(s, a.success - b.success) for s, a, b in unlike],
            0.02,
        ),
    }
    checks: dict[str, Bar] = {}
    for worst, at_most, group in ((max, True, most), (min, False, least)):
        for name, (estimates, target) in group.items():
            if estimates:
                scenario, found_worst = worst(estimates, key=lambda pair: pair[1].value)
                label = f"{name}, worst ({scenario}; ±{found_worst.error:.3f})"
                checks[label] = Bar(found_worst.value, target, at_most)
    return checks


def save_curve(path: str) -> None:
    """Plot what rules from lax to strict accept, and what runs with them gain."""
    import matplotlib as mpl  # noqa: PLC0415 (only for those who want the plot)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for scenario in CURVE_WORLDS:
        label = "tasks differ" if scenario.task_sd else "tasks alike"
        curve = [_summary(scenario, config) for config in strictness()]
        chosen = _summary(scenario, RULES["default"])
        paper = _summary(scenario, RULES["paper"])
        for axis, column in zip(axes, (1, 2), strict=True):
            x, y = np.array(curve)[:, [0, column]].T
            (line,) = axis.plot(x, y, "o-", ms=3, label=f"{label}: lax to strict")
            color = line.get_color()
            axis.plot(
                chosen[0],
                chosen[column],
                "*",
                ms=13,
                color=color,
                label=f"{label}: default",
            )
            axis.plot(
                paper[0],
                paper[column],
                "X",
                ms=9,
                color=color,
                label=f"{label}: paper mode",
            )
    for axis, title in zip(
        axes,
        ("Accepted of those that help by 5 points", "Mean success of a whole run"),
        strict=True,
    ):
        axis.axvline(30, color="grey", lw=0.8, ls=":")
        axis.set(xlabel="Accepted of those without effect, %", ylabel=f"{title}, %")
    axes[0].legend(fontsize=8)
    figure.suptitle("16 tasks x 8 rollouts, a policy that learns, 150 steps")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def strictness() -> list[TrialConfig]:
    """Return the default rule with thresholds from lax to strict."""
    default = RULES["default"]

    def shifted(shift: float) -> TrialConfig:
        """Move the log-odds of all thresholds."""

        def move(p: float) -> float:
            return 1 / (1 + (1 / p - 1) * float(np.exp(-shift)))

        return replace(
            default,
            early_accept=move(default.early_accept),
            early_reject=move(default.early_reject),
            accept_probability=move(default.accept_probability),
        )

    return [shifted(shift) for shift in (-1.2, -0.8, -0.4, 0.0, 0.4, 0.8, 1.2)]


def _summary(scenario: Scenario, config: TrialConfig) -> list[float]:
    """Accepted without effect and of +5 points, and success, in percent."""
    outcome = measure(simulate(scenario, config, _RUNS.value, _SEED.value))
    accepted = outcome.accepted
    values = (accepted[0].value, accepted[5].value, outcome.success.value)
    return [100 * value for value in values]


if __name__ == "__main__":
    app.run(main)
