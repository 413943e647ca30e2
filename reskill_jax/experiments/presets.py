"""Compares published objectives in the laboratory, over seeds that they share.

    python -m reskill_jax.experiments.presets --workdir=runs/presets --seeds=3

trains configs/alfworld.py:cpu,bare with every variant of `objectives.OBJECTIVES`, as it
is, and with groups that tie, one run after another, each in its own workdir; all but
the second and `dapo` have these groups. Runs are resumed where they were stopped, and
the figures of finished ones are kept in --results, so that the command may be
interrupted and started again; --minutes ends it by itself. --tiny tries the command in
minutes, with runs that say nothing.

Success is greedy, on games that are held out for choices (split `dev`), never on those
that are reported. Differences are to the first objective, paired by seed.
"""

from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from absl import app, flags

from reskill_jax.benchmarks.reporting import format_table, report
from reskill_jax.benchmarks.runs import (
    ALL_GROUPS,
    Changes,
    Figures,
    Results,
    finish,
    identity,
    start,
)
from reskill_jax.objectives import OBJECTIVES
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

PRESETS: dict[str, Changes] = {
    "all groups": ALL_GROUPS,
    "default": {},
    **{name: ALL_GROUPS | dict(changes) for name, changes in OBJECTIVES.items()},
}
_DEV = 48  # games, beside the 200 of the main job
_EVALUATION: Changes = {
    "env.houses_train": 200 + _DEV,
    "env.dev": _DEV,
    "eval.max_tasks": _DEV,
    "eval.splits": ("dev",),
    "eval.every": 0,
}
_TINY: Changes = {
    "env.houses_train": 5,
    "env.houses_eval": 1,
    "env.dev": 1,
    "eval.max_tasks": 1,
    "rollout.tasks_per_step": 2,
    "rollout.max_turns": 4,
    "strategy.reservoir_min": 4,
}
_LAST = 10  # steps at the end, over which pass@8 is a mean


@dataclass(frozen=True)
class RunFigures:
    """The figures of one finished run.

    Attributes:
        area: success of training episodes, mean over the steps.
        before: success on dev before the first step.
        after: success on dev after the last step.
        pass_at_8: pass@8 of training groups, mean over the last steps.
        zero_variance: share of groups whose rewards were equal, mean over the steps.
        update_s: seconds of an update, median over the steps.
    """

    area: float
    before: float
    after: float
    pass_at_8: float
    zero_variance: float
    update_s: float


def main() -> None:
    """Run what is missing, then print the table of finished runs."""
    if unknown := set(_PRESETS.value) - PRESETS.keys():
        raise app.UsageError(
            f"--presets={','.join(sorted(unknown))}: choose from {', '.join(PRESETS)}"
        )
    names = _PRESETS.value or list(PRESETS)
    results = Results(Path(_RESULTS.value), _MINUTES.value)
    size: Changes = {"num_steps": _STEPS.value, "strategy.name": _STRATEGY.value}
    size |= _EVALUATION | (_TINY if _TINY_RUNS.value else {})
    found: dict[str, dict[int, RunFigures]] = {name: {} for name in names}
    for seed in range(_SEEDS.value):
        for name in names:
            changes = size | PRESETS[name] | {"seed": seed}
            workdir = Path(_WORKDIR.value) / f"{name}-{_STEPS.value}-{seed}"
            make = partial(trained, workdir, changes)
            kept = results.obtain(f"{name}, seed {seed}", identity(changes), make)
            if kept:
                found[name][seed] = RunFigures(**kept)
    print(table(found))
    report("presets", figures(found), {})


def trained(workdir: Path, changes: Changes) -> Figures:
    """Train a run to its end and return its figures, see `RunFigures`."""
    finish(workdir, changes)
    return asdict(outcome(Workdir(workdir), _STEPS.value))


def outcome(workdir: Workdir, steps: int) -> RunFigures:
    """Read the outcome of a finished run.

    Raises:
        ValueError: an evaluation or all of training is missing.
    """
    lines = read_metrics(workdir.metrics)
    success = {
        int(line["step"]): float(line["dev/success"])
        for line in lines
        if line["phase"] == "eval" and "dev/success" in line
    }
    training = [line for line in lines if line["phase"] == "train"]

    def column(name: str) -> list[float]:
        return [float(line[name]) for line in training if name in line]

    if {0, steps} - success.keys() or not column("rollout/success"):
        raise ValueError(
            f"{workdir.metrics}: an evaluation is missing or void, or no step has "
            "played anything; remove the run and train it again"
        )
    return RunFigures(
        area=float(np.mean(column("rollout/success"))),
        before=success[0],
        after=success[steps],
        pass_at_8=float(np.mean(column("rollout/pass@8")[-_LAST:])),
        zero_variance=float(np.mean(column("rollout/frac_reward_zero_std"))),
        update_s=float(np.median(column("time/update"))),
    )


def table(found: dict[str, dict[int, RunFigures]]) -> str:
    """Lay out means over seeds, and the difference in area to the first objective."""
    rows: list[list[str | float]] = []
    first = next(iter(found.values()), {})
    for name, runs in found.items():
        if runs:
            mean, error = gain(runs, first)
            spread = "unknown" if np.isnan(error) else f"{error:.1%}"
            known = runs is not first and not np.isnan(mean)
            shown = f"{mean:+.1%} ±{spread}" if known else ""
            rows.append([name, len(runs), *_means(runs).values(), shown])
    header = ["objective", "seeds", "area", "before", "after", "pass@8", "equal groups"]
    return format_table([*header, "update, s", "area, gain"], rows)


def figures(found: dict[str, dict[int, RunFigures]]) -> dict[str, float]:
    """Return the figures behind the table; those that are not known are left out."""
    values: dict[str, float] = {}
    first = next(iter(found.values()), {})
    for name, runs in found.items():
        if runs:
            values |= {f"{name}/{key}": mean for key, mean in _means(runs).items()}
            values[f"{name}/seeds"] = len(runs)
            mean, error = gain(runs, first)
            values |= {f"{name}/area_gain": mean, f"{name}/area_gain_se": error}
    return values


def gain(
    runs: dict[int, RunFigures], others: dict[int, RunFigures]
) -> tuple[float, float]:
    """Return the mean difference in area and its standard error, paired by seed."""
    pairs = [runs[seed].area - others[seed].area for seed in runs.keys() & others]
    if not pairs:
        return float("nan"), float("nan")
    spread = np.std(pairs, ddof=1) if len(pairs) > 1 else float("nan")
    return float(np.mean(pairs)), float(spread / np.sqrt(len(pairs)))


def _means(runs: dict[int, RunFigures]) -> dict[str, float]:
    return {
        field.name: float(np.mean([getattr(run, field.name) for run in runs.values()]))
        for field in fields(RunFigures)
    }


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", "runs/presets", "Directory of all runs.")
    _RESULTS = flags.DEFINE_string(
        "results", "docs/results/presets.jsonl", "File of finished runs' figures."
    )
    _SEEDS = flags.DEFINE_integer("seeds", 3, "Per objective.", lower_bound=1)
    _STEPS = flags.DEFINE_integer("steps", 30, "Training steps.", lower_bound=1)
    _PRESETS = flags.DEFINE_list("presets", [], "Their names; empty: all.")
    _STRATEGY = flags.DEFINE_string("strategy", "reskill", "What is done about skills.")
    _MINUTES = flags.DEFINE_float(
        "minutes", 0, "Start no run later than this; 0: any time."
    )
    _TINY_RUNS = flags.DEFINE_bool("tiny", False, "Runs of a few seconds.")
    start(main)
