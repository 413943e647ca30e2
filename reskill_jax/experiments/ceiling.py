"""What could skills be worth to a policy at all? One skill at a time, on given tasks.

    python -m reskill_jax.experiments.ceiling --workdir=runs/grpo --steps=0,10,20,40

plays training tasks of every kind with the policies of a run's checkpoints: without
skills, and with each skill of the environment's rule table (or of --banks) alone. A
laboratory in which the best skill of a kind is worth little after twenty steps cannot
show that skills help. Effects are paired by task, errors are over tasks. The best of
several skills is chosen on the games that it is measured on, so it is optimistic.

Checkpoints have to be there (`checkpoint.every`, `checkpoint.keep`); step 0 is the
policy that the run began with. What was measured is kept in --results.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.benchmarks.reporting import format_table, report
from reskill_jax.benchmarks.runs import Figures, Results, start
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.task import Task
from reskill_jax.policy.decoder import Params
from reskill_jax.rollout.context import BankContext, Context, EmptyContext
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.stored_config import get_config
from reskill_jax.workdir import Workdir, flatten


@dataclass(frozen=True)
class Worth:
    """What skills are worth on the tasks of one kind.

    Attributes:
        tasks: how many.
        without: success without skills.
        effects: by skill, difference to that and its standard error over tasks.
    """

    tasks: int
    without: float
    effects: dict[str, tuple[float, float]]

    @property
    def best(self) -> str:
        """The name of the skill with the largest effect."""
        return max(self.effects, key=lambda name: self.effects[name][0])


def worth(success: np.ndarray, names: Sequence[str]) -> Worth:
    """Compare each skill with none, paired by task.

    Args:
        success: [tasks, arms, samples], 0 or 1; arm 0 has no skill.
        names: of the skills of the other arms.
    """
    rates = success.mean(axis=2)  # [tasks, arms]
    differences = rates[:, 1:] - rates[:, :1]
    errors = differences.std(axis=0, ddof=1) / np.sqrt(len(rates))
    return Worth(
        tasks=len(rates),
        without=float(rates[:, 0].mean()),
        effects={
            name: (float(effect), float(error))
            for name, effect, error in zip(
                names, differences.mean(axis=0), errors, strict=True
            )
        },
    )


def by_kind(
    success: np.ndarray,
    kinds: Sequence[str],
    names: Sequence[str],
) -> dict[str, Worth]:
    """Compare skills on the tasks of each kind, and on all (key "").

    Args:
        success: [tasks, arms, samples], see `worth`.
        kinds: of the tasks.
        names: of the skills.
    """
    labels = np.array(kinds)
    found = {"": worth(success, names)}
    return found | {
        kind: worth(success[labels == kind], names) for kind in sorted(set(kinds))
    }


def best_per_kind(found: Mapping[str, Worth]) -> float:
    """Return the mean gain over kinds if each had its best skill, or none."""
    gains = [
        max(0.0, worth.effects[worth.best][0]) for kind, worth in found.items() if kind
    ]
    return float(np.mean(gains))


def some_of_each_kind(panel: TaskPanel, count: int) -> TaskPanel:
    """Choose tasks of a panel, the same number of each kind.

    Raises:
        ValueError: a kind has too few.
    """
    chosen: list[Task] = []
    for kind in sorted({task.kind for task in panel}):
        tasks = [task for task in panel if task.kind == kind]
        if len(tasks) < count:
            raise ValueError(f"tasks={count}: there are only {len(tasks)} of {kind}")
        chosen += evenly_spaced(tasks, count)
    return TaskPanel(tuple(chosen))


def contexts(
    environment: EnvironmentSpec, directories: Sequence[str]
) -> dict[str, Context]:
    """Return what is compared, by name; the first has no skill.

    Args:
        environment: its rule table is taken where no directories are named.
        directories: of banks.
    """
    banks = {Path(path).name: load_bank(Path(path)) for path in directories} or {
        rule.name: SkillBank((rule.skill(),)) for rule in environment.rules.rules
    }
    return {"": EmptyContext()} | {name: BankContext(b) for name, b in banks.items()}


def play(
    config: ConfigDict,
    environment: EnvironmentSpec,
    panel: TaskPanel,
    arms: Mapping[str, Context],
    params: Params | None,
    samples: int,
) -> np.ndarray:
    """Play every task with every context, as in training.

    Args:
        config: of the run.
        environment: of the run.
        panel: the tasks.
        arms: the contexts.
        params: the weights; None for those that the run began with.
        samples: episodes per task and context.

    Returns:
        Whether they succeeded, float64 [tasks, contexts, samples].
    """
    with ExitStack() as resources:
        policy = build.load_policy(config, weights=params is None)
        weights = policy.params if params is None else params
        engine, _ = build.make_engine(
            config, policy, policy.join(weights), 0, resources
        )
        collector = build.make_collector(config, environment, policy, engine, resources)
        columns = np.repeat(np.arange(len(arms)), samples)
        episodes = asyncio.run(
            collector.collect(
                panel.tasks,
                np.tile(columns, (len(panel), 1)),
                tuple(arms.values()),
                sampling=build.sampling(config),
                seed=config.seed,
            )
        )
    success = np.array([episode.success for episode in episodes], np.float64)
    return success.reshape(len(panel), len(arms), samples)


def load_params(config: ConfigDict, workdir: Workdir, step: int) -> Params | None:
    """Read the weights of a checkpoint; None for step 0.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if step == 0:
        return None
    policy = build.load_policy(config, weights=False)
    checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
    try:
        restored = checkpointer.restore({"params": policy.params}, step, partial=True)
    finally:
        checkpointer.close()
    assert restored is not None
    params: Params = restored.arrays["params"]
    return params


