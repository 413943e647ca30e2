"""The decoder as the trainer uses it: log-probs of the targets of packed rows."""

from typing import Any

import jax
import jax.numpy as jnp

from reskill_jax.grpo.optimizer import LogprobFn
from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.policy.compute import DEFAULT, Compute
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs


def make_logprobs(
    config: DecoderConfig,
    *,
    temperature: float = 1.0,
    compute: Compute = DEFAULT,
) -> LogprobFn:
    """Build (params, packed) -> float32 [R, T]; options as in `token_logprobs`."""

    def logprobs(params: Any, packed: PackedBatch) -> jax.Array:
        scores, _ = token_logprobs(
            config,
            params,
            jnp.asarray(packed.tokens),
            jnp.asarray(packed.positions),
            jnp.asarray(packed.visible_end),
            jnp.asarray(packed.targets),
            temperature=temperature,
            compute=compute,
        )
        return scores

    return logprobs
