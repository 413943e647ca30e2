"""Supervised learning on demonstrated responses, on the same packed rows as GRPO."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm

from reskill_jax.grpo.aggregation import token_weights
from reskill_jax.grpo.optimizer import LogprobFn, TrainState, make_step
from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.preparation import make_forward
from reskill_jax.grpo.weighted_metrics import Max, Mean, Metrics, reduce_metrics
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.sharding import mesh_of, put_rows
from reskill_jax.terminal import activity

SupervisedUpdate = Callable[
    [TrainState, Sequence[PackedBatch]], tuple[TrainState, dict[str, float]]
]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SupervisedBatch:
    """A micro-batch and the weights [R, T] of its tokens in the loss."""

    packed: PackedBatch
    weights: Array


def supervised_loss(
    logprobs: jax.Array, batch: SupervisedBatch
) -> tuple[jax.Array, Metrics]:
    """Weighted negative log-likelihood of the demonstrated tokens.

    `supervised/sure` is the share of tokens with a probability above one half: they
    are certainly the greedy choice, so it bounds the greedy accuracy from below without
    another pass over the vocabulary.
    """
    mask = batch.packed.mask
    logprobs = jnp.where(mask > 0, logprobs, 0.0)
    loss = -jnp.sum(batch.weights * logprobs)
    sure = jnp.sum((logprobs > jnp.log(0.5)) * mask)
    metrics: dict[str, Mean | Max] = {
        "supervised/loss": Mean(loss, jnp.sum(batch.weights)),
        "supervised/sure": Mean(sure, jnp.sum(mask)),
    }
    return loss, metrics


def make_supervised_update(
    logprob_fn: LogprobFn,
    tx: optax.GradientTransformation,
    frozen: Adapted | None = None,
) -> SupervisedUpdate:
    """Build `update(state, batches) -> (state, metrics)`: one optimiser step.

    All demonstrated tokens of `batches` weigh the same. The state is donated; with
    adapters, `frozen` is their base.
    """

    def loss_fn(params: object, batch: SupervisedBatch) -> tuple[jax.Array, Metrics]:
        return supervised_loss(logprob_fn(params, batch.packed), batch)

    step = make_step(loss_fn, tx)

    def update(
        state: TrainState, batches: Sequence[PackedBatch]
    ) -> tuple[TrainState, dict[str, float]]:
        weights = token_weights(batches, "token")
        state, metrics = step(state, [*map(SupervisedBatch, batches, weights)], frozen)
        return state, reduce_metrics(metrics)

    return update


def fit(
    update: SupervisedUpdate,
    state: TrainState,
    steps: Iterable[int],
    batches: Callable[[int], list[PackedBatch]],
    after_step: Callable[[int, TrainState], None] = lambda done, state: None,
) -> TrainState:
    """Take optimiser steps; `state` is donated.

    Args:
        update: takes one.
        state: to start from.
        steps: their numbers.
        batches: step number -> what it learns from. Called in a thread, one step
            ahead, since rendering and packing take about as long as an update.
        after_step: called with the number of steps done and the state after each.
    """
    numbers = list(steps)
    with ThreadPoolExecutor(1) as thread:
        ahead = (thread.submit(batches, step) for step in numbers)
        packed = next(ahead)
        progress = tqdm.tqdm(
            numbers,
            desc="supervised",
            mininterval=5,
            initial=numbers[0],
            total=numbers[-1] + 1,
        )
        for step in progress:
            now, packed = packed.result(), next(ahead, packed)
            state, metrics = update(state, now)
            progress.set_postfix(loss=metrics["supervised/loss"])
            after_step(step + 1, state)
    return state


def mean_loss(
    logprob_fn: LogprobFn,
    batches: Sequence[PackedBatch],
    params: Any,
) -> float:
    """Return the mean negative log-likelihood per demonstrated token, in nats."""
    forward, mesh = make_forward(logprob_fn), mesh_of(params)
    total = count = 0.0
    done = 0
    with activity("measuring the loss", lambda: f"{done} of {len(batches)} batches"):
        for packed in batches:
            total -= float(np.sum(forward(params, put_rows(mesh, packed))))
            count += float(np.sum(packed.mask))
            done += 1
    return total / count
