r"""One policy for two worlds beside the policies of each: sampled success, untrained.

    python -m reskill_jax.experiments.worlds

plays held-out tasks of the laboratories of ALFWorld and ScienceWorld without skills,
with the policy that each was made for and with the one that was warmed on both. Errors
are over tasks. What was played is kept in --results.
"""

from functools import partial
from pathlib import Path

import numpy as np
from absl import flags

from reskill_jax import build
from reskill_jax.benchmarks.reporting import format_table, report
from reskill_jax.benchmarks.runs import (
    CONFIG,
    Changes,
    Figures,
    Results,
    configuration,
    identity,
    start,
)
from reskill_jax.experiments.ceiling import play
from reskill_jax.rollout.context import EmptyContext

BOTH = "alfworld-scienceworld"
# Configuration, and its split of held-out tasks.
WORLDS = {
    CONFIG: "valid_seen",
    "configs/scienceworld.py:cpu": "test",
}


def recipes(config: str) -> tuple[str, str]:
    """Return the recipes to compare: that of the laboratory, and that of both."""
    return configuration({}, config).warm_start.recipe, BOTH


def success(
    config: str, changes: Changes, split: str, tasks: int, samples: int
) -> Figures:
    """Play a split's tasks with the policy that a run would begin with.

    Args:
        config: of the laboratory, see `configuration`.
        changes: keys in which it is changed.
        split: whose tasks.
        tasks: at most so many.
        samples: episodes per task.

    Returns:
        `success`: whether they succeeded, 0 or 1, [tasks][samples].
    """
    made = configuration(changes, config)
    environment = build.load_environment(made)
    panel = environment.panel(split, tasks)
    arms = {"": EmptyContext()}
    played = play(made, environment, panel, arms, None, samples)
    return {"success": played[:, 0].astype(int).tolist()}


def main() -> None:
    """Play what is missing, then print the table."""
    tasks, samples = _TASKS.value, _SAMPLES.value
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    for config, split in WORLDS.items():
        results = Results(Path(_RESULTS.value))
        for recipe in recipes(config):
            changes: Changes = {"warm_start.recipe": recipe}
            name = f"{recipe} on {split}: {tasks} tasks x {samples}"
            found = results.obtain(
                name,
                identity(changes, config),
                partial(success, config, changes, split, tasks, samples),
            )
            assert found is not None  # there is no limit of time
            by_task = np.mean(found["success"], axis=1)
            error = float(by_task.std(ddof=1) / np.sqrt(len(by_task)))
            interval = f"{by_task.mean():.1%} ±{1.96 * error:.1%}"
            rows.append([config, split, recipe, len(by_task), interval])
            figures[f"{recipe} on {split}"] = float(by_task.mean())
    header = ["world", "split", "policy", "tasks", "success, 95%"]
    print(format_table(header, rows))
    report("worlds", figures, {})


if __name__ == "__main__":
    _RESULTS = flags.DEFINE_string(
        "results", "docs/results/worlds.jsonl", "File with what was played."
    )
    _TASKS = flags.DEFINE_integer("tasks", 48, "Of each world.", lower_bound=2)
    _SAMPLES = flags.DEFINE_integer("samples", 4, "Episodes a task.", lower_bound=1)
    start(main)
