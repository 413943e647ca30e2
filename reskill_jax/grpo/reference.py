"""The reference of the KL term where it follows the policy from time to time.

What changes of it is its *moving part*: all its weights, or copies of the adapters on a
base that stays. Checkpoints hold the moving part.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.sharding import constrain_parameters, move

# (step, reference, weights of the policy) -> reference
Refresh = Callable[[int, Any, Any], Any]


def moving_part(params: Any) -> Any:
    """Return the adapters, or all parameters where there are none."""
    return params.adapters if isinstance(params, Adapted) else params


def with_moving_part(reference: Any, part: Any) -> Any:
    """Return the reference with another moving part, in the memory that it is in."""
    if isinstance(reference, Adapted):
        return replace(reference, adapters=part)
    return part


def make_refresh(every: int, mix: float, memory: str) -> Refresh:
    """Build what sets the reference anew: mix x policy + (1 - mix) x reference.

    Sums are float32 and rounded to the reference's dtype, which in bfloat16 loses
    changes below 1/256 of a weight. Of adapters both factors are mixed.

    Args:
        every: steps; 0: the reference stays what it is.
        mix: share of the policy, above 0 and at most 1, which is a copy.
        memory: where the reference waits, device or pinned_host.
    """

    def refresh(step: int, reference: Any, params: Any) -> Any:
        if not every or step % every:
            return reference
        old = move(moving_part(reference), "device")
        new = _mixed(old, moving_part(params), jnp.float32(mix))
        return with_moving_part(reference, move(new, memory))

    return refresh


@jax.jit
def _mixed(reference: Any, params: Any, mix: jax.Array) -> Any:
    def one(old: jax.Array, new: jax.Array) -> jax.Array:
        whole = mix * new.astype(jnp.float32) + (1 - mix) * old.astype(jnp.float32)
        return whole.astype(old.dtype)

    return constrain_parameters(jax.tree.map(one, reference, params))
