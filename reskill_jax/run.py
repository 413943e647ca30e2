"""A training run: its parts, and its state as the last checkpoint left it."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from reskill_jax import distributed
from reskill_jax.build import (
    Policy,
    Tasks,
    check_base,
    describe_base,
    load_policy,
    load_tasks,
    make_collector,
    make_engine,
    make_grpo,
    make_meter,
    make_reference,
    make_reference_refresh,
    reference_memory,
)
from reskill_jax.build_strategy import make_strategy
from reskill_jax.checkpoint import Checkpointer, Restored
from reskill_jax.environments.panels import Panels, TaskStream
from reskill_jax.grpo.optimizer import TrainState, abstract_state, init_state
from reskill_jax.grpo.reference import Refresh, moving_part, with_moving_part
from reskill_jax.grpo.skill_meter import SkillMeter
from reskill_jax.grpo.update import Update
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.lora import Adapted, join
from reskill_jax.policy.sharding import abstract, move
from reskill_jax.report.best import Best, chosen_metric, find_best
from reskill_jax.report.metrics import is_evaluated, read_metrics
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.prefetch import Batches, Planned
from reskill_jax.strategies.base import Strategy
from reskill_jax.workdir import Workdir


@dataclass
class Run:
    """The parts of a training run, at first as its last checkpoint left them.

    Attributes:
        done: steps done.
        saved: those of them that are in a checkpoint.
        evaluation_due: whether the state of `done` is still to be evaluated.
        panels: the tasks.
        stream: draws tasks for training.
        strategy: decides what is played.
        collector: plays.
        checkpointer: keeps states.
        best: the best of them, which is kept beside the newest.
        state: what an update changes.
        frozen: what adapters are on; None without adapters.
        base: which weights stay as they are, for checkpoints: those, those of a policy
            that never learns, or the reference; None without any.
        version: of the weights, the last step that trained them.
        failed_groups: groups that were dropped so far.
        episodes: that the strategy has seen so far.
        calls: to language models so far.
        reference: the weights that the KL term compares with; None without one.
        refresh: sets them anew where that is due; None: they stay.
        update: one step of GRPO; None for a policy that never learns.
        meter: measures what skills do at some turns.
        ahead: the batch that was collected ahead, as a JSON document; None if none was.
        resources: keeps what has to be closed.
        barren_steps: the last steps of this process of which all groups were dropped.
    """

    done: int
    saved: int
    evaluation_due: bool
    panels: Panels
    stream: TaskStream
    strategy: Strategy
    collector: Collector
    checkpointer: Checkpointer
    best: Best
    state: TrainState
    frozen: Adapted | None
    base: dict[str, str] | None
    version: int
    failed_groups: int
    episodes: int
    calls: float
    reference: Params | Adapted | None
    refresh: Refresh | None
    update: Update | None
    meter: SkillMeter
    ahead: Any
    resources: ExitStack
    barren_steps: int = 0

    @property
    def arrays(self) -> Any:
        """What a checkpoint holds; weights that never change are not in it."""
        if self.update is None:
            return {"step": self.state.step}
        if self.refresh is None:
            return self.state
        return _with_reference(self.state, move(moving_part(self.reference), "device"))

    @property
    def weights(self) -> Any:
        """The parameters that compute now."""
        return join(self.frozen, self.state.params)

    def batches(self, plan: Callable[[int], Planned]) -> Batches:
        """Make what hands out the steps' batches; the engine is its own from now on."""
        batches = Batches(self.collector.engine, plan, self.version)
        self.resources.callback(batches.close)
        batches.restore(self.ahead)
        return batches


