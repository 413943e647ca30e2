"""Compiles the programs of a run for devices that need not be there.

Every array is abstract: nothing is loaded or run. TPUs are described by a topology such
as v6e:4x4 and compiled for with libtpu, GPUs by one such as h100:8 and with JAX's
plugin for CUDA, on any machine; without a topology it is done for the devices of this
machine.
"""

import collections
import importlib.util
import math
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.build.sections import section
from reskill_jax.gpu_topology import CARDS, NOTES, card_of, gpus, gpus_of_a_host
from reskill_jax.grpo.losses import GrpoBatch
from reskill_jax.grpo.optimizer import TrainState, abstract_state, make_programs
from reskill_jax.grpo.packing import PackedBatch, field_dtypes
from reskill_jax.grpo.preparation import make_forward
from reskill_jax.grpo.update import make_loss
from reskill_jax.memory_report import GIB, MemoryPhase, Program, Report
from reskill_jax.memory_shares import server_share, trainer_share
from reskill_jax.policy.decoder import Params, abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.ops.attention import check_row_lengths, choose_backend
from reskill_jax.policy.presets import find_shape
from reskill_jax.policy.random_policy import PREFIX
from reskill_jax.policy.sharding import (
    AXES,
    ROWS,
    abstract,
    devices_of,
    engine_mesh,
    mesh_sizes,
    platform_of,
    row_shards,
)
from reskill_jax.rollout.jax.programs import abstract_calls
from reskill_jax.terminal import activity

# GiB of memory per device that programs may use, by what JAX calls its kind.
_MEMORY = {"TPU v4": 32, "TPU v5 lite": 15.75, "TPU v5": 95.74, "TPU v6 lite": 31.25}
_KINDS = "all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute"
_COLLECTIVE = re.compile(rf" ({_KINDS})(?:-start)?\(")
# How compilers say what a program needs that is too large for a device.
_REFUSAL = re.compile(
    r"RESOURCE_EXHAUSTED.*?(?:Used |required for [^(]*\()([\d.]+)([MGT])", re.S
)
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


def compile_run(config: ConfigDict) -> Report:
    """Compile the programs of a run: the update in its longest bucket, the engine's.

    Raises:
        ValueError: devices, model and configuration do not fit each other.
    """
    decoder = decoder_of(config)
    mesh = _mesh(config)
    tx, _ = build.make_grpo(config, decoder, mesh)
    _check_rows(config, decoder, mesh)
    params = abstract(mesh, abstract_params(decoder))
    frozen = None
    resident = {}
    if config.policy.lora.rank:
        base = abstract(mesh, _cast(params, decoder.dtype))
        frozen = Adapted(base, None, build.lora_scale(config))
        resident["frozen parameters"] = _bytes(base)
        params = build.make_adapters(config, base, mesh, weights=False)
    state = abstract_state(params, tx, mesh)
    resident |= {
        "trained parameters" if frozen else "parameters": _bytes(state.params),
        "optimiser": _bytes(state.opt_state),
    }
    if config.grpo.kl_coef and not frozen and config.policy.reference == "device":
        reference = abstract(mesh, _cast(params, decoder.dtype))
        resident["reference"] = _bytes(reference)
    length = max(config.grpo.buckets)
    rows = config.grpo.tokens_per_microbatch // length * row_shards(mesh)
    kind = mesh.devices.flat[0].device_kind
    card = card_of(config.mesh.topology)
    memory = CARDS[card].memory / GIB if card else _MEMORY.get(kind)
    model = config.policy.path or config.warm_start.recipe
    update = _update(config, decoder, mesh, tx, state, rows, length, frozen)
    phases, server = [update], None
    if config.engine.name == "jax":
        phases = [_rollout(config, decoder, mesh), update]
        if config.rollout.overlap:
            phases = [_at_once(*phases)]
    elif config.engine.vllm.colocate and memory is not None:
        server = server_share(config, decoder, int(memory * GIB))
        share, awake = trainer_share(config, int(memory * GIB))
        memory *= share
        phases = [*([MemoryPhase("rollout", awake, ())] if awake else ()), update]
    return Report(
        f"{model} on {mesh.size} x {kind}, mesh "
        + ", ".join(f"{axis}={mesh.shape[axis]}" for axis in AXES)
        + f"; micro-batches of {rows} x {length} tokens",
        resident,
        phases,
        None if memory is None else int(memory * GIB),
        model_flops(decoder, rows, length) / mesh.size,
        () if not card else NOTES[:1] if server else NOTES,
        server,
    )