def main() -> None:
    """Measure what is not in the results yet, and print all of it."""
    workdir, results = Workdir(Path(_WORKDIR.value)), Results(Path(_RESULTS.value))
    config = get_config(str(workdir.root))
    environment = build.load_environment(config)
    everything = environment.panel(_SPLIT.value, None)
    panel = some_of_each_kind(everything, _TASKS.value)
    arms = contexts(environment, _BANKS.value)
    values = [flatten(config.to_dict()), [context.hash for context in arms.values()]]
    text = json.dumps(values, sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]

    def played(step: int) -> Figures:
        print(f"step {step}: playing {len(panel)} tasks, {len(arms)} banks")
        started = time.monotonic()
        params = load_params(config, workdir, step)
        success = play(config, environment, panel, arms, params, _SAMPLES.value)
        print(f"{success.size} episodes in {time.monotonic() - started:.0f} s")
        return {"success": success.astype(int).tolist()}

    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    for step in map(int, _STEPS.value):
        name = f"step {step}, {panel.label} x {_SAMPLES.value}"
        kept = results.obtain(name, key, partial(played, step))
        assert kept is not None  # there is no limit of time
        success = np.array(kept["success"], np.float64)
        found = by_kind(success, [task.kind for task in panel], list(arms)[1:])
        for kind, of_kind in found.items():
            best = of_kind.best
            effect, error = of_kind.effects[best]
            rows.append(
                [step, kind or "all", of_kind.tasks, of_kind.without, best,
                 f"{effect:+.1%} ±{error:.1%}"]
            )  # fmt: skip
        figures[f"{step}/without"] = found[""].without
        figures[f"{step}/best_single"] = found[""].effects[found[""].best][0]
        figures[f"{step}/best_per_kind"] = best_per_kind(found)
    print(f"panel {panel.label} of {_SPLIT.value}, {_SAMPLES.value} samples")
    header = ["step", "kind", "tasks", "without", "best skill", "its effect"]
    print(format_table(header, rows))
    report("ceiling", figures, {})


if __name__ == "__main__":
    _WORKDIR = flags.DEFINE_string("workdir", None, "Of the run.", required=True)
    _STEPS = flags.DEFINE_list("steps", ["0"], "Whose checkpoints to play with.")
    _SPLIT = flags.DEFINE_string("split", "train", "Where the tasks come from.")
    _TASKS = flags.DEFINE_integer("tasks", 20, "Of each kind.", lower_bound=2)
    _SAMPLES = flags.DEFINE_integer("samples", 2, "Per task and skill.", lower_bound=1)
    _BANKS = flags.DEFINE_list("banks", [], "Directories; empty: the rule table.")
    _RESULTS = flags.DEFINE_string(
        "results", "docs/results/ceiling.jsonl", "File of what was measured."
    )
    start(main)
