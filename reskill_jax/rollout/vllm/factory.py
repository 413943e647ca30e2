"""Builds a vLLM engine: starts its servers, or finds running ones."""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from reskill_jax import distributed
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.sharding import constrain, platform_of, row_shards
from reskill_jax.rollout.vllm.engine import Transfer, VllmEngine
from reskill_jax.rollout.vllm.files_transfer import FilesTransfer
from reskill_jax.rollout.vllm.nccl import find_library
from reskill_jax.rollout.vllm.nccl_transfer import NcclTransfer
from reskill_jax.rollout.vllm.server import Server, ServerOptions


@dataclass(frozen=True)
class VllmSettings:
    """The keys of `engine.vllm`.

    Attributes:
        executable: `vllm` of an environment with vLLM, to start servers.
        urls: addresses of running servers, shared out among the trainer processes;
            empty: servers are started.
        replicas: servers that each trainer process starts.
        devices: CUDA_VISIBLE_DEVICES of each of those; empty: unchanged.
        tensor_parallel_size: devices that each server splits the model over.
        gpu_memory_utilization: share of each device's memory; 0: left to `arguments`.
        colocate: whether they are on the trainer's devices and sleep during updates.
        trainer_memory: share of each device's memory that the trainer then takes; 0:
            what it needs at the time.
        arguments: further arguments of `vllm serve`.
        transfer: how weights reach the servers: files or nccl.
        weights_dir: directory for `files`, which servers and trainer share.
        libnccl: path of the servers' libnccl.so.2 for `nccl`; empty: that of the
            executable's environment.
        start_timeout_s: seconds that a server may take to start.
        timeout_s: seconds that one answer may take.
        max_attempts: how often one request is tried.
        logprob_tolerance: largest difference, in nats per token, between the log-probs
            of server and trainer after new weights.
    """

    executable: str
    urls: Sequence[str]
    replicas: int
    devices: Sequence[str]
    tensor_parallel_size: int
    gpu_memory_utilization: float
    colocate: bool
    trainer_memory: float
    arguments: Sequence[str]
    transfer: str
    weights_dir: str
    libnccl: str
    start_timeout_s: float
    timeout_s: float
    max_attempts: int
    logprob_tolerance: float


def make_vllm_engine(
    settings: VllmSettings,
    *,
    model: Path,
    decoder: DecoderConfig,
    params: Params | Adapted,
    mesh: Mesh | None,
    version: int,
    eos_ids: Sequence[int],
    max_length: int,
    max_sequences: int,
    resources: ExitStack,
) -> VllmEngine:
    """Start vLLM servers, or find running ones, and bring them the weights.

    Every trainer process has servers of its own: those that it starts on its node, or
    its share of the running ones.

    Args:
        settings: which servers, and how weights reach them.
        model: Hugging Face directory that servers start from.
        decoder: the decoder's shape; its dtype is that of the servers.
        params: the weights to serve.
        mesh: the devices that they are on; None for one.
        version: of the weights.
        eos_ids: the tokens that end a response.
        max_length: tokens of the longest prompt and response together.
        max_sequences: sequences that a server works on at once, at most.
        resources: ends the servers that are started; the engine is the caller's to
            close, before.

    Raises:
        ValueError: settings do not fit the trainer's processes or devices; the message
            begins with the name of one.
        RuntimeError: a server does not start, or does not serve this policy.
    """
    # Beside the trainer's devices, every process would take the first one.
    if (settings.devices or settings.colocate) and not settings.urls:
        _check_devices_unshared(settings.devices)
    # Paths of Unix sockets are short, see `Server`, so they are not in the workdir.
    directory = Path(tempfile.mkdtemp(prefix="reskill-"))
    resources.callback(shutil.rmtree, directory, ignore_errors=True)
    weights_dir = Path(settings.weights_dir) / directory.name
    transfer = _make_transfer(settings, decoder, mesh, weights_dir)
    servers: list[Server | str] = [
        settings.urls[index] for index in distributed.share(len(settings.urls))
    ]
    for number in range(0 if settings.urls else settings.replicas):
        options = ServerOptions(
            executable=settings.executable,
            model=model.absolute(),
            dtype=decoder.dtype,
            max_length=max_length,
            max_sequences=max_sequences,
            tensor_parallel_size=settings.tensor_parallel_size,
            transfer=settings.transfer,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            sleep_mode=settings.colocate,
            arguments=settings.arguments,
            environment={"CUDA_VISIBLE_DEVICES": settings.devices[number]}
            if settings.devices
            else {},
        )
        server = Server(options, directory / str(number))
        resources.callback(server.stop)
        servers.append(server)
    return VllmEngine(
        decoder,
        params,
        servers=servers,
        transfer=transfer,
        eos_ids=eos_ids,
        score=_make_score(decoder, mesh),
        logprob_tolerance=settings.logprob_tolerance,
        version=version,
        start_timeout_s=settings.start_timeout_s,
        timeout_s=settings.timeout_s,
        max_attempts=settings.max_attempts,
        colocate=settings.colocate,
    )


def _check_devices_unshared(devices: Sequence[str]) -> None:
    """Raise if several processes run where servers get these devices."""
    nodes = distributed.gather(os.uname().nodename)
    if shared := sorted({node for node in nodes if nodes.count(node) > 1}):
        raise ValueError(
            f"devices={tuple(devices)}: several trainer processes run on "
            f"{', '.join(shared)} and would start servers on the same devices: start "
            "one process per node, which may have several devices, or name running "
            "servers in urls"
        )


def _make_transfer(
    settings: VllmSettings, decoder: DecoderConfig, mesh: Mesh | None, weights_dir: Path
) -> Transfer[Any]:
    """Build what brings weights to the servers."""
    if settings.transfer == "files":
        return FilesTransfer(decoder, weights_dir)
    if (platform := platform_of(mesh)) != "gpu":
        raise ValueError(
            f"transfer={settings.transfer!r} is for trainers on GPUs, and this one "
            f"computes on {platform}: use 'files'"
        )
    return NcclTransfer(
        decoder,
        mesh=mesh,
        libnccl=settings.libnccl or find_library(settings.executable),
        timeout_s=settings.timeout_s,
    )


def _make_score(
    decoder: DecoderConfig, mesh: Mesh | None
) -> Callable[[Params, Sequence[int]], np.ndarray]:
    """Build what scores a text: (params, tokens [n]) -> log-probs of tokens[1:].

    All processes score the same texts together, in the same order.
    """
    rows = row_shards(mesh)  # copies of the text, since every device needs one

    @jax.jit
    def logprobs(params: Params, text: jax.Array) -> jax.Array:
        text = jnp.broadcast_to(text, (rows, *text.shape))
        tokens, targets = text[:, :-1], text[:, 1:]
        length = tokens.shape[1]
        positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
        visible_end = jnp.full_like(tokens, length)
        found, _ = token_logprobs(
            decoder, params, tokens, positions, visible_end, targets
        )
        return constrain(found[0])  # all of it everywhere

    return lambda params, tokens: np.asarray(
        logprobs(params, np.array(tokens, np.int32))
    )