def _check_rows(config: ConfigDict, decoder: DecoderConfig, mesh: Mesh) -> None:
    platform = platform_of(mesh)
    backend = choose_backend(config.policy.attention, platform, decoder.dtype)
    with section(config, "grpo"):
        check_row_lengths(config.grpo.buckets, backend, platform)


def decoder_of(config: ConfigDict) -> DecoderConfig:
    """Return the shape of the policy that a run would start from.

    Raises:
        ValueError: its model is neither here nor known, or made for shorter texts.
    """
    model = config.policy.path
    if model.startswith(PREFIX) or (not model and config.warm_start.recipe):
        model = str(build.policy_directory(config))
    try:
        decoder = replace(find_shape(model), dtype=config.policy.dtype)
    except ValueError as error:
        raise ValueError(
            f"config.policy.path={model!r} gives no shape: {error}"
        ) from error
    build.check_length(config, decoder, model)
    return decoder


def _rollout(config: ConfigDict, decoder: DecoderConfig, mesh: Mesh) -> MemoryPhase:
    """Compile what samples, on the devices of one process."""
    host = _first_host(mesh, config.mesh.topology)
    # Of one device, a mesh of one: it says which, for a topology.
    own = engine_mesh(host, decoder, host.devices.flat[0].process_index) or host
    params = abstract(own, _cast(abstract_params(decoder), decoder.dtype))
    options = build.engine_options(config, platform_of(mesh), row_shards(own))
    cache, calls = abstract_calls(decoder, params, **options)
    return MemoryPhase(
        "rollout",
        {
            "engine's parameters": _bytes(params),
            "engine's keys and values": _bytes(cache),
        },
        [_compile(own, n, program, *args) for n, (program, args) in calls.items()],
    )


def _update(
    config: ConfigDict,
    decoder: DecoderConfig,
    mesh: Mesh,
    tx: optax.GradientTransformation,
    state: TrainState,
    rows: int,
    length: int,
    frozen: Adapted | None,
) -> MemoryPhase:
    """Compile what trains."""
    logprob_fn = build.make_logprob_fn(config, decoder, mesh)
    score_fn = build.make_score_fn(config, decoder, mesh)
    loss_fn = make_loss(score_fn, **build.loss_options(config))
    accumulate, apply = make_programs(loss_fn, tx)
    params = state.params
    in_loss = bool(config.grpo.kl_coef) and config.grpo.kl_in == "loss"
    batch = _abstract_batch(mesh, rows, length, in_loss)
    programs = [
        _compile(
            mesh,
            "gradients of a micro-batch",
            *(accumulate, params, params, batch, frozen),
        ),
        _compile(mesh, "optimiser step", apply, state, params),
    ]
    if config.grpo.kl_coef:
        forward = make_forward(logprob_fn)
        serving = frozen or abstract(mesh, _cast(params, decoder.dtype))
        programs.append(_compile(mesh, "reference", forward, serving, batch.packed))
    return MemoryPhase("update", {"gradients": _bytes(params)}, programs)


def _at_once(rollout: MemoryPhase, update: MemoryPhase) -> MemoryPhase:
    """Join the phases of a run with `rollout.overlap`; a device runs one program."""
    return MemoryPhase(
        "rollout beside the update",
        {**rollout.arrays, **update.arrays},
        [*rollout.programs, *update.programs],
    )


def model_flops(decoder: DecoderConfig, rows: int, length: int) -> float:
    """Count FLOPs of forward and backward of full rows, without recomputation.

    6 per token and weight of a matrix; attention is causal, 6 per pair of tokens and
    channel of all heads.
    """
    shapes = jax.tree_util.tree_leaves_with_path(abstract_params(decoder))
    matrices = sum(
        leaf.size for path, leaf in shapes if path[-1].key == "kernel"
    ) + decoder.tie_word_embeddings * (decoder.vocab_size * decoder.hidden_size)
    channels = decoder.num_attention_heads * decoder.head_dim
    pairs = decoder.num_hidden_layers * length * channels
    return 6.0 * rows * length * (matrices + pairs)


