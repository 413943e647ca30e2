"""Held-out success of the accepted context, greedy; one rule for every strategy."""

import asyncio
import time
from collections.abc import Mapping
from contextlib import ExitStack

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.report.logbook import summary, write_evaluation
from reskill_jax.rollout.collector import Collector, greedy, rollout_metrics
from reskill_jax.rollout.context import (
    BankContext,
    Context,
    EmptyContext,
    open_context,
)
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies import find_strategy
from reskill_jax.terminal import say
from reskill_jax.workdir import Workdir


def evaluate(
    collector: Collector,
    panels: Mapping[str, TaskPanel],
    context: Context,
    sampling: Sampling,
    max_failed_share: float,
) -> tuple[dict[str, float], list[Episode]]:
    """Play every task once; nothing is dropped.

    A task whose environment failed for good counts as a failure. Where there are too
    many of those, the split's only figures are ``failed_tasks`` and ``void``.

    Args:
        collector: plays.
        panels: tasks by split.
        context: the accepted one; a candidate on trial is never evaluated.
        sampling: gives the length limit; temperature and top-p are those of greedy.
        max_failed_share: share of a split's tasks that may fail for good.

    Returns:
        Metrics: by split, success in all, by task kind and by column of the panel, and
        whether the engine gives the same in every batch (1) or not (0). And the
        episodes.
    """
    metrics: dict[str, float] = {}
    episodes: list[Episode] = []
    for split, panel in panels.items():
        started = time.perf_counter()
        arms = np.zeros((len(panel), 1), np.int32)
        played = asyncio.run(
            collector.collect(
                panel.tasks,
                arms,
                (context,),
                sampling=greedy(sampling),
                seed=0,
                what=f"evaluating on {split}",
            )
        )
        seconds = time.perf_counter() - started
        episodes += played
        failed = sum(bool(episode.lost) for episode in played)
        metrics[f"{split}/failed_tasks"] = float(failed)
        if failed > max_failed_share * len(panel):
            metrics[f"{split}/void"] = 1.0
            continue
        metrics |= rollout_metrics(played, seconds, prefix=split)
        metrics[f"{split}/batch_invariant"] = float(collector.engine.batch_invariant)
        rates = {
            kind: float(np.mean([e.success for e in played if e.task.kind == kind]))
            for kind in sorted({task.kind for task in panel})
        }
        metrics |= {f"{split}/success/{kind}": rate for kind, rate in rates.items()}
        for column, kinds in panel.columns.items():
            if all(kind in rates for kind in kinds):  # else it is another figure
                mean = float(np.mean([rates[kind] for kind in kinds]))
                metrics[f"{split}/success/{column}"] = mean
    return metrics, episodes


def shown_context(context: Context, choice: str) -> Context:
    """Return the context to evaluate on.

    Args:
        context: the accepted one.
        choice: accepted; or none: nothing is shown. In the place of a skill bank that
            is an empty one, so that prompts keep their form.
    """
    if choice == "accepted":
        return context
    return BankContext(SkillBank()) if context.kind == "bank" else EmptyContext()


def evaluate_run(
    config: ConfigDict, workdir: Workdir, step: int | None = None
) -> dict[str, float]:
    """Evaluate a checkpoint of a run, keep the result in the run, and print it.

    Only the policy's weights are read, neither optimiser nor creator is made.

    Args:
        config: of the run; places and the section `eval` may be other than its own.
        workdir: of the run.
        step: which checkpoint; None for the newest.

    Raises:
        ValueError: there is nothing to evaluate on, or the run has no checkpoint yet.
        RuntimeError: a split's figures are void; what there is has been kept.
    """
    if not config.eval.splits:
        raise ValueError(
            "config.eval.splits=(): nothing to evaluate on: name splits, such as "
            "--config.eval.splits=\"('valid_unseen',)\""
        )
    with ExitStack() as resources:
        environment = build.load_environment(config)
        panels = build.load_panels(config, environment)
        adapts = config.adapt.frozen
        policy = build.load_policy(config, weights=adapts)
        checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
        resources.callback(checkpointer.close)
        # A policy that never learns is in no checkpoint, see `run.Run.arrays`.
        step_only = {"step": jax.ShapeDtypeStruct((), jnp.int32)}
        template = step_only if adapts else {"params": policy.params}
        restored = checkpointer.restore(template, step, partial=True)
        if restored is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint yet: train on")
        if adapts or policy.frozen is not None:
            build.check_base(restored.host, build.describe_base(policy.directory))
        weights = policy.params if adapts else restored.arrays["params"]
        params = policy.join(weights)
        engine, _ = build.make_engine(config, policy, params, restored.step, resources)
        collector = build.make_collector(config, environment, policy, engine, resources)
        find_strategy(config.strategy.name)  # its module registers its contexts
        metrics, episodes = evaluate(
            collector,
            panels.held_out,
            shown_context(
                open_context(
                    restored.host["incumbent"], build.context_resources(config)
                ),
                config.eval.context,
            ),
            build.sampling(config),
            config.eval.max_failed_share,
        )
    write_evaluation(workdir, restored.step, metrics, episodes, panels.held_out)
    say(summary(restored.step, metrics, panels.held_out))
    if void := [split for split in panels.held_out if f"{split}/void" in metrics]:
        reason = next(episode.lost for episode in episodes if episode.lost)
        raise RuntimeError(
            f"the figures of {', '.join(void)} are void: more tasks failed for good "
            f"than config.eval.max_failed_share={config.eval.max_failed_share:g} "
            f"allows: mend the environment and evaluate again; the first one: {reason}"
        )
    return metrics
