"""The co-evolution loop: policy and skill library learn from the same rollouts."""

import time
from contextlib import ExitStack
from typing import Any

from ml_collections import ConfigDict

from reskill_jax import build, distributed
from reskill_jax.build.sections import section
from reskill_jax.evaluate import Evaluation, evaluate, samples_of, shown_context
from reskill_jax.report.logbook import Logbook
from reskill_jax.rollout.context import context_to_json
from reskill_jax.rollout.prefetch import Batch, Batches, Planned
from reskill_jax.run import Run, open_run
from reskill_jax.seeds import derive_seed
from reskill_jax.strategies.base import Learned
from reskill_jax.terminal import activity, say
from reskill_jax.termination import TerminatedError, Termination
from reskill_jax.workdir import Workdir, flatten

_BARREN = 3  # steps in a row without any episode that end a run


class FailedGroupsError(RuntimeError):
    """More groups have failed than a run may drop."""


def train(
    config: ConfigDict, workdir: Workdir, tasks: build.Tasks | None = None
) -> dict[str, float]:
    """Run, or resume, the whole experiment (paper, Algorithm 1).

    Args:
        config: of the run.
        workdir: of the run.
        tasks: of the run, where they are loaded already.

    Returns:
        The metrics of the last evaluation.

    Raises:
        TerminatedError: SIGTERM was sent; the last finished step is in a checkpoint.
        FailedGroupsError: environments fail too often.
    """
    with ExitStack() as resources:
        run = open_run(config, workdir, resources, tasks)
        _tell_if_done(run.done, config.num_steps)
        batches = run.batches(lambda step: plan_step(config, run, step))
        logbook = None
        if distributed.is_leader():
            logbook = resources.enter_context(
                Logbook(
                    workdir,
                    config.num_steps,
                    run.done,
                    not run.evaluation_due,
                    config.grpo.logprob_diff_warning,
                    config.report.trackers,
                    flatten(config.to_dict()),
                    None if run.done else run.strategy.incumbent,
                )
            )
        termination = resources.enter_context(Termination())

        def evaluation() -> dict[str, float]:
            with termination.interrupts():
                batches.serve(run.weights, run.version)
                found = _evaluate(config, run)
            _take(config, run, found, logbook)
            return found.metrics

        def save() -> None:
            host = snapshot | {
                "ahead": batches.state(),
                "evaluation_due": run.evaluation_due,
            }
            run.checkpointer.save(run.done, run.arrays, host, run.best.step)
            run.saved = run.done

        snapshot: dict[str, Any] = {}
        try:
            held_out = evaluation() if run.evaluation_due else {}
            for step in range(run.done + 1, config.num_steps + 1):
                started = time.perf_counter()
                with termination.interrupts(not config.rollout.overlap):
                    batch = batches.take(step, run.weights, run.version)
                if logbook:
                    logbook.lost(step, batch.lost)
                _count_failed(run, batch, config.env.max_failed_groups)
                with termination.interrupts(not config.rollout.overlap):
                    # A creator may take minutes; nothing is lost if it is interrupted.
                    effects, learned = _observe(run, batch, step)
                metrics = batch.metrics(run.version) | effects | learned.metrics
                metrics |= _update(config, run, batches, batch, step)
                metrics |= _spend(run, batch, learned)
                metrics["time/step"] = time.perf_counter() - started
                if logbook:
                    logbook.step(
                        step, metrics, batch.episodes, learned, run.strategy.incumbent
                    )
                run.done, snapshot = step, _snapshot(run)
                run.evaluation_due = _must_evaluate(config, run, learned)
                termination.check()
                if run.evaluation_due:
                    held_out = evaluation()
                due = _due(step, config.checkpoint.every, config.num_steps)
                if due or step == run.best.step:
                    save()
        except TerminatedError:
            if run.done > run.saved:
                save()
                run.checkpointer.wait()
            raise
        run.checkpointer.wait()
        return held_out


def _tell_if_done(done: int, steps: int) -> None:
    """Say once that there is nothing left to train."""
    if 0 < steps <= done and distributed.is_leader():
        say(f"{done} of {steps} steps are done; raise --config.num_steps to go on")


def plan_step(config: ConfigDict, run: Run, step: int) -> Planned:
    """Settle now what a step plays; await the episodes to be played.

    Args:
        config: of the run.
        run: whose strategy and stream of tasks go on by this.
        step: to be played, from 1.

    Returns:
        Its episodes, which are to be awaited, and which groups train.
    """
    plan = run.strategy.plan(step, run.stream.draw)
    episodes = run.collector.collect(
        plan.tasks,
        plan.arms,
        plan.contexts,
        sampling=build.sampling(config),
        seed=derive_seed(config.seed, "rollout", step),
        what=f"step {step}: playing",
        only_whole_groups=True,
        meter=config.meter.share,
    )
    train = () if run.update is None else plan.training_groups
    return Planned(episodes, train, plan.effects)


