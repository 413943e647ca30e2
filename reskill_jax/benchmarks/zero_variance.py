"""What dropping groups without variance saves in the first steps of the main job.

    python -m reskill_jax.benchmarks.zero_variance

trains configs/alfworld.py:cpu,bare for ten steps. Every step's update is made twice on
the same episodes and weights, with all groups and without those that teach nothing, in
turn, after both have been compiled; the run goes on from the first. Tokens, rows and
micro-batches are counts that do not depend on what else the machine does.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.benchmarks.reporting import Bar, format_table, report
from reskill_jax.benchmarks.runs import ALL_GROUPS, Changes, configuration
from reskill_jax.command_line import start
from reskill_jax.grpo.optimizer import TrainState
from reskill_jax.grpo.update import Update
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.prefetch import Batches
from reskill_jax.run import Run, open_run
from reskill_jax.seeds import derive_seed
from reskill_jax.train import plan_step
from reskill_jax.workdir import Workdir

SAVED = 0.25  # of the time of the updates

_STEPS = flags.DEFINE_integer("steps", 10, "Of the main job.", lower_bound=1)
_TIMINGS = flags.DEFINE_integer(
    "timings", 1, "Of each update, of which the best counts.", lower_bound=1
)


def main() -> None:
    """Train, and time each update both ways."""
    same: Changes = {"eval.splits": (), "meter.share": 0.0}
    config, kept = configuration(same | ALL_GROUPS), configuration(same)
    rows: list[list[str | float]] = []
    with ExitStack() as resources:
        folder = resources.enter_context(tempfile.TemporaryDirectory())
        run = open_run(config, Workdir(Path(folder)), resources)
        policy = build.load_policy(config, weights=False)
        updates = [
            build.make_grpo(x, policy.config, policy.mesh)[1] for x in (config, kept)
        ]
        batches = run.batches(lambda step: plan_step(config, run, step))
        for step in range(1, _STEPS.value + 1):
            rows.append(list(measure(config, run, batches, updates, step)))
            print(format_table(_HEADER, rows[-1:]).splitlines()[-1], flush=True)
    print("\n" + format_table(_HEADER, rows))
    whole, dropped, *_ = np.array([row[1:] for row in rows], float).T
    shares = np.array([row[3:] for row in rows], float).mean(0)
    figures = {
        "all groups, s": whole.sum(),
        "dropped, s": dropped.sum(),
        "groups dropped": shares[0],
        "tokens dropped": shares[1],
        "slots saved": shares[2],
        "load": os.getloadavg()[0],
    }
    saved = 1 - dropped.sum() / whole.sum()
    report("zero_variance", figures, {"update time saved": Bar(saved, SAVED)})


_HEADER = (
    "step",
    "all groups, s",
    "dropped, s",
    "groups dropped",
    "tokens dropped",
    "slots saved",
)


def measure(
    config: ConfigDict,
    run: Run,
    batches: Batches,
    updates: Sequence[Update],
    step: int,
) -> tuple[float, ...]:
    """Play a step, update both ways, and go on from the first.

    Returns:
        The step, seconds of both, and shares: groups and tokens dropped, slots saved.
    """
    batch = batches.take(step, run.weights, run.version)
    run.strategy.observe(step, batch.episodes)
    batches.sleep()
    seed = derive_seed(config.seed, "minibatches", step)
    best = [float("inf")] * 2
    found: list[Mapping[str, float]] = [{}, {}]
    state = run.state
    for timing in range(1 + _TIMINGS.value):  # the first one may compile
        for number, update in enumerate(updates):
            seconds, after, found[number] = timed(
                update, run, batch.training_episodes, seed
            )
            if timing:
                best[number] = min(best[number], seconds)
            if number == 0:
                state = after
    run.state, run.version = state, step
    slots = [_slots(metrics) for metrics in found]
    shares = (found[1]["batch/dropped_groups"], found[1]["batch/dropped_tokens"])
    return (step, *best, *shares, 1 - slots[1] / slots[0])


def timed(
    update: Update, run: Run, episodes: Sequence[Episode], seed: int
) -> tuple[float, TrainState, Mapping[str, float]]:
    """Update a copy of the run's state; return seconds, the new state, metrics."""
    state = jax.block_until_ready(jax.tree.map(jnp.copy, run.state))
    started = time.perf_counter()
    state, metrics = update(state, run.reference, episodes, seed=seed)
    jax.block_until_ready(state)
    return time.perf_counter() - started, state, metrics


def _slots(metrics: Mapping[str, float]) -> float:
    """Slots of all micro-batches, padding included: what an update computes."""
    fill = metrics["batch/fill"]
    return metrics["batch/tokens"] / fill if fill else 0.0


if __name__ == "__main__":
    start(main)