def _mesh(config: ConfigDict) -> Mesh:
    """Return a mesh, of one device too, of the topology or of what is here."""
    devices: Sequence[Any] = jax.devices()
    if name := config.mesh.topology:
        devices = _topology(name)
    try:
        sizes = mesh_sizes([config.mesh[axis] for axis in AXES], len(devices))
    except ValueError as error:
        raise ValueError(f"config.{error}") from error
    auto = (AxisType.Auto,) * len(AXES)
    chosen = devices[: math.prod(sizes)]
    try:
        return jax.make_mesh(sizes, AXES, axis_types=auto, devices=chosen)
    except NotImplementedError as error:
        raise ValueError(
            f"config.mesh={sizes} cannot be laid out on {name or 'these devices'}: "
            f"{error}"
        ) from error


def _topology(name: str) -> list[Any]:
    if card_of(name):
        try:
            return gpus(name)
        except ValueError as error:
            raise ValueError(f"config.mesh.{error}") from error
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"config.mesh.topology={name!r} needs libtpu, if it is of TPUs: pip "
            "install '.[tpu]'. The GPUs that are known are "
            f"{', '.join(CARDS)}, as in h100:8"
        )
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # ask no cloud where we are
    from jax.experimental import topologies  # noqa: PLC0415

    try:
        return list(topologies.get_topology_desc(name, platform="tpu").devices)
    except Exception as error:  # libtpu raises several kinds
        raise ValueError(
            f"config.mesh.topology={name!r}: {error}. Names are like v5e:4x4, "
            "v5p:2x2x2 or v6e:2x4, of GPUs like h100:8 or h200:1"
        ) from error


def _first_host(mesh: Mesh, topology: str) -> Mesh:
    """Return a mesh of the devices of one process.

    Of a topology, it is one of that host alone: libtpu numbers the devices of a program
    from 0 on, and those of a host need not be the first of a larger topology.
    """
    first = mesh.devices.flat[0].process_index
    devices = devices_of(mesh, first)
    if card_of(topology):
        devices = gpus_of_a_host(topology, len(devices))
    elif topology:
        bounds = np.ptp([device.coords for device in devices], axis=0) + 1
        generation, _, sizes = topology.partition(":")
        shape = "x".join(str(n) for n in bounds[: len(sizes.split("x"))])
        devices = _topology(f"{generation}:{shape}")
    return Mesh(np.reshape(devices, (1, -1, 1)), AXES)


def _abstract_batch(mesh: Mesh, rows: int, length: int, reference: bool) -> GrpoBatch:
    place = NamedSharding(mesh, P(ROWS))

    def array(dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((rows, length), dtype, sharding=place)

    floats = array(jnp.float32)
    packed = PackedBatch(**{n: array(t) for n, t in field_dtypes().items()})
    return GrpoBatch(packed, floats, floats, floats, floats if reference else None)


def _cast(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), params)


def _bytes(tree: Any) -> int:
    """Sum what one device holds of arrays with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _compile(mesh: Mesh, name: str, program: Any, *arguments: Any) -> Program:
    started = time.perf_counter()
    lowered = program.lower(*arguments)
    lines = lowered.as_text().count("\n")
    try:
        with activity(f"compiling: {name}"):
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = _REFUSAL.search(str(error))
        if refusal is None:
            raise
        seconds = time.perf_counter() - started
        size = _bytes(arguments)
        beside = int(float(refusal[1]) * _UNITS[refusal[2]]) - size
        return Program(name, size, beside, 0, None, lines, seconds)
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    new = memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporary = memory.temp_size_in_bytes
    if platform_of(mesh) == "tpu":
        # There it is more than ever lies in memory at a time. The compiler refuses
        # programs by their peak, which elsewhere leaves temporary arrays out.
        beside = memory.peak_memory_in_bytes - memory.argument_size_in_bytes
        temporary = max(beside - new, 0)
    return Program(
        name,
        memory.argument_size_in_bytes,
        temporary,
        new,
        dict(collections.Counter(_collectives(compiled.as_text()))),
        lines,
        seconds,
    )


def _collectives(text: str) -> Iterator[str]:
    for match in _COLLECTIVE.finditer(text):
        yield match[1]
