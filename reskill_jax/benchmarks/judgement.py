"""Does the trial judge rightly with the real policy in the loop?

    python -m reskill_jax.benchmarks.judgement --workdir=runs/judgement

starts the laboratory once per seed with a bundle that is known to help on trial, and
once with one that is known to harm, and reads the first decision of each run. GRPO
trains the policy all the while, as in any run.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import Changes, finish, is_finished
from reskill_jax.skills.trial import TrialConfig

_WORKDIR = flags.DEFINE_string("workdir", "runs/judgement", "Directory of all runs.")
_SEEDS = flags.DEFINE_integer("seeds", 10, "Trials per kind of bundle.")
_MINUTES = flags.DEFINE_float("minutes", 0, "Begin no run after this; 0: no limit.")

KINDS = {"helpful": True, "harmful": False}  # whether it should be accepted
_STEPS = 1 + TrialConfig().max_steps  # the trial begins after the first step


def main(argv: Sequence[str]) -> None:
    """Run what is missing, then print what there is."""
    del argv
    deadline = time.monotonic() + 60 * (_MINUTES.value or float("inf"))
    decisions: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for seed in range(_SEEDS.value):
        for kind in KINDS:
            workdir = Path(_WORKDIR.value) / f"{kind}-{seed}"
            if time.monotonic() < deadline:
                finish(workdir, changes(kind, seed))
            if is_finished(workdir, _STEPS):
                first = (workdir / "trials.jsonl").read_text().splitlines()[0]
                decisions[kind].append(json.loads(first))
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    bars: dict[str, Bar] = {}
    for kind, found in decisions.items():
        if not found:
            continue
        right = sum(trial["accepted"] == KINDS[kind] for trial in found)
        effects = [trial["contrast"]["effect"] for trial in found]
        mean = sum(effects) / len(effects)
        rows.append([kind, len(found), right, mean, min(effects), max(effects)])
        figures |= {f"{kind}/trials": len(found), f"{kind}/effect": mean}
        bars[f"{kind} judged rightly"] = Bar(right / len(found), 0.9)
    header = ["bundle", "trials", "judged rightly", "mean effect", "least", "most"]
    print(format_table(header, rows))
    report("judgement", figures, bars)


def changes(kind: str, seed: int) -> Changes:
    """Return how a run with such a bundle differs from the laboratory's."""
    return {
        "seed": seed,
        "num_steps": _STEPS,
        "creator.inject": kind,
        "creator.inject_every": 1,
        "strategy.reservoir_min": 1,
        "eval.games": 1,
    }


if __name__ == "__main__":
    app.run(main)
