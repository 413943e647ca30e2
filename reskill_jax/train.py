"""The co-evolution loop: policy and skill library learn from the same rollouts."""

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import numpy as np
from ml_collections import ConfigDict

from reskill_jax import run
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.creator.reservoir import Record
from reskill_jax.evaluate import evaluate
from reskill_jax.grpo.optimization import init_state
from reskill_jax.metrics import MetricWriter, Progress
from reskill_jax.rollout.collector import rollout_metrics
from reskill_jax.rollout.types import Episode
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.strategies import make_strategy
from reskill_jax.strategies.base import Strategy
from reskill_jax.workdir import Workdir, write_text


def train(config: ConfigDict, workdir: Workdir) -> dict[str, float]:
    """Run, or resume, the whole experiment (paper, Algorithm 1).

    Returns:
        The metrics of the last evaluation.
    """
    with ExitStack() as resources:
        tasks = run.load_tasks(config)
        policy = run.load_policy(config)
        reference = run.make_reference(config, policy)
        tx, update = run.make_grpo(config, policy.config, policy.mesh)
        strategy = make_strategy(config, workdir.creator_calls)
        state = init_state(policy.params, tx, policy.mesh)

        checkpointer = Checkpointer(workdir.checkpoints, config.checkpoint.keep)
        resources.callback(checkpointer.close)
        done = 0
        if restored := checkpointer.restore(state):
            done, state, host = restored
            strategy.restore(host["strategy"])
        collector = run.make_collector(config, policy, state.params, resources)
        collector.engine.push(state.params, done)
        writer = MetricWriter(
            workdir.metrics, workdir.tensorboard, done + 1 if done else 0
        )
        resources.callback(writer.close)
        progress = Progress(config.num_steps, done)
        resources.callback(progress.close)

        def evaluation(step: int) -> dict[str, float]:
            metrics, episodes = evaluate(
                collector, tasks.held_out, strategy.banks[0], run.sampling(config)
            )
            writer.write(step, metrics, phase="eval")
            _record(workdir, f"eval-{step:05d}", episodes, step)
            progress.note(_summary(step, metrics, tasks.held_out))
            return metrics

        held_out = evaluation(0) if done == 0 else {}
        for step in range(done + 1, config.num_steps + 1):
            started = time.perf_counter()
            batch = run.sample_tasks(
                tasks.train, config.rollout.tasks, config.seed, step - 1
            )
            arms = strategy.assign(
                run.derive(config.seed, "assign", step),
                len(batch),
                config.grpo.group_size,
            )
            episodes = collector.collect(
                batch,
                arms,
                strategy.banks,
                sampling=run.sampling(config),
                seed=run.derive(config.seed, "rollout", step),
            )
            metrics = rollout_metrics(episodes, started)
            updating = time.perf_counter()
            if strategy.trains_policy(step):
                state, learning = update(
                    state,
                    reference,
                    episodes,
                    seed=run.derive(config.seed, "minibatches", step),
                )
                metrics |= learning
            collector.engine.push(state.params, step)
            metrics["time/update"] = time.perf_counter() - updating
            metrics |= strategy.observe(step, episodes)
            metrics["time/step"] = time.perf_counter() - started

            writer.write(step, metrics)
            _record(workdir, f"train-{step:05d}", episodes, step)
            _publish(workdir, strategy, progress)
            _show(progress, step, metrics, episodes, strategy)
            if run.due(step, config.eval.every, config.num_steps):
                held_out = evaluation(step)
            if run.due(step, config.checkpoint.every, config.num_steps):
                checkpointer.save(step, state, {"strategy": strategy.state()})
        checkpointer.wait()
        return held_out


def _summary(step: int, metrics: Mapping[str, float], splits: Iterable[str]) -> str:
    """Say how an evaluation went, in one line."""
    rates = [f"{split} {metrics[f'{split}/success']:.1%}" for split in splits]
    return f"evaluation after {step} steps: {', '.join(rates)}"


def _record(
    workdir: Workdir, name: str, episodes: Sequence[Episode], step: int
) -> None:
    """Write what was played, one JSON line per episode, for people and for creators."""
    lines = (json.dumps(Record.from_episode(e, step).to_json()) for e in episodes)
    write_text(workdir.episodes / f"{name}.jsonl", "".join(f"{x}\n" for x in lines))


def _publish(workdir: Workdir, strategy: Strategy, progress: Progress) -> None:
    """Bring the files for people up to date: the accepted bank, the decided trials."""
    if events := strategy.take_events():
        for event in events:
            progress.note(event)
        save_bank(strategy.banks[0], workdir.skills)
        text = "".join(json.dumps(trial) + "\n" for trial in strategy.history())
        write_text(workdir.root / "trials.jsonl", text)


def _show(
    progress: Progress,
    step: int,
    metrics: Mapping[str, float],
    episodes: Sequence[Episode],
    strategy: Strategy,
) -> None:
    """Update the progress line."""
    old = [e.success for e in episodes if e.arm == 0]
    new = [e.success for e in episodes if e.arm != 0]
    progress.update(
        step,
        int(metrics.get("batch/tokens", 0)),
        old=float(np.mean(old)) if old else None,
        new=float(np.mean(new)) if new else None,
        trial=strategy.status(),
    )


def evaluate_run(config: ConfigDict, workdir: Workdir) -> dict[str, float]:
    """Evaluate the newest checkpoint of a run and print success by split."""
    with ExitStack() as resources:
        tasks = run.load_tasks(config)
        policy = run.load_policy(config)
        tx, _ = run.make_grpo(config, policy.config, policy.mesh)
        strategy = make_strategy(config, workdir.creator_calls)
        checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
        resources.callback(checkpointer.close)
        restored = checkpointer.restore(init_state(policy.params, tx, policy.mesh))
        if restored is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint yet: train on")
        strategy.restore(restored.host["strategy"])
        collector = run.make_collector(
            config, policy, restored.arrays.params, resources
        )
        metrics, _ = evaluate(
            collector, tasks.held_out, strategy.banks[0], run.sampling(config)
        )
    print(_summary(restored.step, metrics, tasks.held_out))
    return metrics
