r"""What training is worth: sampled success on held-out tasks, before and after.

    python -m reskill_jax.experiments.gain --config=configs/scienceworld.py:cpu \
        --workdir=runs/gain --seeds=3 --steps=30 --splits=test,unseen

trains every seed with the main program, in a workdir of its own, and then plays every
task of a split several times with the policy that the run began with, without skills,
and with the one that it ended with, with the library that it accepted. Differences are
paired by seed and task; intervals are for other seeds and other tasks.
Interrupted, the same command goes on: finished runs and what was played are kept, and
those of --results need not be made again. More --seeds add to them.
"""

import json
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from reskill_jax import build
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import (
    Changes,
    Figures,
    Results,
    finish,
    identity,
    start,
)
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.experiments.ceiling import load_params, play
from reskill_jax.report.statistics import paired_difference
from reskill_jax.rollout.context import BankContext, Context, EmptyContext
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.storage import write_text
from reskill_jax.stored_config import get_config
from reskill_jax.workdir import Workdir

TARGET = 0.10  # gain in success


def describe(split: str, by_seed: np.ndarray) -> tuple[list[str | float], Figures, Bar]:
    """Return a row of the table, figures and the bar of a split.

    Args:
        split: its name.
        by_seed: successes, 0 or 1, [seeds, before and after, tasks, samples].
    """
    before, after = by_seed[:, 0], by_seed[:, 1]
    gain = paired_difference(before, after)
    means = {"before": float(before.mean()), "after": float(after.mean())}
    figures = means | {"gain_se": gain.error, "gain_low": gain.low}
    row: list[str | float] = [split, gain.seeds, gain.tasks, *means.values()]
    row.append(f"{gain.mean:+.1%} [{gain.low:+.1%}, {gain.high:+.1%}]")
    named = {f"{split}/{name}": value for name, value in figures.items()}
    return row, named, Bar(gain.mean, TARGET)


def played(workdir: Workdir, split: str, step: int, samples: int, limit: int) -> list:
    """Return the successes of a split's tasks, played now unless they were before.

    Args:
        workdir: of a finished run.
        split: whose tasks.
        step: 0, or the last one.
        samples: episodes per task.
        limit: most tasks.

    Returns:
        Whether they succeeded, 0 or 1, [tasks][samples].
    """
    config = get_config(str(workdir.root))
    environment = build.load_environment(config)
    panel: TaskPanel = environment.panel(split, limit)
    path = workdir.root / "gain" / f"{split}-{panel.hash}-{samples}-{step}.json"
    if path.exists():
        return list(json.loads(path.read_text()))
    bank = load_bank(workdir.skills) if step else None
    arm: Context = BankContext(bank) if bank and bank.skills else EmptyContext()
    params = load_params(config, workdir, step)
    success = play(config, environment, panel, {"": arm}, params, samples)
    kept: list = success[:, 0].astype(int).tolist()
    write_text(path, json.dumps(kept))
    return kept


def main() -> None:
    """Train and play what is missing, then print the table."""
    results = Results(Path(_RESULTS.value))
    steps, splits, samples = _STEPS.value, _SPLITS.value, _SAMPLES.value
    size = f"{','.join(splits)}: {_TASKS.value} tasks x {samples}"

    def measured(workdir: Path, wanted: Changes) -> Figures:
        finish(workdir, wanted, _CONFIG.value)
        return {
            split: [
                played(Workdir(workdir), split, k, samples, _TASKS.value)
                for k in (0, steps)
            ]
            for split in splits
        }

    seeds = []
    for seed in range(_SEEDS.value):
        wanted = changes(seed, steps)
        figures = results.obtain(
            f"{_CONFIG.value}, seed {seed}; {size}",
            identity(wanted, _CONFIG.value),
            partial(measured, Path(_WORKDIR.value) / f"{steps}-{seed}", wanted),
        )
        assert figures is not None  # there is no limit of time
        seeds.append(figures)
    rows: list[list[str | float]] = []
    means: Figures = {}
    bars: dict[str, Bar] = {}
    for split in splits:
        by_seed = np.array([figures[split] for figures in seeds], np.float64)
        row, found, bars[f"{split}/gain"] = describe(split, by_seed)
        rows.append(row)
        means |= found
    header = ["split", "seeds", "tasks", "before", "after", "gain, 95%"]
    print(format_table(header, rows))
    report("gain", means, bars)


def changes(seed: int, steps: int) -> Changes:
    """Return the keys in which a run differs from the configuration."""
    return {
        "seed": seed,
        "num_steps": steps,
        "checkpoint.every": min(steps, 5),
        "eval.every": 0,
        "eval.max_tasks": 5,  # what counts is played here, sampled
    }


if __name__ == "__main__":
    _CONFIG = flags.DEFINE_string(
        "config", "configs/scienceworld.py:cpu", "File and variant."
    )
    _WORKDIR = flags.DEFINE_string("workdir", "runs/gain", "Directory of all runs.")
    _RESULTS = flags.DEFINE_string(
        "results", "docs/results/gain.jsonl", "File with what was played."
    )
    _SEEDS = flags.DEFINE_integer("seeds", 3, "Runs.", lower_bound=1)
    _STEPS = flags.DEFINE_integer("steps", 30, "Training steps.", lower_bound=1)
    _SPLITS = flags.DEFINE_list("splits", ["test", "unseen"], "Whose tasks to play.")
    _TASKS = flags.DEFINE_integer("tasks", 50, "Of a split.", lower_bound=2)
    _SAMPLES = flags.DEFINE_integer("samples", 4, "Episodes a task.", lower_bound=1)
    start(main)
