"""Checks what can be checked before vLLM servers are started."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reskill_jax.modules import missing

_LOGPROBS_MODE = "--logprobs-mode"


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
