"""Does the trial judge rightly with the real policy in the loop?

    python -m reskill_jax.experiments.known_effects --workdir=runs/known_effects

starts the laboratory once per seed with a bundle that is known to help on trial, and
once with one that is known to harm, and reads the first decision of each run. GRPO
trains the policy all the while, as in any run. Interrupted, it goes on; the figures of
finished runs are kept in --results. Two commands with different --kinds, each on one
core (`taskset -c 0`), get about 1.3 times as far as one command on both.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import Changes, Figures, Results
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
_KINDS = flags.DEFINE_list("kinds", ["helpful", "harmful"], "Which bundles.")
_SEEDS = flags.DEFINE_integer("seeds", 10, "Trials per kind of bundle.")
_MINUTES = flags.DEFINE_float("minutes", 0, "Begin no run after this; 0: no limit.")

KINDS = {"helpful": True, "harmful": False}  # whether it should be accepted
_LONGEST = 8  # steps of a trial, at most
_STEPS = 1 + _LONGEST  # the trial begins after the first step


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then print what there is."""
    del argv
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
        right = sum(trial["accepted"] == KINDS[kind] for trial in found)
        effects = [trial["effect"] for trial in found]
        mean = sum(effects) / len(effects)
        rows.append([kind, len(found), right, mean, min(effects), max(effects)])
        figures |= {f"{kind}/trials": len(found), f"{kind}/effect": mean}
        bars[f"{kind} judged rightly"] = Bar(right / len(found), 0.9)
    header = ["bundle", "trials", "judged rightly", "mean effect", "least", "most"]
    print(format_table(header, rows))
    report("known_effects", figures, bars)


def first_decision(workdir: Workdir) -> Figures:
    """Read what the first trial of a run has come to."""
    lines = (workdir.root / "trials.jsonl").read_text().splitlines()
    trial = decode(PastTrial, json.loads(lines[0]), fields="any")
    return {
        "accepted": trial.accepted,
        "effect": trial.effect,
        "steps": trial.step - 1,
        "skills": [operation.name for operation in trial.proposal.operations],
    }


def changes(kind: str, seed: int) -> Changes:
    """Return how a run with such a bundle differs from the laboratory's."""
    return {
        "seed": seed,
        "num_steps": _STEPS,
        "trial.max_steps": _LONGEST,
        "creator.inject": kind,
        "creator.inject_every": 1,
        "strategy.reservoir_min": 1,
        "eval.max_tasks": 1,
    }


if __name__ == "__main__":
    app.run(main)
