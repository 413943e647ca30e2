"""Compares strategies in the laboratory, over several seeds each.

    python -m reskill_jax.experiments.laboratory --workdir=runs/laboratory

trains every (experiment, seed) with the main program, one after another, each in its
own workdir. Runs are resumed where they were stopped, and the figures of finished ones
are kept in --results, so that the command may be interrupted and started again;
--minutes ends it by itself. Two commands with disjoint --experiments, each on one core
(`taskset -c 0`), are about 1.3 times as fast as one command on both cores.

Success is that of greedy sampling with the accepted bank, in houses with floor plans
that training does not have.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from absl import app, flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import Changes, Results
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

EXPERIMENTS: dict[str, Changes] = {
    "grpo": {"strategy.name": "grpo"},
    "reskill": {"strategy.name": "reskill"},
    "paper": {"trial.preset": "paper"},
    "paper, uniform": {"strategy.name": "uniform", "trial.preset": "paper"},
    # Half of the creator's proposals are known to harm.
    "reskill, half harmful": {
        "strategy.name": "reskill",
        "creator.inject": "harmful",
        "creator.inject_every": 2,
    },
    "auto_accept, half harmful": {
        "strategy.name": "auto_accept",
        "creator.inject": "harmful",
        "creator.inject_every": 2,
    },
}

# Twice the main job's unseen houses; evaluated at the start and at the end only.
_EVALUATION: Changes = {
    "env.houses_eval": 96,
    "eval.max_tasks": 96,
    "eval.splits": ("valid_unseen",),
    "eval.every": 0,
}

_WORKDIR = flags.DEFINE_string("workdir", "runs/laboratory", "Directory of all runs.")
_RESULTS = flags.DEFINE_string(
    "results",
    "docs/results/laboratory.jsonl",
    "File with the figures of finished runs.",
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "Seeds per experiment.")
_STEPS = flags.DEFINE_integer("steps", 30, "Training steps per run.")
_EXPERIMENTS = flags.DEFINE_list("experiments", [], "Their names; empty: all.")
_MINUTES = flags.DEFINE_float(
    "minutes", 0, "Start no run later than this; 0: any time."
)


@dataclass(frozen=True)
class RunFigures:
    """The figures of one finished run.

    Attributes:
        before: unseen success of the warm start.
        after: unseen success after the last step.
        training: success of training episodes, mean over the steps.
        trials: number of decided trials.
        accepted: number of accepted bundles.
    """

    before: float
    after: float
    training: float
    trials: int
    accepted: int


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then print the table of finished runs."""
    del argv
    deadline = time.monotonic() + 60 * (_MINUTES.value or float("inf"))
    names = _EXPERIMENTS.value or list(EXPERIMENTS)
    results = Results(Path(_RESULTS.value))
    found: dict[str, list[RunFigures]] = {name: [] for name in names}
    for seed in range(_SEEDS.value):
        for name in names:
            size: Changes = {"seed": seed, "num_steps": _STEPS.value}
            figures_of_run = results.obtain(
                f"{name}, seed {seed}",
                size | _EVALUATION | EXPERIMENTS[name],
                directory(name, seed),
                lambda workdir: asdict(outcome(workdir, _STEPS.value)),
                train=time.monotonic() < deadline,
            )
            if figures_of_run:
                found[name].append(RunFigures(**figures_of_run))
    print(table(found))
    report("laboratory", figures(found), bars(found))


def directory(name: str, seed: int) -> Path:
    """Return the workdir of one run."""
    slug = name.replace(", ", "-").replace(" ", "-")
    return Path(_WORKDIR.value) / f"{slug}-{_STEPS.value}-{seed}"


def outcome(workdir: Workdir, steps: int) -> RunFigures:
    """Read the outcome of a finished run.

    Raises:
        ValueError: nothing was played in training, or an evaluation that counts is
            missing or void.
    """
    lines = read_metrics(workdir.metrics)
    evaluations = {
        int(line["step"]): float(line["valid_unseen/success"])
        for line in lines
        if line["phase"] == "eval" and "valid_unseen/success" in line
    }
    training = [
        float(line["rollout/success"])
        for line in lines
        if line["phase"] == "train" and "rollout/success" in line
    ]
    if missing := {0, steps} - evaluations.keys():
        raise ValueError(
            f"{workdir.metrics}: the evaluations after {sorted(missing)} steps are "
            "missing or void: too many tasks failed for good; remove the run and train "
            "it again"
        )
    if not training:
        raise ValueError(f"{workdir.metrics}: no step of training has played anything")
    path = workdir.root / "trials.jsonl"
    trials = path.read_text().splitlines() if path.exists() else []
    return RunFigures(
        before=evaluations[0],
        after=evaluations[steps],
        training=float(np.mean(training)),
        trials=len(trials),
        accepted=sum(json.loads(trial)["accepted"] for trial in trials),
    )


def table(found: dict[str, list[RunFigures]]) -> str:
    """Lay out mean and standard error per experiment."""
    rows: list[list[str | float]] = []
    for name, outcomes in found.items():
        if outcomes:
            mean, error = _mean([o.after for o in outcomes])
            before = _mean([o.before for o in outcomes])[0]
            training = _mean([o.training for o in outcomes])[0]
            trials = sum(o.trials for o in outcomes)
            accepted = f"{sum(o.accepted for o in outcomes)} of {trials}"
            means = (before, mean, error, training)
            rows.append([name, len(outcomes), *means, accepted])
    header = ["experiment", "seeds", "before", "after", "std. error", "training"]
    header += ["accepted"]
    return format_table(header, rows)


def figures(found: dict[str, list[RunFigures]]) -> dict[str, float]:
    """Return the figures behind the table."""
    values: dict[str, float] = {}
    for name, outcomes in found.items():
        if outcomes:
            mean, error = _mean([o.after for o in outcomes])
            values |= {
                f"{name}/seeds": len(outcomes),
                f"{name}/before": _mean([o.before for o in outcomes])[0],
                f"{name}/after": mean,
                f"{name}/after_se": error,
                f"{name}/training": _mean([o.training for o in outcomes])[0],
            }
    return values


def bars(found: dict[str, list[RunFigures]]) -> dict[str, Bar]:
    """Return the differences that the project promises, with their bars."""
    after = {name: _mean([o.after for o in os])[0] for name, os in found.items() if os}
    checks: dict[str, Bar] = {}
    if "grpo" in after:
        before = _mean([o.before for o in found["grpo"]])[0]
        checks["grpo over warm start"] = Bar(after["grpo"] - before, 0.20)
    if {"grpo", "reskill"} <= set(after):
        gain = after["reskill"] - after["grpo"]
        checks["reskill over grpo"] = Bar(gain, 0.0)
    harmed = ("reskill, half harmful", "auto_accept, half harmful")
    if set(harmed) <= set(after):
        gain = after[harmed[0]] - after[harmed[1]]
        checks["reskill over auto_accept, half harmful"] = Bar(gain, 0.0)
    return checks


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error."""
    spread = np.std(values, ddof=1) if len(values) > 1 else float("nan")
    return float(np.mean(values)), float(spread / np.sqrt(len(values)))


if __name__ == "__main__":
    app.run(main)
