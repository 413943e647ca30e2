"""The co-evolution loop: policy and skill library learn from the same rollouts."""

import time
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

from ml_collections import ConfigDict

from reskill_jax import build, distributed
from reskill_jax.checkpoint import Checkpointer, Restored, left_out
from reskill_jax.environments.protocol import Task
from reskill_jax.evaluate import evaluate
from reskill_jax.grpo.optimizer import abstract_state, init_state
from reskill_jax.report.logbook import Logbook, summary
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.prefetch import Batches
from reskill_jax.strategies import make_strategy
from reskill_jax.strategies.base import Strategy
from reskill_jax.workdir import Workdir


def train(config: ConfigDict, workdir: Workdir) -> dict[str, float]:
    """Run, or resume, the whole experiment (paper, Algorithm 1).

    Returns:
        The metrics of the last evaluation.
    """
    with ExitStack() as resources:
        tasks = build.load_tasks(config)
        policy = build.load_policy(config)
        reference = build.make_reference(config, policy)
        tx, update = build.make_grpo(config, policy.config, policy.mesh)

        checkpointer = Checkpointer(workdir.checkpoints, config.checkpoint.keep)
        resources.callback(checkpointer.close)
        fresh = abstract_state(policy.params, tx, policy.mesh)
        done, state, host = checkpointer.restore(fresh) or Restored(
            0, init_state(policy.params, tx, policy.mesh), {}
        )
        collector = build.make_collector(config, policy, state.params, done, resources)
        servers = collector.engine.urls
        strategy = make_strategy(config, workdir.creator_calls, servers)
        batches = Batches(
            collector.engine,
            partial(_collect, config, tasks, strategy, collector),
            done,
        )
        resources.callback(batches.close)
        if host:
            strategy.restore(host["strategy"])
            batches.restore(host["ahead"], _tasks(config, tasks, done + 1))
        logbook = None
        if distributed.is_leader():
            logbook = Logbook(
                workdir, config.num_steps, done, config.grpo.logprob_diff_warning
            )
            resources.callback(logbook.close)

        def evaluation(step: int) -> dict[str, float]:
            batches.serve(state.params, step)
            metrics, episodes = evaluate(
                collector, tasks.held_out, strategy.banks[0], build.sampling(config)
            )
            if logbook:
                logbook.evaluation(step, metrics, episodes)
            return metrics

        held_out = evaluation(0) if done == 0 else {}
        for step in range(done + 1, config.num_steps + 1):
            started = time.perf_counter()
            batch = batches.take(step, state.params, step - 1)
            metrics = batch.metrics(step - 1) | strategy.observe(step, batch.episodes)
            updating = time.perf_counter()
            if config.rollout.overlap and step < config.num_steps:
                batches.start(step + 1, state.params, step - 1)
            else:
                batches.sleep()  # the engine's memory is the update's
            if strategy.trains_policy(step):
                state, learning = update(
                    state,
                    reference,
                    batch.episodes,
                    seed=build.derive(config.seed, "minibatches", step),
                )
                metrics |= learning
            metrics["time/update"] = time.perf_counter() - updating
            metrics["time/step"] = time.perf_counter() - started

            if logbook:
                logbook.step(step, metrics, batch.episodes, strategy)
            if build.due(step, config.eval.every, config.num_steps):
                held_out = evaluation(step)
            if build.due(step, config.checkpoint.every, config.num_steps):
                checkpointer.save(
                    step,
                    state,
                    {"strategy": strategy.state(), "ahead": batches.state()},
                )
        checkpointer.wait()
        return held_out


def _tasks(config: ConfigDict, tasks: build.TaskSets, step: int) -> list[Task]:
    return build.sample_tasks(
        tasks.train, config.rollout.tasks_per_step, config.seed, step - 1
    )


def _collect(
    config: ConfigDict,
    tasks: build.TaskSets,
    strategy: Strategy,
    collector: Collector,
    step: int,
) -> Coroutine[Any, Any, list[Episode]]:
    """Settle now what a step plays, and on which banks; await it to be played."""
    batch = _tasks(config, tasks, step)
    arms = strategy.assign(
        build.derive(config.seed, "assign", step), len(batch), config.grpo.group_size
    )
    return collector.collect(
        batch,
        arms,
        strategy.banks,
        sampling=build.sampling(config),
        seed=build.derive(config.seed, "rollout", step),
    )


def evaluate_run(config: ConfigDict, workdir: Workdir) -> dict[str, float]:
    """Evaluate the newest checkpoint of a run and print success by split."""
    with ExitStack() as resources:
        tasks = build.load_tasks(config)
        policy = build.load_policy(config)
        tx, _ = build.make_grpo(config, policy.config, policy.mesh)
        checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
        resources.callback(checkpointer.close)
        state = abstract_state(policy.params, tx, policy.mesh)
        state = replace(state, opt_state=left_out(state.opt_state))
        restored = checkpointer.restore(state)
        if restored is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint yet: train on")
        collector = build.make_collector(
            config, policy, restored.arrays.params, restored.step, resources
        )
        servers = collector.engine.urls
        strategy = make_strategy(config, workdir.creator_calls, servers)
        strategy.restore(restored.host["strategy"])
        metrics, _ = evaluate(
            collector, tasks.held_out, strategy.banks[0], build.sampling(config)
        )
    print(summary(restored.step, metrics))
    return metrics
