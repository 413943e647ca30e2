r"""Does the memory M follow the policy's changes, and does it help to discount by it?

    python -m reskill_jax.experiments.drift --runs=10

holds, for each world, runs of trials of a candidate that does nothing. Success of both
arms rises by `drift` with every step; so the truth is known. After the last trial of a
run it takes M, and over its trials how far the incumbent's success, as the trial
estimates it at its last step, is from the truth: with the M that trials had, without
any discount, and with the one M of a grid that would have been best for this world.
Trials are those of training (`Trial`, `MemoryEstimate`); what is simulated is who wins.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from reskill_jax.benchmarks.reporting import format_table, report
from reskill_jax.command_line import start
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.trials.bounds import make_config
from reskill_jax.trials.discount import MemoryEstimate
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.simulation import HIGH, LOW, difficulty
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig

LEVEL = 0.2  # success on the average task when a trial begins
# Candidates for the best constant memory, in episodes.
MEMORIES = (*np.geomspace(8, 8192, 11).round().tolist(), np.inf)
NOTHING = Skill("nothing", "It does nothing.", "Always.", "Go on.")
BANKS = (SkillBank(), SkillBank((NOTHING,)))


@dataclass(frozen=True)
class World:
    """What a run is held in.

    Attributes:
        shape: of the batch.
        task_sd: how much tasks differ in difficulty.
        drift: rise of success per step.
    """

    shape: Shape
    task_sd: float
    drift: float

    @property
    def batch(self) -> str:
        """Name the batch's shape."""
        return f"{self.shape.tasks}x{self.shape.group_size}"

    def __str__(self) -> str:
        """Name the world in figures."""
        return f"{self.batch} sd{self.task_sd:g} drift{self.drift:g}"


class Run(NamedTuple):
    """What a run has shown.

    Attributes:
        memory: M after the last trial.
        squares: squared error of the incumbent's success at the end of each trial
            [trials, 1 + len(MEMORIES)]: with the trial's own M, then with each of
            `MEMORIES`.
    """

    memory: float
    squares: np.ndarray


def play(config: TrialConfig, world: World, trials: int, seed: int) -> Run:
    """Hold trials one after the other, each with the M of those before it.

    Args:
        config: how a trial runs.
        world: the world.
        trials: how many.
        seed: of all randomness.
    """
    estimate, squares = MemoryEstimate(), []
    for number in range(trials):
        memory = estimate.value(config)
        trial = Trial.start(config, BANKS, memory=memory)
        truth = hold(trial, world, seed=seed * 100_003 + number)
        rates = [success(trial, m) for m in (memory, *MEMORIES)]
        squares.append((np.array(rates) - truth) ** 2)
        estimate.add(trial)
    return Run(estimate.value(config), np.array(squares))


def hold(trial: Trial, world: World, seed: int) -> float:
    """Play a trial to its decision, and return the success at its last step."""
    tasks, group_size = world.shape.tasks, world.shape.group_size
    groups = np.repeat(np.arange(tasks), group_size)
    chance, key = np.random.default_rng(seed), jax.random.key(seed)
    levels = np.minimum(LEVEL + world.drift * np.arange(trial.config.max_steps), HIGH)
    for step, centre in enumerate(difficulty(levels, world.task_sd)):
        spread = world.task_sd * chance.standard_normal(tasks)
        rates = (centre + spread).clip(LOW, HIGH)
        arms = trial.assign(jax.random.fold_in(key, step), tasks, group_size)
        wins = chance.random(arms.shape) < rates[:, None]
        trial.observe(arms.ravel(), wins.ravel(), groups)
        if trial.decide():
            break
    return float(levels[step])


def success(trial: Trial, memory: float) -> float:
    """Return the posterior mean of the incumbent's success, under a memory."""
    # A trial writes down an infinite memory as none.
    held = replace(trial, memory=memory if np.isfinite(memory) else None)
    alpha, beta = held.evidence(0)
    return alpha / (alpha + beta)


def describe(runs: Sequence[Run]) -> dict[str, float]:
    """Return what runs of one world have in common.

    M is infinite where nothing is forgotten; errors are roots of mean squares, in
    points of success. The first two trials of a run have no M and do not count.
    """
    memories = np.array([run.memory for run in runs])
    errors = np.sqrt(np.concatenate([run.squares[2:] for run in runs]).mean(0))
    best = int(np.argmin(errors[1:]))
    # Quantiles that are values: between 2,000 and infinity there is nothing.
    low, middle, high = np.quantile(memories, (0.1, 0.5, 0.9), method="nearest")
    return {
        "memory": middle,
        "memory_low": low,
        "memory_high": high,
        "error": 100 * errors[0],
        "error_undiscounted": 100 * errors[-1],
        "error_best": 100 * errors[1 + best],
        "memory_best": MEMORIES[best],
    }


def main() -> None:
    """Play all worlds, and print the table."""
    shapes = [Shape(16, 8), Shape(256, 5)]
    worlds = [
        World(shape, sd, drift)
        for shape in shapes
        for sd in (0.0, 0.3)
        for drift in map(float, _DRIFTS.value)
    ]
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    for preset in ("paper", "ours"):
        for number, world in enumerate(worlds):
            print(f"preset {preset}, world {number + 1} of {len(worlds)}", flush=True)
            config = make_config({"preset": preset}, world.shape)
            seeds = range(_RUNS.value)
            runs = [play(config, world, _TRIALS.value, seed) for seed in seeds]
            found = describe(runs)
            rows.append(_row(preset, world, found))
            figures |= {f"{preset} {world}/{key}": x for key, x in found.items()}
    header = ["preset", "batch", "task sd", "drift", "M [10%, 90%]", "best M"]
    print(format_table([*header, "error", "no discount", "best"], rows))
    report("drift", figures, {})


def _row(preset: str, world: World, found: dict[str, float]) -> list[str | float]:
    memory = "{memory:.0f} [{memory_low:.0f}, {memory_high:.0f}]".format(**found)
    errors = [found[key] for key in ("error", "error_undiscounted", "error_best")]
    best = f"{found['memory_best']:.0f}"
    row = [preset, world.batch, f"{world.task_sd:g}", f"{world.drift:g}", memory, best]
    return [*row, *(round(error, 1) for error in errors)]


if __name__ == "__main__":
    _RUNS = flags.DEFINE_integer("runs", 10, "Per world and preset.", lower_bound=1)
    _TRIALS = flags.DEFINE_integer(
        "trials", 20, "Per run; the first two do not count.", lower_bound=3
    )
    _DRIFTS = flags.DEFINE_list("drifts", ["0", "0.01", "0.03", "0.06"], "Per step.")
    start(main)