def open_run(
    config: ConfigDict,
    workdir: Workdir,
    resources: ExitStack,
    tasks: Tasks | None = None,
) -> Run:
    """Build the parts of a run and go on from its newest checkpoint, if it has one.

    Args:
        config: of the run.
        workdir: of the run.
        resources: keeps what has to be closed.
        tasks: of the run, where they are loaded already.
    """
    environment, panels = tasks or load_tasks(config)
    checkpointer = Checkpointer(workdir.checkpoints, config.checkpoint.keep)
    resources.callback(checkpointer.close)
    adapts = config.adapt.frozen
    # The weights to start from would be a fourth copy beside the checkpoint's three.
    policy = load_policy(config, weights=adapts or checkpointer.latest() is None)
    reference, refresh, update = None, None, None
    if adapts:
        done, state, host = _frozen_state(policy, checkpointer)
    else:
        reference = make_reference(config, policy)
        tx, update = make_grpo(config, policy.config, policy.mesh)
        fresh = abstract_state(policy.params, tx, policy.mesh)
        template: Any = fresh
        if config.grpo.reference_refresh:
            refresh = make_reference_refresh(config)
            part = jax.eval_shape(lambda x: x, moving_part(reference))
            template = _with_reference(fresh, abstract(policy.mesh, part))
        done, state, host = checkpointer.restore(template) or Restored(
            0, init_state(policy.params, tx, policy.mesh), {}
        )
        if refresh and done:
            part = move(state.pop("reference"), reference_memory(config))
            state, reference = TrainState(**state), with_moving_part(reference, part)
    version = host.get("version", 0)
    stays = policy.frozen or adapts or (reference is not None and refresh is None)
    base = describe_base(policy.directory) if stays else None
    check_base(host, base)
    engine, servers = make_engine(
        config, policy, policy.join(state.params), version, resources
    )
    collector = make_collector(config, environment, policy, engine, resources)
    strategy = make_strategy(
        config, environment, collector.prompts, workdir.creator_calls, servers
    )
    if host:
        strategy.restore(host["strategy"])
    due = bool(panels.held_out) and host.get("evaluation_due", True)
    return Run(
        done=done,
        saved=done,
        evaluation_due=due and not _is_evaluated(workdir, done),
        panels=panels,
        stream=TaskStream(panels.train, config.seed, host.get("drawn", 0)),
        strategy=strategy,
        collector=collector,
        checkpointer=checkpointer,
        best=_best(config, workdir, panels, done, checkpointer),
        state=state,
        frozen=policy.frozen,
        base=base,
        version=version,
        failed_groups=host.get("failed_groups", 0),
        episodes=host.get("episodes", 0),
        calls=host.get("calls", 0.0),
        reference=reference,
        refresh=refresh,
        update=update,
        meter=make_meter(config, policy.config, policy.mesh),
        ahead=host.get("ahead"),
        resources=resources,
    )


def _is_evaluated(workdir: Workdir, done: int) -> bool:
    """Tell whether a checkpoint's state was evaluated since: the checkpoint does not.

    All processes are told what the one that writes the metrics sees.
    """
    if not done:
        return False
    return bool(distributed.broadcast(is_evaluated(workdir.metrics, done)))


def _best(
    config: ConfigDict,
    workdir: Workdir,
    panels: Panels,
    done: int,
    checkpointer: Checkpointer,
) -> Best:
    """Return the best checkpoint up to the one that the run goes on from."""
    metric = chosen_metric(config.checkpoint.best, panels.held_out)
    steps = [step for step in checkpointer.steps() if step <= done]
    return find_best(read_metrics(workdir.metrics), metric, steps)


def _with_reference(state: TrainState, part: Any) -> dict[str, Any]:
    """Put the moving part of a reference beside a state, for checkpoints."""
    return {
        "params": state.params,
        "opt_state": state.opt_state,
        "step": state.step,
        "reference": part,
    }


def _frozen_state(policy: Policy, checkpointer: Checkpointer) -> Restored:
    """Make the state of a policy that never learns: its checkpoints have no weights."""
    tx = optax.identity()
    state = init_state(policy.params, tx, policy.mesh)
    step = abstract_state(policy.params, tx, policy.mesh).step
    restored = checkpointer.restore({"step": step})
    if restored is None:
        return Restored(0, state, {})
    return restored._replace(arrays=state)
