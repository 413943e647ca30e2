"""What trainer and vLLM servers have of a device that they share."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.rollout.vllm.settings import ROOM


@dataclass(frozen=True)
class ServerShare:
    """What a vLLM server on the trainer's devices has of each of them, in bytes.

    Attributes:
        weights: of its model.
        cache: for keys and values: what is left of its share, less its activations,
            which only the server can tell.
        per_token: of keys and values.
        longest: tokens of the longest prompt and response together.
    """

    weights: int
    cache: int
    per_token: int
    longest: int

    @property
    def tokens(self) -> int:
        """Tokens whose keys and values it can hold."""
        return max(self.cache, 0) // self.per_token

    @property
    def fits(self) -> bool:
        """Whether it can answer the longest prompt."""
        return self.tokens >= self.longest


def server_share(
    config: ConfigDict, decoder: DecoderConfig, memory: int
) -> ServerShare:
    """Count what a server has of each device.

    Args:
        config: of the run.
        decoder: the shape of what it serves.
        memory: bytes of a device.
    """
    vllm, itemsize = config.engine.vllm, jnp.dtype(decoder.dtype).itemsize
    shapes = jax.tree.leaves(abstract_params(decoder))
    weights = sum(leaf.size for leaf in shapes) * itemsize // vllm.tensor_parallel_size
    heads = -(-decoder.num_key_value_heads // vllm.tensor_parallel_size)
    channels = 2 * decoder.num_hidden_layers * heads * decoder.head_dim
    return ServerShare(
        weights,
        int(vllm.gpu_memory_utilization * memory) - weights,
        channels * itemsize,
        config.prompt.max_tokens + config.rollout.max_tokens,
    )


def trainer_share(config: ConfigDict, memory: int) -> tuple[float, Mapping[str, int]]:
    """Return the trainer's share of a device, and what is not its own in rollouts.

    A trainer that gives back what it does not use has all but some room while servers
    sleep, and only what stays has to fit beside one that is awake.

    Args:
        config: of the run.
        memory: bytes of a device.
    """
    vllm = config.engine.vllm
    if vllm.trainer_memory:
        return float(vllm.trainer_memory), {}
    awake = int(vllm.gpu_memory_utilization * memory)
    return 1 - ROOM, {"share of the vLLM server, while it is awake": awake}
