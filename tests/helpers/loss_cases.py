"""A packed micro-batch with random inputs of a loss."""

import numpy as np
from grpo_cases import make_batch

from reskill_jax.grpo.aggregation import token_weights
from reskill_jax.grpo.losses import GrpoBatch
from reskill_jax.grpo.packing import pack


def random_batch(seed, *, spread=1.0, reference=True):
    """A packed batch with random loss inputs, and random current log-probs."""
    rng = np.random.default_rng(seed)
    (packed,) = pack(make_batch(seed), buckets=[64], tokens_per_microbatch=64 * 20)
    mask = packed.mask

    def draw(scale):
        return (rng.normal(-2, scale, mask.shape) * mask).astype(np.float32)

    batch = GrpoBatch(
        packed=packed,
        advantages=(rng.normal(0, 1, mask.shape) * mask).astype(np.float32),
        weights=token_weights([packed], "episode")[0],
        old_logprobs=draw(spread),
        reference_logprobs=draw(spread) if reference else None,
    )
    return draw(spread), batch
