"""How a decoder's training passes are computed: for speed and memory, not for results.

Which devices compute is no setting: programs find the mesh in the types of their
arguments (`sharding.mesh_of`).
"""

from dataclasses import dataclass

import jax

from reskill_jax.policy.ops.attention import BACKENDS
from reskill_jax.policy.ops.block_attention import ATTENDED

# What the backward pass of a layer finds in memory; it computes the rest again.
REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
    "offload": jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=["layer_input"],
        offload_src="device",
        offload_dst="pinned_host",
    ),
}


@dataclass(frozen=True)
class Compute:
    """Settings of forward and backward passes over whole rows.

    Attributes:
        remat: what the forward pass of a layer keeps for the backward pass: everything
            (none); matrix products and attention outputs (dots); the layer's input
            (full), or that in the host's memory (offload).
        attention_backend: one of `attention.BACKENDS`.
        logprob_chunk: tokens of a row whose logits are in memory at a time; with chunks
            as long as the rows, logits are kept for the backward pass.
    """

    remat: str = "none"
    attention_backend: str = "xla"
    logprob_chunk: int = 128

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one of them is unknown or out of range.
        """
        for name, choices in (("remat", REMAT), ("attention_backend", BACKENDS)):
            if (value := getattr(self, name)) not in choices:
                raise ValueError(
                    f"{name}={value!r}: choose one of {', '.join(choices)}"
                )
        if self.logprob_chunk < 1:
            raise ValueError(
                f"logprob_chunk={self.logprob_chunk}: give a number of tokens above 0"
            )


DEFAULT = Compute()
