"""Held-out success of the accepted context; one rule for every strategy.

Every task is played once, greedily. Where samples are asked for, it is then played so
many times as in training, at a temperature of its own: mean@n is their success, pass@k
the chance that one of k succeeds, both with intervals over tasks.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.report.best import find_step
from reskill_jax.report.logbook import summary, write_evaluation
from reskill_jax.report.statistics import Share, mean_of_shares, share_of_tasks
from reskill_jax.rollout.collector import Collector, greedy, rollout_metrics
from reskill_jax.rollout.context import (
    BankContext,
    Context,
    EmptyContext,
    open_context,
)
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.metrics import pass_at_k, powers_of_two, success_by_kind
from reskill_jax.seeds import derive_seed
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies import find_strategy
from reskill_jax.terminal import say
from reskill_jax.workdir import Workdir


@dataclass(frozen=True)
class Samples:
    """What is sampled beside the greedy episode of each task.

    Attributes:
        count: episodes per task; 0: none.
        temperature: of their sampling.
        seed: an episode follows from the weights, this, its task and its number.
    """

    count: int = 0
    temperature: float = 1.0
    seed: int = 0


class Evaluation(NamedTuple):
    """What `evaluate` returns.

    Attributes:
        metrics: by split, success in all, by task kind and by column of the panel,
            those of the samples (see `sampled_metrics`), and whether the engine gives
            the same in every batch (1) or not (0).
        episodes: one per task, greedy.
        sampled: the samples, by split and task.
    """

    metrics: dict[str, float]
    episodes: list[Episode]
    sampled: list[Episode]


def samples_of(config: ConfigDict) -> Samples:
    """Return what a configuration wants sampled; nothing at temperature 0."""
    chosen = config.eval
    return Samples(
        count=chosen.samples if chosen.temperature else 0,
        temperature=chosen.temperature,
        seed=derive_seed(config.seed, "evaluation"),
    )


def evaluate(
    collector: Collector,
    panels: Mapping[str, TaskPanel],
    context: Context,
    sampling: Sampling,
    max_failed_share: float,
    samples: Samples = Samples(),
) -> Evaluation:
    """Play every task once, and some times more; nothing is dropped.

    What an environment failed at for good counts as a failure. Where there is too much
    of that, the split's only figures are ``failed_tasks`` and ``void``.

    Args:
        collector: plays.
        panels: tasks by split.
        context: the accepted one; a candidate on trial is never evaluated.
        sampling: of training. Greedy episodes have its length limit, samples all but
            its temperature.
        max_failed_share: share of a split's episodes that may fail for good, of greedy
            ones and of samples alike.
        samples: what is sampled beside the greedy episodes.
    """
    metrics: dict[str, float] = {}
    episodes: list[Episode] = []
    sampled: list[Episode] = []
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
        again = _sample(collector, panel, split, context, sampling, samples)
        sampled += again
        failed = sum(bool(episode.lost) for episode in again)
        if failed > max_failed_share * len(again):
            metrics |= {f"{split}/failed_samples": failed, f"{split}/void": 1.0}
            continue
        metrics |= rollout_metrics(played, seconds, prefix=split)
        metrics[f"{split}/batch_invariant"] = float(collector.engine.batch_invariant)
        rates = success_by_kind(played)
        metrics |= {f"{split}/success/{kind}": rate for kind, rate in rates.items()}
        for column, kinds in _columns(panel).items():
            mean = float(np.mean([rates[kind] for kind in kinds]))
            metrics[f"{split}/success/{column}"] = mean
        if samples.count:
            found = sampled_metrics(panel, again, samples)
            metrics |= {f"{split}/{name}": value for name, value in found.items()}
    return Evaluation(metrics, episodes, sampled)


def _sample(
    collector: Collector,
    panel: TaskPanel,
    split: str,
    context: Context,
    sampling: Sampling,
    samples: Samples,
) -> list[Episode]:
    """Play every task some times; each episode is what it is beside no other one."""
    if not samples.count:
        return []
    return asyncio.run(
        collector.collect(
            panel.tasks,
            np.zeros((len(panel), samples.count), np.int32),
            (context,),
            sampling=replace(sampling, temperature=samples.temperature),
            seed=samples.seed,
            what=f"evaluating on {split}, {samples.count} samples per task",
            by_task=True,
        )
    )


def _columns(panel: TaskPanel) -> dict[str, tuple[str, ...]]:
    """Return the columns of which the panel has all kinds; others are other figures."""
    there = {task.kind for task in panel}
    return {
        column: tuple(kinds)
        for column, kinds in panel.columns.items()
        if there.issuperset(kinds)
    }


def sampled_metrics(
    panel: TaskPanel, episodes: Sequence[Episode], samples: Samples
) -> dict[str, float]:
    """Summarise samples, with 95% intervals that are robust to clusters (tasks).

    Args:
        panel: the tasks.
        episodes: `samples.count` of each, in the panel's order.
        samples: what was sampled.

    Returns:
        ``samples``, ``temperature``, ``failed_samples``; ``mean@n`` and ``pass@k`` for
        k = 2, 4, 8, .. and n, each with ``_low`` and ``_high``; ``mean@n`` and
        ``pass@n`` also by kind and by column, e.g. ``mean@4_low/KIND``.
    """
    count = samples.count
    success = np.array([episode.success for episode in episodes], int)
    won = success.reshape(len(panel), count).sum(axis=1)  # [tasks]
    kinds = np.array([task.kind for task in panel])
    metrics = {
        "samples": float(count),
        "temperature": samples.temperature,
        "failed_samples": float(sum(bool(episode.lost) for episode in episodes)),
    }
    for k in sorted({*powers_of_two(count), count}):
        # The unbiased estimate of pass@1 is the mean.
        name = f"pass@{k}" if k > 1 else f"mean@{count}"
        tasks = np.array([pass_at_k(count, int(c), k) for c in won])
        metrics |= _figures(name, "", share_of_tasks(tasks, count))
        if k not in (1, count):
            continue
        shares = {
            kind: share_of_tasks(tasks[kinds == kind], count)
            for kind in sorted(set(kinds.tolist()))
        }
        shares |= {
            column: mean_of_shares([shares[kind] for kind in mixed])
            for column, mixed in _columns(panel).items()
        }
        for place, share in shares.items():
            metrics |= _figures(name, f"/{place}", share)
    return metrics


def _figures(name: str, place: str, share: Share) -> dict[str, float]:
    return {
        f"{name}{place}": share.mean,
        f"{name}_low{place}": share.low,
        f"{name}_high{place}": share.high,
    }


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
    config: ConfigDict, workdir: Workdir, step: int | str | None = None
) -> dict[str, float]:
    """Evaluate a checkpoint of a run, keep the result in the run, and print it.

    Only the policy's weights are read, neither optimiser nor creator is made.

    Args:
        config: of the run; places and the section `eval` may be other than its own.
        workdir: of the run.
        step: which checkpoint; None for the newest, ``best`` for the best.

    Raises:
        ValueError: there is nothing to evaluate on, the run has no checkpoint yet, or
            none that was chosen as the best.
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
        chosen = find_step(workdir, config.checkpoint.best, step, checkpointer.steps())
        restored = checkpointer.restore(template, chosen, partial=True)
        if restored is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint yet: train on")
        if adapts or policy.frozen is not None:
            build.check_base(restored.host, build.describe_base(policy.directory))
        weights = policy.params if adapts else restored.arrays["params"]
        params = policy.join(weights)
        engine, _ = build.make_engine(config, policy, params, restored.step, resources)
        collector = build.make_collector(config, environment, policy, engine, resources)
        find_strategy(config.strategy.name)  # its module registers its contexts
        found = evaluate(
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
            samples_of(config),
        )
    metrics = found.metrics
    write_evaluation(
        workdir,
        restored.step,
        metrics,
        found.episodes,
        panels.held_out,
        found.sampled,
    )
    say(summary(restored.step, metrics, panels.held_out))
    if void := [split for split in panels.held_out if f"{split}/void" in metrics]:
        played = [*found.episodes, *found.sampled]
        reason = next(episode.lost for episode in played if episode.lost)
        raise RuntimeError(
            f"the figures of {', '.join(void)} are void: more episodes failed for good "
            f"than config.eval.max_failed_share={config.eval.max_failed_share:g} "
            f"allows: mend the environment and evaluate again; the first one: {reason}"
        )
    return metrics
