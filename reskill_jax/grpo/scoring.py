"""The decoder as the trainer uses it: how it scores the targets of packed rows."""

from typing import Any

import jax
import jax.numpy as jnp

from reskill_jax.grpo.optimizer import LogprobFn, ScoreFn
from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.policy.compute import DEFAULT, Compute
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.sharding import mesh_of


def make_scores(
    config: DecoderConfig,
    *,
    temperature: float = 1.0,
    compute: Compute = DEFAULT,
) -> ScoreFn:
    """Build (params, packed) -> log-probs and entropies, as in `token_logprobs`.

    They have a meaning at response tokens only, few of most rows: on one device the
    rest is not computed. On a mesh it is, since rows there would wait for each other.
    """

    def scores(params: Any, packed: PackedBatch) -> tuple[jax.Array, jax.Array]:
        wanted = None if mesh_of(params) else jnp.asarray(packed.mask) > 0
        return token_logprobs(
            config,
            params,
            jnp.asarray(packed.tokens),
            jnp.asarray(packed.positions),
            jnp.asarray(packed.visible_end),
            jnp.asarray(packed.targets),
            temperature=temperature,
            wanted=wanted,
            compute=compute,
        )

    return scores


def make_logprobs(
    config: DecoderConfig,
    *,
    temperature: float = 1.0,
    compute: Compute = DEFAULT,
) -> LogprobFn:
    """Build (params, packed) -> float32 [R, T]; options as in `token_logprobs`."""
    scores = make_scores(config, temperature=temperature, compute=compute)
    return lambda params, packed: scores(params, packed)[0]
