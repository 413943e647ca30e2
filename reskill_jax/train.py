"""The co-evolution loop: policy and skill library learn from the same rollouts."""

import time
from contextlib import ExitStack

from ml_collections import ConfigDict

from reskill_jax import build, distributed
from reskill_jax.evaluate import evaluate
from reskill_jax.report.logbook import Logbook
from reskill_jax.rollout.context import context_to_json
from reskill_jax.rollout.prefetch import Planned
from reskill_jax.seeds import derive_seed
from reskill_jax.workdir import Workdir


def train(config: ConfigDict, workdir: Workdir) -> dict[str, float]:
    """Run, or resume, the whole experiment (paper, Algorithm 1).

    Returns:
        The metrics of the last evaluation.
    """
    with ExitStack() as resources:
        run = build.open_run(config, workdir, resources)
        batches = run.batches(lambda step: _plan(config, run, step))
        state, version = run.state, run.version
        logbook = None
        if distributed.is_leader():
            warning = config.grpo.logprob_diff_warning
            logbook = Logbook(workdir, config.num_steps, run.done, warning)
            resources.callback(logbook.close)

        def evaluation(step: int) -> dict[str, float]:
            batches.serve(state.params, version)
            metrics, episodes = evaluate(
                run.collector,
                run.panels.held_out,
                run.strategy.incumbent,
                build.sampling(config),
            )
            if logbook:
                logbook.evaluation(step, metrics, episodes)
            return metrics

        held_out = evaluation(0) if run.done == 0 else {}
        for step in range(run.done + 1, config.num_steps + 1):
            started = time.perf_counter()
            batch = batches.take(step, state.params, version)
            learned = run.strategy.observe(step, batch.episodes)
            metrics = batch.metrics(version) | learned.metrics
            updating = time.perf_counter()
            if config.rollout.overlap and step < config.num_steps:
                batches.start(step + 1, state.params, version)
            elif batch.train:
                batches.sleep()  # the engine's memory is the update's
            if batch.train:
                state, learning = run.update(
                    state,
                    run.reference,
                    batch.training_episodes,
                    seed=derive_seed(config.seed, "minibatches", step),
                )
                metrics |= learning
                version = step
            metrics["time/update"] = time.perf_counter() - updating
            metrics["time/step"] = time.perf_counter() - started

            if logbook:
                incumbent = run.strategy.incumbent
                logbook.step(step, metrics, batch.episodes, learned, incumbent)
            if _due(step, config.eval.every, config.num_steps):
                held_out = evaluation(step)
            if _due(step, config.checkpoint.every, config.num_steps):
                host = {
                    "strategy": run.strategy.state(),
                    "incumbent": context_to_json(run.strategy.incumbent),
                    "ahead": batches.state(),
                    "drawn": run.stream.drawn,
                    "version": version,
                }
                run.checkpointer.save(step, state, host)
        run.checkpointer.wait()
        return held_out


def _plan(config: ConfigDict, run: build.Run, step: int) -> Planned:
    """Settle now what a step plays; await the episodes to be played."""
    plan = run.strategy.plan(step, run.stream.draw)
    episodes = run.collector.collect(
        plan.tasks,
        plan.arms,
        plan.contexts,
        sampling=build.sampling(config),
        seed=derive_seed(config.seed, "rollout", step),
    )
    return Planned(episodes, plan.training_groups)


def _due(step: int, every: int, last: int) -> bool:
    """Tell whether something that happens every so many steps happens at `step`."""
    return step == last or (every > 0 and step % every == 0)
