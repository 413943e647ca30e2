"""Are trials decided correctly with the real policy in the loop?

    python -m reskill_jax.experiments.known_effects --workdir=runs/known_effects

starts the laboratory twice per seed, with a bundle on trial that is known to help and
with one that is known to harm, and reads the first decision of each run. GRPO trains
the policy meanwhile, as in any run. The figures of finished runs are kept in --results,
and an interrupted command continues when it is started again. Two commands with
different --kinds, each on one core (`taskset -c 0`), are about 1.3 times as fast as one
command on both cores.
"""

import json
import time
from pathlib import Path

from absl import app, flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import Changes, Figures, Results, start
from reskill_jax.codec import decode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.workdir import Workdir

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/known_effects", "Directory of all runs."
)
_RESULTS = flags.DEFINE_string(
    "results",
    "docs/results/known_effects.jsonl",
    "File with the figures of finished runs.",
)
_KINDS = flags.DEFINE_list("kinds", ["helpful", "harmful"], "Kinds of bundles.")
_SEEDS = flags.DEFINE_integer("seeds", 10, "Trials per kind of bundle.", lower_bound=1)
_MINUTES = flags.DEFINE_float(
    "minutes", 0, "Start no run later than this; 0: any time."
)

KINDS = {"helpful": True, "harmful": False}  # whether it should be accepted
_MAX_TRIAL_STEPS = 24
_STEPS = 1 + _MAX_TRIAL_STEPS  # the trial begins after the first step


def main() -> None:
    """Run what is missing, then print the table of finished runs."""
    if unknown := set(_KINDS.value) - KINDS.keys():
        raise app.UsageError(f"--kinds has {sorted(unknown)}: choose of {[*KINDS]}")
    deadline = time.monotonic() + 60 * (_MINUTES.value or float("inf"))
    results = Results(Path(_RESULTS.value))
    decisions: dict[str, list[Figures]] = {kind: [] for kind in _KINDS.value}
    for seed in range(_SEEDS.value):
        for kind in _KINDS.value:
            decision = results.obtain(
                f"{kind}, seed {seed}",
                changes(kind, seed),
                Path(_WORKDIR.value) / f"{kind}-{seed}",
                first_decision,
                train=time.monotonic() < deadline,
            )
            if decision is not None:
                decisions[kind].append(decision)
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for kind, found in decisions.items():
        if not found:
            continue
        correct = sum(trial["accepted"] == KINDS[kind] for trial in found)
        effects = [trial["effect"] for trial in found]
        mean = sum(effects) / len(effects)
        rows.append([kind, len(found), correct, mean, min(effects), max(effects)])
        figures |= {f"{kind}/trials": len(found), f"{kind}/effect": mean}
        bars[f"{kind} decided correctly"] = Bar(correct / len(found), 0.9)
    header = ["bundle", "trials", "correct", "mean effect", "smallest", "largest"]
    print(format_table(header, rows))
    report("known_effects", figures, bars)


def first_decision(workdir: Workdir) -> Figures:
    """Read the result of the first trial of a run."""
    lines = (workdir.root / "trials.jsonl").read_text().splitlines()
    trial = decode(PastTrial, json.loads(lines[0]), fields="any")
    return {
        "accepted": trial.accepted,
        "effect": trial.effect,
        "steps": trial.step - 1,
        "skills": [operation.name for operation in trial.proposal.operations],
    }


def changes(kind: str, seed: int) -> Changes:
    """Return the keys in which a run with such a bundle differs from `:cpu`."""
    return {
        "seed": seed,
        "num_steps": _STEPS,
        "creator.inject": kind,
        "creator.inject_every": 1,
        "strategy.reservoir_min": 1,
        "eval.max_tasks": 1,
    }


if __name__ == "__main__":
    start(main)
