"""How fast are assignment and the estimate of M, against plain Python?

    python -m reskill_jax.benchmarks.thompson

The straightforward way, written here for comparison: 10,000 pairs of Beta draws for
every rollout; for M, a loop over the 2,000 memories and over the steps and arms of all
completed trials with `math.lgamma`. The update of M is the one after 20 trials (as many
as a run on ALFWorld completes): plain Python goes through all of them, ours adds the
last one to a sum. Both sides run in one process, alternating; the figures are medians
of CPU seconds of all threads, so that other work on the machine counts little.
"""

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from absl import flags

from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.command_line import start
from reskill_jax.terminal import activity
from reskill_jax.trials import thompson
from reskill_jax.trials.discount import MemoryEstimate
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig

_REPEATS = flags.DEFINE_integer("repeats", 5, "Runs of each side.", lower_bound=1)

_DRAWS = 10_000  # of each arm, per rollout
_STEPS = 5  # of every trial
_TRIALS = 20  # completed, when M is updated


def main() -> None:
    """Time both sides, print the table and the bars."""
    small = _trial(TrialConfig.preset("paper"), 160, 8)
    large = _trial(TrialConfig(), 125_000, 8)
    wins, episodes = np.moveaxis(small.padded_counts().sum(1), -1, 0)[:, :_STEPS]
    memory = MemoryEstimate()
    memory.add(small)
    rng = np.random.default_rng(0)
    rows: list[list[str | float]] = []
    speedups = {}
    comparisons: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "assign 1,280 rollouts": (
            lambda: small.assign(jax.random.key(0), 160, 8),
            lambda: assign_naively(rng, (400.0, 420.0), (600.0, 580.0), 1280),
        ),
        "update M": (
            lambda: update_memory(memory, small),
            lambda: estimate_naively([(wins.tolist(), episodes.tolist())] * _TRIALS),
        ),
    }
    for name, (ours, plain) in comparisons.items():
        with activity(f"timing: {name}"):
            ours()  # compiles
            times = [(_seconds(ours), _seconds(plain)) for _ in range(_REPEATS.value)]
        fast, slow = (statistics.median(column) for column in zip(*times, strict=True))
        speedups[name] = slow / fast
        rows.append([name, fast, slow, slow / fast])
    print(format_table(["CPU seconds", "ours", "plain Python", "ratio"], rows))

    step = _step(large)
    with activity("timing: a step with 1,000,000 rollouts"):
        step()
        million = statistics.median(_seconds(step) for _ in range(_REPEATS.value))
    print(f"a step with 1,000,000 rollouts: {million:.3g} CPU seconds")
    figures = {
        f"{row[0]}/{k}": float(v)
        for row in rows
        for k, v in zip(("ours_s", "plain_s"), row[1:3], strict=True)
    }
    bars = {f"{name}, speedup": Bar(ratio, 100) for name, ratio in speedups.items()}
    bars["a step with 1,000,000 rollouts, CPU seconds"] = Bar(
        million, 1.0, at_most=True
    )
    report("thompson", figures | {"million_s": million}, bars)


def assign_naively(
    rng: np.random.Generator, alpha: Sequence[float], beta: Sequence[float], count: int
) -> list[int]:
    """Draw every rollout's arm from a probability estimated anew by Monte Carlo."""
    arms = []
    for _ in range(count):
        old = rng.beta(alpha[0], beta[0], _DRAWS)
        new = rng.beta(alpha[1], beta[1], _DRAWS)
        probability = min(max(float((new > old).mean()), 0.2), 0.8)
        arms.append(int(rng.random() < probability))
    return arms


def update_memory(memory: MemoryEstimate, trial: Trial) -> float:
    """Add one trial and estimate M."""
    updated = replace(memory)
    updated.add(trial)
    return updated.value(trial.config)


def estimate_naively(trials: Sequence[tuple[list, list]]) -> int:
    """Return the M under which the counts of all trials are most likely.

    Args:
        trials: successes and episodes of each, as lists [T][K].
    """

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    def score(memory: int) -> float:
        total = 0.0
        for successes, episodes in trials:
            for arm in range(len(successes[0])):
                alpha = beta = 1.0
                for wins, counts in zip(successes, episodes, strict=True):
                    m, n = wins[arm], counts[arm]
                    weight = memory / (memory + n)
                    alpha, beta = weight * alpha, weight * beta
                    total -= log_beta(m + 1, n - m + 1) + math.log(n + 1)
                    total += log_beta(m + alpha, n - m + beta) - log_beta(alpha, beta)
                    alpha, beta = alpha + m, beta + n - m
        return total

    return max(thompson.MEMORY_GRID.tolist(), key=score)


def _trial(config: TrialConfig, tasks: int, group_size: int) -> Trial:
    """Return a trial with a few steps behind it."""
    trial = Trial(config, ("old", "new"), (0, 0), 457.0, ((1.0, 1.0),) * 2)
    for step in range(_STEPS):
        _play(trial, jax.random.key(step), tasks, group_size)
    return trial


def _play(trial: Trial, key: Any, tasks: int, group_size: int) -> None:
    """Assign and observe one step."""
    arms = trial.assign(key, tasks, group_size)
    rng = np.random.default_rng(len(trial.counts))
    wins = rng.random(arms.shape, np.float32) < np.float32(0.4)
    groups = np.repeat(np.arange(tasks), group_size)
    trial.observe(arms.ravel(), wins.ravel(), groups)


def _step(trial: Trial) -> Callable[[], None]:
    """Return a function that assigns, observes and decides from the same state."""
    before = list(trial.counts)
    tasks, group_size = len(before[0]), int(before[0][0, :, 1].sum())

    def step() -> None:
        trial.counts = list(before[:-1])
        _play(trial, jax.random.key(9), tasks, group_size)
        trial.decide()

    return step


def _seconds(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


if __name__ == "__main__":
    start(main)
