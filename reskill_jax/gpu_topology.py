"""GPUs that are not here, described for XLA's compiler.

The compiler takes what it needs to know of a card as a text (XLA's
`GpuTargetConfigProto`). These are the public figures of NVIDIA's data sheets and of the
CUDA programming guide's table for compute capability 9.0. What only a card can tell,
such as the workspace of cuDNN's programs, is not known.
"""

import importlib.util
from typing import Any, NamedTuple

GIB = 2**30
NOTES = (
    "Not counted, since only a card can tell: workspace of cuDNN and cuBLAS, buffers "
    "of NCCL, the CUDA context. Leave some GiB.",
    "JAX takes 75% of a card unless XLA_PYTHON_CLIENT_MEM_FRACTION says otherwise.",
)


class Card(NamedTuple):
    """A kind of GPU.

    Attributes:
        memory: bytes, as nvidia-smi tells them.
        bandwidth: of the memory, bytes per second.
    """

    memory: int
    bandwidth: int


CARDS = {
    "h100": Card(81_559 * 2**20, 3_350 * 10**9),  # SXM, 80 GB
    "h200": Card(143_771 * 2**20, 4_800 * 10**9),  # SXM, 141 GB
}
_PER_HOST = 8  # cards of a host, which one process drives
_TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  device_memory_size: {memory} memory_bandwidth: {bandwidth} l2_cache_size: 52428800
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""


def card_of(topology: str) -> str:
    """Return the kind of card that a topology such as h100:8 names; empty if none."""
    name = topology.partition(":")[0].lower()
    return name if name in CARDS else ""


def gpus(topology: str) -> list[Any]:
    """Describe the GPUs of a topology such as h100:8.

    Raises:
        ValueError: JAX's plugin is not installed, or the name has no number of cards;
            begins with the argument's name.
    """
    name, _, count = topology.partition(":")
    if not count.isdigit() or not 1 <= int(count) <= 4096:
        raise ValueError(
            f"topology={topology!r}: name a number of cards, such as {name}:8"
        )
    if all(importlib.util.find_spec(f"jax_cuda{n}_plugin") is None for n in (12, 13)):
        raise ValueError(
            f"topology={topology!r} needs JAX's plugin for CUDA (no GPU): pip install "
            "'.[cuda]', and set JAX_PLATFORMS=cpu"
        )
    from jax.experimental import topologies  # noqa: PLC0415

    target = _TARGET.format(name=name.upper(), **CARDS[name.lower()]._asdict())
    described = topologies.get_topology_desc(
        platform="cuda", topology=f"1x1x{int(count)}", target_config=target
    )
    return list(described.devices)


def gpus_of_a_host(topology: str, count: int) -> list[Any]:
    """Describe the GPUs of one process: all are of one, whatever their number."""
    return gpus(f"{card_of(topology)}:{min(count, _PER_HOST)}")
