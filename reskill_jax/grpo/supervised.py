"""Supervised learning on demonstrated responses, on the same packed rows as GRPO."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from reskill_jax.grpo.losses import token_weights
from reskill_jax.grpo.optimizer import LogprobFn, TrainState, make_step
from reskill_jax.grpo.packing import Array, PackedBatch
from reskill_jax.grpo.weighted_metrics import Max, Mean, Metrics, reduce_metrics

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
    logprob_fn: LogprobFn, tx: optax.GradientTransformation
) -> SupervisedUpdate:
    """Build `update(state, batches) -> (state, metrics)`: one optimiser step.

    All demonstrated tokens of `batches` weigh the same. The state is donated.
    """

    def loss_fn(params: object, batch: SupervisedBatch) -> tuple[jax.Array, Metrics]:
        return supervised_loss(logprob_fn(params, batch.packed), batch)

    step = make_step(loss_fn, tx)

    def update(
        state: TrainState, batches: Sequence[PackedBatch]
    ) -> tuple[TrainState, dict[str, float]]:
        weights = token_weights(batches, "token")
        state, metrics = step(state, list(map(SupervisedBatch, batches, weights)))
        return state, reduce_metrics(metrics)

    return update