def _count_failed(run: Run, batch: Batch, most: int) -> None:
    """Count groups that were dropped, and steps that were left without any.

    Raises:
        FailedGroupsError: they are too many.
    """
    run.failed_groups += len(batch.lost)
    if batch.episodes:
        run.barren_steps = 0
    elif batch.lost:  # a plan may play nothing: then nothing has failed
        run.barren_steps += 1
    problem = ""
    if run.barren_steps >= _BARREN:
        problem = (
            f"all groups of {run.barren_steps} steps in a row have failed: mend the "
            "environment and resume"
        )
    elif batch.lost and run.failed_groups > most:
        problem = (
            f"config.env.max_failed_groups={most}, but {run.failed_groups} groups have "
            "failed: mend the environment and resume, or raise the limit"
        )
    if problem:
        last = batch.lost[-1]
        raise FailedGroupsError(
            f"{problem}; the last one was of task {last.task}: {last.reason}"
        )


def _observe(run: Run, batch: Batch, step: int) -> tuple[dict[str, float], Learned]:
    """Measure what skills do to the policy, then let the strategy learn from it all."""
    effects = run.meter(run.weights, batch.episodes)
    return effects, run.strategy.observe(step, batch.episodes)


def _evaluate(config: ConfigDict, run: Run) -> Evaluation:
    """Evaluate what the engine serves."""
    return evaluate(
        run.collector,
        run.panels.held_out,
        shown_context(run.strategy.incumbent, config.eval.context),
        build.sampling(config),
        config.eval.max_failed_share,
        samples_of(config),
    )


def _take(
    config: ConfigDict, run: Run, found: Evaluation, logbook: Logbook | None
) -> None:
    """Report an evaluation, and see whether its state is the best so far."""
    if logbook:
        logbook.evaluation(
            run.done,
            found.metrics | _spent(run),
            found.episodes,
            run.panels.held_out,
            found.sampled,
        )
    run.evaluation_due = False
    with section(config, "checkpoint"):
        run.best.see(run.done, found.metrics)


def _must_evaluate(config: ConfigDict, run: Run, learned: Learned) -> bool:
    """Tell whether there is an evaluation after a step; in adaptation at decisions."""
    decided = run.update is None and bool(learned.decisions)
    due = decided or _due(run.done, config.eval.every, config.num_steps)
    return due and bool(run.panels.held_out)


def _spend(run: Run, batch: Batch, learned: Learned) -> dict[str, float]:
    """Count what adaptation costs: episodes, and calls to language models."""
    spent = [learned.metrics.get(f"{who}/calls", 0.0) for who in ("creator", "writer")]
    run.episodes += len(batch.episodes)
    run.calls += sum(spent)
    return _spent(run)


def _spent(run: Run) -> dict[str, float]:
    """Return what adaptation has cost so far; nothing where the policy learns."""
    if run.update is not None:
        return {}
    return {"adapt/episodes": float(run.episodes), "adapt/calls": run.calls}


def _update(
    config: ConfigDict, run: Run, batches: Batches, batch: Batch, step: int
) -> dict[str, float]:
    """Let the policy learn from a batch, while the next one is collected with overlap.

    A batch without groups to learn from leaves the weights and the engine as they are.
    """
    started = time.perf_counter()
    metrics: dict[str, float] = {}
    if config.rollout.overlap and step < config.num_steps:
        batches.start(step + 1, run.weights, run.version)
    elif batch.train:
        batches.sleep()  # the engine's memory is the update's
    if batch.train and run.update is not None:
        with activity(f"step {step}: updating the policy"):
            run.state, metrics = run.update(
                run.state,
                run.reference,
                batch.training_episodes,
                seed=derive_seed(config.seed, "minibatches", step),
                frozen=run.frozen,
            )
        run.version = step
    if run.refresh is not None:
        run.reference = run.refresh(step, run.reference, run.weights)
    return metrics | {"time/update": time.perf_counter() - started}


def _snapshot(run: Run) -> dict[str, Any]:
    """Return what a checkpoint holds beside arrays and the batch ahead.

    Taken at once, since the next step's plan changes it.
    """
    return {
        "strategy": run.strategy.state(),
        "incumbent": context_to_json(run.strategy.incumbent),
        "drawn": run.stream.drawn,
        "version": run.version,
        "failed_groups": run.failed_groups,
        "episodes": run.episodes,
        "calls": run.calls,
        **({"base": run.base} if run.base else {}),
    }


def _due(step: int, every: int, last: int) -> bool:
    """Tell whether something that happens every so many steps happens at `step`."""
    return step == last or (every > 0 and step % every == 0)
