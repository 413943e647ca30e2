"""Are trials decided correctly with the real policy in the loop?

    python -m reskill_jax.experiments.known_effects --workdir=runs/known_effects

starts the laboratory twice per seed, with a bundle on trial that is known to help and
with one that is known to harm, and reads the first decision of each run. GRPO trains
the policy meanwhile, as in any run; a run ends soon after the decision. Decisions are
kept in --results, and an interrupted command continues when it is started again. Two
commands with different --kinds, each on one core (`taskset -c 0`), are about 1.3 times
as fast as one command on both cores.
"""

from functools import partial
from pathlib import Path

from absl import app, flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import (
    Changes,
    Figures,
    Results,
    finish,
    identity,
    read_config,
    refuse_other,
    start,
)
from reskill_jax.report.decisions import read_trials
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

_WORKDIR = flags.DEFINE_string(
    "workdir", "runs/known_effects", "Directory of all runs."
)
_RESULTS = flags.DEFINE_string(
    "results",
    "docs/results/known_effects.jsonl",
    "File of the decisions.",
)
_KINDS = flags.DEFINE_list("kinds", ["helpful", "harmful"], "Kinds of bundles.")
_SEEDS = flags.DEFINE_integer("seeds", 10, "Trials per kind of bundle.", lower_bound=1)
_MINUTES = flags.DEFINE_float(
    "minutes", 0, "Start no run later than this; 0: any time."
)

KINDS = {"helpful": True, "harmful": False}  # whether it should be accepted
_STEPS = 25  # at most; the trial begins after the first step
_STRIDE = 6  # steps until we look for a decision; most take two to four


def main() -> None:
    """Run what is missing, then print the table of finished runs."""
    if unknown := set(_KINDS.value) - KINDS.keys():
        raise app.UsageError(f"--kinds has {sorted(unknown)}: choose of {[*KINDS]}")
    results = Results(Path(_RESULTS.value), _MINUTES.value)
    decisions: dict[str, list[Figures]] = {kind: [] for kind in _KINDS.value}
    for seed in range(_SEEDS.value):
        for kind in _KINDS.value:
            key = identity(changes(kind, seed))
            play = partial(first_decision, Path(_WORKDIR.value), kind, seed)
            decision = results.obtain(f"{kind}, seed {seed}", key, play)
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


def first_decision(root: Path, kind: str, seed: int) -> Figures:
    """Train until the bundle on trial is decided upon; go on with a run that is there.

    Args:
        root: directory of all runs.
        kind: of the bundle, a key of `KINDS`.
        seed: of the run.

    Raises:
        CalledProcessError: the run failed; its message is on the terminal.
        UnusableResultError: a run of another configuration is there, or a damaged one.
    """
    run = Workdir(root / f"{kind}-{seed}")
    wanted = changes(kind, seed)
    if run.config.exists():
        length = read_config(run.config)["num_steps"]
        refuse_other(run.config, wanted | {"num_steps": length})
    for steps in (*range(_STRIDE, _STEPS, _STRIDE), _STEPS):
        if read_trials(run.trials):
            break
        if _trained(run) < steps:
            finish(run.root, wanted | {"num_steps": steps})
    trial = read_trials(run.trials)[0]
    return {
        "accepted": trial.accepted,
        "effect": trial.effect,
        "steps": trial.step - 1,
        "skills": [operation.name for operation in trial.proposal.operations],
    }


def _trained(run: Workdir) -> int:
    steps = [int(x["step"]) for x in read_metrics(run.metrics) if x["phase"] == "train"]
    return max(steps, default=0)


def changes(kind: str, seed: int) -> Changes:
    """Return the keys in which a run with such a bundle differs from `CONFIG`."""
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
