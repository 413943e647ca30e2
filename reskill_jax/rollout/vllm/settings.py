"""Checks what can be checked before vLLM servers are started."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from reskill_jax.modules import missing

_LOGPROBS_MODE = "--logprobs-mode"
# Share of a device's memory that neither trainer nor server may count on: both have a
# CUDA context, and workspace of libraries beside what they allocate.
ROOM = 0.05
# What tells JAX how much of a device to take, before it starts; the first is the newer
# name of the second.
_FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
_ALLOCATOR = "XLA_PYTHON_CLIENT_ALLOCATOR"


def trainer_variables(trainer_memory: float) -> dict[str, str]:
    """Return the environment variables that give a trainer its share of devices.

    JAX reads them when it starts its backend; servers are on the same devices.

    Args:
        trainer_memory: share of each device's memory; 0: what it needs at the time,
            by an allocator that gives back what is freed.
    """
    if trainer_memory:
        return {_FRACTIONS[0]: f"{trainer_memory:g}"}
    return {_ALLOCATOR: "platform"}


def set_trainer_variables(
    trainer_memory: float, variables: MutableMapping[str, str] = os.environ
) -> None:
    """Set them for this process, unless one is set: `problems` compares it."""
    if not any(variables.get(name) for name in (*_FRACTIONS, _ALLOCATOR)):
        variables.update(trainer_variables(trainer_memory))


def problems(
    *,
    executable: str,
    urls: Sequence[str],
    replicas: int,
    devices: Sequence[str],
    arguments: Sequence[str],
    transfer: str,
    libnccl: str,
    processes: int,
    overlap: int,
    colocate: bool,
    trainer_memory: float,
    gpu_memory_utilization: float,
    tensor_parallel_size: int,
    variables: Mapping[str, str] = os.environ,
    **_: Any,
) -> Iterator[str]:
    """Yield what does not fit; each problem begins with the argument's name.

    Args:
        executable: `vllm`, by name or path.
        urls: servers that run already.
        replicas: servers to start in each process.
        devices: CUDA_VISIBLE_DEVICES of each of those.
        arguments: further arguments of `vllm serve`.
        transfer: files or nccl.
        libnccl: path of the library; empty: it is looked for.
        processes: of the trainer.
        overlap: whether batches are collected during the update.
        colocate: whether servers are on the trainer's devices.
        trainer_memory: share of each device that the trainer then takes.
        gpu_memory_utilization: share of each device that a server takes.
        tensor_parallel_size: devices of a server.
        variables: of the environment.
    """
    if needs := missing("vllm", "httpx"):
        yield f"executable={executable!r}: asking it {needs}"
    if not urls and shutil.which(executable) is None:
        yield (
            f"executable={executable!r} was not found: install vLLM into an "
            "environment of its own and name its bin/vllm"
        )
    if 0 < len(urls) < processes:
        yield (
            f"urls={tuple(urls)}: each of {processes} processes needs servers of its "
            "own: name as many, or start fewer processes"
        )
    if devices and len(devices) != replicas:
        yield (
            f"devices={tuple(devices)}: give one entry for each of replicas={replicas}"
        )
    names = {word.partition("=")[0].replace("_", "-") for word in arguments}
    if _LOGPROBS_MODE in names:
        yield (
            f"arguments={tuple(arguments)}: {_LOGPROBS_MODE} has to be as it is set "
            "here, or log-probs would not be those of the policy: leave it out"
        )
    if libnccl and not Path(libnccl).is_file():
        yield (
            f"libnccl={libnccl!r} is not a file: name the libnccl.so.2 of vLLM's "
            "environment, or leave it empty"
        )
    if transfer == "nccl":
        yield from _nccl_problems(bool(urls or devices), processes, overlap)
    if colocate:
        yield from _sharing_problems(transfer, overlap)
        yield from _share_problems(trainer_memory, gpu_memory_utilization, bool(urls))
        yield from _variable_problems(trainer_memory, variables)
        if not urls:
            yield from _place_problems(replicas, tensor_parallel_size, devices)


def _sharing_problems(transfer: str, overlap: int) -> Iterator[str]:
    """Servers that sleep during an update neither sample then nor join the trainer."""
    if overlap:
        yield (
            "colocate=True: servers sleep during the update and cannot collect the "
            "next batch then: use overlap=0, or devices of their own"
        )
    if transfer == "nccl":
        yield (
            "colocate=True: NCCL joins processes on different GPUs only: use "
            "transfer='files'"
        )


def _share_problems(
    trainer_memory: float, gpu_memory_utilization: float, running: bool
) -> Iterator[str]:
    """All shares of a device together leave some room."""
    most = 1 - ROOM
    if not gpu_memory_utilization and not running:
        yield (
            "gpu_memory_utilization=0 leaves a server's share to its arguments: with "
            "colocate it is weighed against the trainer's, so give it here"
        )
    # What running servers take was said when they were started.
    theirs = 0.0 if running else gpu_memory_utilization
    # In floats, .5 + .45 is more than .95.
    if trainer_memory + theirs > most + 1e-9:
        yield (
            f"trainer_memory={trainer_memory:g} and gpu_memory_utilization={theirs:g} "
            f"are {trainer_memory + theirs:g} of each device, which must be at most "
            f"{most:g}: lower one of them (--mode=compile tells what the trainer "
            "needs), or use trainer_memory=0, with which it takes and gives back"
        )


def _variable_problems(
    trainer_memory: float, variables: Mapping[str, str]
) -> Iterator[str]:
    """The environment says nothing else than the settings."""
    ours = trainer_variables(trainer_memory)
    for name in (*_FRACTIONS, _ALLOCATOR):
        found = variables.get(name, "")
        if found and found != ours.get(name):
            yield (
                f"trainer_memory={trainer_memory:g}: the environment has "
                f"{name}={found}: unset it, since this key says it with colocate"
            )


def _place_problems(
    replicas: int, tensor_parallel_size: int, devices: Sequence[str]
) -> Iterator[str]:
    """No device has two servers: their shares would add up."""
    if replicas > 1 and not devices:
        yield (
            f"replicas={replicas} with colocate would all be on the first devices: "
            "name those of each in devices"
        )
    cards = [card.strip() for entry in devices for card in entry.split(",")]
    if doubled := [card for card, count in Counter(cards).items() if count > 1]:
        yield (
            f"devices={tuple(devices)}: {', '.join(doubled)} would have several "
            "servers, whose shares of its memory add up: give each its own"
        )
    for entry in devices:
        if len(entry.split(",")) != tensor_parallel_size:
            yield (
                f"devices={tuple(devices)}: each needs tensor_parallel_size="
                f"{tensor_parallel_size} of them"
            )
            return


def _nccl_problems(placed: bool, processes: int, overlap: int) -> Iterator[str]:
    """A server that is started again must be sent weights at once, by one sender."""
    if processes > 1:
        yield (
            "transfer='nccl' works with one trainer process: in several, a server that "
            "is started again could not be sent weights by one of them; use 'files'"
        )
    if not placed:
        yield (
            "devices=(): with transfer='nccl' servers need GPUs that are not the "
            "trainer's: name those of each, or running servers in urls"
        )
    if overlap:
        yield (
            "transfer='nccl' does not work with overlap: a server that is started "
            "again during an update could not be sent weights; use 'files'"
        )
