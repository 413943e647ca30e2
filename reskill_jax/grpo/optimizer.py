"""Training state and the one optimiser step that every kind of training shares.

A step adds the gradients of micro-batches of any shapes and applies them once. Losses
are sums whose weights span the whole step, so nothing is averaged here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.grpo.weighted_metrics import Mean, Metrics, reduce_metrics
from reskill_jax.policy.lora import Adapted, join
from reskill_jax.policy.sharding import (
    abstract,
    constrain_parameters,
    mesh_of,
    parameter_shardings,
    put_rows,
)

# (params, packed) -> float32 [R, T], log-probs of the targets.
LogprobFn = Callable[[Any, PackedBatch], jax.Array]
# The same with the entropies, float32 [R, T], of what could have stood there.
ScoreFn = Callable[[Any, PackedBatch], tuple[jax.Array, jax.Array]]
# (params, micro-batch) -> its share of the loss, its metrics.
LossFn = Callable[[Any, Any], tuple[jax.Array, Metrics]]


class Step(Protocol):
    """What `make_step` returns."""

    def __call__(
        self,
        state: "TrainState",
        microbatches: Sequence[Any],
        frozen: Adapted | None = None,
    ) -> tuple["TrainState", list[Metrics]]:
        """Take an optimiser step; `state` is donated."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything an optimiser step changes.

    Attributes:
        params: the weights that are trained, float32: the policy's, or its adapters.
        opt_state: the optimiser's state.
        step: int32 scalar, optimiser steps taken.
    """

    params: Any
    opt_state: Any
    step: jax.Array


def init_state(
    params: Any, tx: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
    """Start training from `params`, which belong to the state from now on.

    With a mesh, on which they are, the optimiser's state is made there, in parts.
    """

    def rest(params: Any) -> tuple[Any, jax.Array]:
        return tx.init(params), jnp.zeros((), jnp.int32)

    if mesh is not None:
        places = parameter_shardings(mesh, jax.eval_shape(rest, params))
        rest = jax.jit(rest, out_shardings=places)
    return TrainState(params, *rest(params))


def abstract_state(
    params: Any, tx: optax.GradientTransformation, mesh: Mesh | None = None
) -> TrainState:
    """Describe, without making it, what `init_state` returns, and where it lies."""
    return abstract(mesh, jax.eval_shape(lambda x: init_state(x, tx), params))


def make_optimizer(
    learning_rate: optax.ScalarOrSchedule,
    *,
    clip_norm: float = 1.0,
    weight_decay: float = 0.01,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; the schedule counts optimiser steps."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(learning_rate, b1=b1, b2=b2, weight_decay=weight_decay),
    )


def make_step(loss_fn: LossFn, tx: optax.GradientTransformation) -> Step:
    """Build `step(state, microbatches, frozen) -> (state, metrics by micro-batch)`.

    The loss is a function of all parameters: with adapters, of those on `frozen`.

    The state that goes in is donated: neither it nor anything that shares its arrays
    (a reference policy, an engine's weights) may be used afterwards, so copy those.
    On a mesh, micro-batches, arrays [R, ...] of the host or of the mesh, are split by
    rows.

    Raises (the returned function):
        ValueError: without micro-batches.
        FloatingPointError: if loss or gradients are not finite; the state is not
            changed then.
    """
    accumulate, apply = make_programs(loss_fn, tx)
    norm_of = jax.jit(optax.tree.norm)
    zeros_like = jax.jit(
        lambda params: constrain_parameters(jax.tree.map(jnp.zeros_like, params))
    )

    def step(
        state: TrainState,
        microbatches: Sequence[Any],
        frozen: Adapted | None = None,
    ) -> tuple[TrainState, list[Metrics]]:
        if not microbatches:
            raise ValueError("an optimiser step without micro-batches: no episodes?")
        mesh = mesh_of(state.params)
        # Gradients are a second tree beside those so far: one micro-batch needs none.
        grads = zeros_like(state.params) if len(microbatches) > 1 else None
        metrics: list[Metrics] = []
        for microbatch in microbatches:
            rows = put_rows(mesh, microbatch)
            grads, part = accumulate(state.params, grads, rows, frozen)
            metrics.append(part)
        metrics.append({"update/grad_norm": Mean(norm_of(grads), 1.0)})
        metrics = jax.device_get(metrics)
        _check_finite(int(state.step), metrics)
        return apply(state, grads), metrics

    return step


def make_programs(loss_fn: LossFn, tx: optax.GradientTransformation) -> tuple[Any, Any]:
    """Return the two jitted functions of a step.

    Returns:
        `accumulate(params, grads, microbatch, frozen) -> (grads, metrics)`, which
        donates the gradients so far (None: there are none yet), and `apply(state,
        grads) -> state`, which donates the state.
    """

    @partial(jax.jit, donate_argnums=1)
    def accumulate(
        params: Any, total: Any, microbatch: Any, frozen: Adapted | None = None
    ) -> tuple[Any, Metrics]:
        def loss(params: Any) -> tuple[jax.Array, Metrics]:
            return loss_fn(join(frozen, params), microbatch)

        grads, metrics = jax.grad(loss, has_aux=True)(params)
        if total is not None:
            grads = jax.tree.map(jnp.add, total, grads)
        return constrain_parameters(grads), metrics

    @partial(jax.jit, donate_argnums=0)
    def apply(state: TrainState, grads: Any) -> TrainState:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        state = TrainState(params, opt_state, state.step + 1)
        return constrain_parameters(state)

    return accumulate, apply


def _check_finite(step: int, metrics: Sequence[Metrics]) -> None:
    """Raise if a step would poison the weights."""
    figures = reduce_metrics(metrics)
    vital = {k: v for k, v in figures.items() if k.endswith(("/loss", "/grad_norm"))}
    if not np.isfinite(list(vital.values())).all():
        raise FloatingPointError(
            f"optimiser step {step}: {vital}; the weights were not changed. Look at "
            "rollout/logprob_diff* and adv/abs_max of the steps before, lower the "
            "learning rate, and resume from the last checkpoint"
        )
