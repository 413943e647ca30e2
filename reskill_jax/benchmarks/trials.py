"""Do trials keep their promises, and are runs better for them?

    python -m reskill_jax.benchmarks.trials

First single trials (`single_trials`) of bundles that do nothing or are worth -5 or +5
points: additions and deletes, one candidate and three, in batches of every shipped
shape, in worlds that the bounds were not chosen in. Then whole runs of 150 steps
(`trial_simulation`), where the published rule and ours see the same proposals, side by
side, each with rollouts divided evenly and adaptively. Figures come with their Monte
Carlo error, runs being the units; as the bars are about the worst of many worlds,
chance decides about them with much fewer.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from absl import flags
from numpy.typing import ArrayLike

from reskill_jax.benchmarks import single_trials, trial_simulation
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.single_trials import World
from reskill_jax.benchmarks.trial_simulation import Scenario, Steps
from reskill_jax.command_line import start
from reskill_jax.trials import bounds, calibration
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig

_TRIALS = flags.DEFINE_integer(
    "trials",
    3000,
    "Single trials per case and world; a quarter where a step has 1,000 episodes.",
    lower_bound=20,
)
_RUNS = flags.DEFINE_integer(
    "runs",
    100,
    "Whole runs per scenario and rule; a tenth where a step has 1,000 episodes.",
    lower_bound=20,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of everything.")
_SHAPES = flags.DEFINE_list(
    "shapes", ["16x8", "6x8", "256x5"], "Tasks x rollouts of a step."
)
_TASK_SDS = flags.DEFINE_list("task_sds", ["0", "0.4"], "How tasks differ, whole runs.")

CANDIDATES = (1, 3)
# Levels between and beyond those of the calibration; a policy that learns, whose old
# evidence is discounted.
WORLDS = (World(0.4, 0.0), World(0.6, 0.2), World(0.3, 0.4, 0.005, memory=500.0))
POINTS = (-5, 0, 2, 5, 10)  # true effects reported of whole runs
LARGE = 1000  # episodes per step
ADAPTIVE = 0.2  # the paper's floor


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


def main() -> None:
    """Simulate everything; print tables and bars."""
    shapes = [tuple(map(int, shape.split("x"))) for shape in _SHAPES.value]
    figures: dict[str, float] = {"trials": _TRIALS.value, "runs": _RUNS.value}
    checks: dict[str, Bar] = {}
    rows: list[list[str | float]] = []
    for (tasks, group_size), candidates in itertools.product(shapes, CANDIDATES):
        shape = Shape(tasks, group_size, candidates)
        config = TrialConfig(**bounds.bounds_for(shape))
        if refusal := [*bounds.problems(config, shape)]:
            power = bounds.expected(config, shape).helpful
            checks[f"{shape}: refused, power"] = Bar(
                power, calibration.LEAST_POWER, at_most=True
            )
            figures[f"{shape}/refused"] = 1.0
            print(f"{shape}: refused: {refusal[0]}", flush=True)
            continue
        found = rates(config, shape)
        figures |= {f"{shape}/{name}": value for name, value in found.items()}
        rows.append([str(shape), *(f"{value:.3g}" for value in found.values())])
        print("simulated", *rows[-1], flush=True)
        checks |= promises(shape, found)
    print("single trials: share accepted, worst world; +5: mean")
    print(format_table(["shape", *CASES, "steps"], rows))
    outcomes = whole_runs(shapes)
    report(
        "trials",
        figures | whole_figures(outcomes) | adaptive_gains(outcomes),
        checks | bars(outcomes),
    )


# Name, effects of the candidates in points, whether they drop skills.
CASES = {
    "null": (0, False),
    "-5": (-5, False),
    "+5": (5, False),
    "delete null": (0, True),
    "delete -5": (-5, True),
}


def rates(config: TrialConfig, shape: Shape) -> dict[str, float]:
    """Return the share of trials accepted, by case, and the mean steps.

    All candidates have the case's effect, but for +5: there one has it and must be the
    one accepted.
    """
    count = _TRIALS.value // (4 if shape.episodes >= LARGE else 1)
    result: dict[str, float] = {}
    lengths = []
    for name, (points, deletes) in CASES.items():
        others = 0 if points > 0 else points
        effects = [points / 100] + [others / 100] * (shape.candidates - 1)
        found = []
        for number, world in enumerate(WORLDS):
            accepted, steps = single_trials.simulate(
                config,
                effects,
                world,
                shape,
                runs=count,
                seed=1000 * _SEED.value + 10 * number + points,
                deletes=deletes,
            )
            found.append((accepted == 1 if points > 0 else accepted > 0).mean())
            lengths.append(steps.mean())
        result[name] = float(np.mean(found) if points > 0 else np.max(found))
    return result | {"steps": float(np.mean(lengths))}


def promises(shape: Shape, found: Mapping[str, float]) -> dict[str, Bar]:
    """Return what is promised of trials."""
    limits = {
        "null": calibration.NULL_LIMIT,
        "-5": calibration.HARMFUL_LIMIT,
        "delete -5": calibration.HARMFUL_LIMIT,
    }
    return {
        f"{shape}: {name} accepted": Bar(found[name], limit, at_most=True)
        for name, limit in limits.items()
    }


def whole_runs(
    shapes: Sequence[tuple[int, ...]],
) -> dict[Scenario, dict[str, Outcome]]:
    """Simulate whole runs of all scenarios by all rules; print them."""
    found: dict[Scenario, dict[str, Outcome]] = {}
    rows: list[list[str | float]] = []
    for (tasks, group_size), sd in itertools.product(
        shapes, map(float, _TASK_SDS.value)
    ):
        scenario = Scenario(tasks, group_size, sd, drift=True)
        runs = max(20, _RUNS.value // (10 if tasks * group_size >= LARGE else 1))
        found[scenario] = {}
        for name, config in rules(Shape(tasks, group_size)).items():
            steps = trial_simulation.simulate(scenario, config, runs, _SEED.value)
            found[scenario][name] = measure(steps)
            rows.append(_row(str(scenario), name, found[scenario][name]))
            print("simulated", *rows[-1], flush=True)
    header = ["scenario", "rule", *(f"{point:+d}" for point in POINTS)]
    print("whole runs: accepted by true effect, success and regret in percent")
    print(format_table([*header, "steps", "success", "regret"], rows))
    return found


def rules(shape: Shape) -> dict[str, TrialConfig]:
    """Return both presets, each with an adaptive and with an even division."""
    paper = TrialConfig.preset("paper")
    ours = TrialConfig(**bounds.bounds_for(shape))
    return {
        "paper": paper,
        "paper, even": replace(paper, uniform=True),
        "ours": ours,
        "ours, adaptive": replace(ours, epsilon=ADAPTIVE),
    }


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


def _row(scenario: str, rule: str, outcome: Outcome) -> list[str | float]:
    rates = [str(outcome.accepted[point]) for point in POINTS]
    steps = f"{outcome.steps.value:.2f}±{outcome.steps.error:.2f}"
    return [scenario, rule, *rates, steps, str(outcome.success), str(outcome.regret)]


def whole_figures(
    found: Mapping[Scenario, Mapping[str, Outcome]],
) -> dict[str, float]:
    """Flatten the table of whole runs."""
    values: dict[str, float] = {}
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


def adaptive_gains(
    found: Mapping[Scenario, Mapping[str, Outcome]],
) -> dict[str, float]:
    """Return what adaptive allocation gains over an even one, and print it."""
    values: dict[str, float] = {}
    rows: list[list[str | float]] = []
    pairs = {"paper": ("paper", "paper, even"), "ours": ("ours, adaptive", "ours")}
    for scenario, by in found.items():
        for preset, (adaptive, even) in pairs.items():
            success = by[adaptive].success - by[even].success
            power = by[adaptive].accepted[5] - by[even].accepted[5]
            steps = by[adaptive].steps.value - by[even].steps.value
            rows.append(
                [str(scenario), preset, str(success), str(power), f"{steps:+.2f}"]
            )
            key = f"{scenario}/{preset}/adaptive"
            values |= {
                f"{key} success": round(success.value, 5),
                f"{key} success_se": round(success.error, 5),
            }
    print(f"adaptive (floor {ADAPTIVE} or as the preset) minus even division")
    print(format_table(["scenario", "preset", "success", "+5", "steps"], rows))
    return values


def bars(found: Mapping[Scenario, Mapping[str, Outcome]]) -> dict[str, Bar]:
    """Return what is promised of whole runs, where it is kept worst."""
    checks: dict[str, Bar] = {}
    limits = {0: calibration.NULL_LIMIT, -5: calibration.HARMFUL_LIMIT}
    for point, limit in limits.items():
        worst = max(found, key=lambda s: found[s]["ours"].accepted[point].value)
        estimate = found[worst]["ours"].accepted[point]
        label = f"whole runs: {point:+d} accepted ({worst}; ±{estimate.error:.3f})"
        checks[label] = Bar(estimate.value, limit, at_most=True)
    gains = {
        scenario: by["ours"].success - by["paper"].success
        for scenario, by in found.items()
    }
    worst = min(gains, key=lambda s: gains[s].value)
    label = f"whole runs: success over paper's ({worst}; ±{gains[worst].error:.3f})"
    checks[label] = Bar(gains[worst].value, 0.0)
    return checks


if __name__ == "__main__":
    start(main)
