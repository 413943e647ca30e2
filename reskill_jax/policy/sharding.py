"""Where the arrays of a run live when there are several devices.

A mesh has three axes. Rows of a batch are split over `data` and `fsdp`; parameters and
optimiser state over `fsdp` and `tensor`, as the one table below says; `data` holds
copies of them. A mesh of None is one device, with programs as if there were no meshes.

Functions that compute take no mesh: it is part of the type of a sharded array, inside
programs too, and `mesh_of` reads it there.
"""

import math
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import base_of, merge_leaf

Tree = TypeVar("Tree")
AnyMesh = Mesh | AbstractMesh  # the latter within programs

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # what the first axis of a batch is split over
VOCABULARY = ("tensor", "fsdp")  # and the last one of logits in training

# Path of a parameter -> its axes. Optimisers keep arrays under the same paths.
_TABLE = (
    (r"embed/embedding", P("tensor", "fsdp")),  # [V, D]
    (r"lm_head/kernel", P("fsdp", "tensor")),  # [D, V]
    (r"norm/scale", P()),  # [D]
    (r"layers/(attention|mlp)_norm/scale", P()),  # [L, D]
    (r"layers/attention/(query|key)_norm/scale", P()),  # [L, H]
    (r"layers/attention/(query|key|value)/kernel", P(None, "fsdp", "tensor")),
    (r"layers/attention/(query|key|value)/bias", P(None, "tensor")),  # [L, N, H]
    (r"layers/attention/out/kernel", P(None, "tensor", None, "fsdp")),  # [L, N, H, D]
    (r"layers/attention/out/bias", P()),  # [L, D]
    (r"layers/mlp/(gate|up)/kernel", P(None, "fsdp", "tensor")),  # [L, D, F]
    (r"layers/mlp/down/kernel", P(None, "tensor", "fsdp")),  # [L, F, D]
    (r"layers/(attention/(query|key|value)|mlp/(gate|up))/lora_a", P(None, "fsdp")),
    (
        r"layers/(attention/(query|key|value)|mlp/(gate|up))/lora_b",  # [L, r, N or F]
        P(None, None, "tensor"),
    ),
    (r"layers/(attention/out|mlp/down)/lora_a", P(None, "tensor")),  # [L, N or F, .. r]
    (r"layers/(attention/out|mlp/down)/lora_b", P(None, None, "fsdp")),  # [L, r, D]
)


def make_mesh(
    shape: Sequence[int], devices: Sequence[jax.Device] | None = None
) -> Mesh | None:
    """Arrange devices; None for one device.

    Args:
        shape: sizes of `AXES`; one of them may be -1 for whatever is left.
        devices: all of them by default. With fewer asked for, the first are taken.

    Raises:
        ValueError: if the shape does not fit the devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = mesh_sizes(shape, len(devices))
    count = math.prod(sizes)
    if jax.process_count() > 1 and count < len(devices):
        raise ValueError(
            f"mesh={_show(shape)} takes {count} of {len(devices)} devices, but "
            "every process has to take part with all of its own: raise one axis, or "
            "set it to -1"
        )
    if count == 1:
        return None
    return jax.make_mesh(
        sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:count]
    )


def mesh_sizes(shape: Sequence[int], count: int) -> tuple[int, ...]:
    """Replace the -1 in the shape of a mesh of at most `count` devices.

    Raises:
        ValueError: no size fits, or there are several -1.
    """
    known = math.prod(size for size in shape if size != -1)
    free = list(shape).count(-1)
    if free > 1 or known < 1:
        raise ValueError(
            f"mesh={_show(shape)}: give sizes of 1 or more, and -1 at most once"
        )
    if known > count or (free and count % known):
        raise ValueError(
            f"mesh={_show(shape)} does not fit {count} devices: the sizes "
            f"multiply to {known}. Choose others; on a CPU, "
            "XLA_FLAGS=--xla_force_host_platform_device_count=N simulates devices"
        )
    return tuple(count // known if size == -1 else size for size in shape)


def engine_mesh(
    mesh: Mesh | None, config: DecoderConfig, process: int | None = None
) -> Mesh | None:
    """Arrange the devices of one process for sampling; None for one device.

    Sampling reads all weights for every token, so the heads are split over as many
    devices as possible; what is left over takes copies and a part of the rows.

    Args:
        mesh: the devices of training.
        config: the decoder's shape.
        process: whose devices; this one's by default.
    """
    if mesh is None:
        return None
    process = jax.process_index() if process is None else process
    devices = devices_of(mesh, process)
    return None if len(devices) == 1 else _auto(_arrange(devices, config), AXES)


def devices_of(mesh: Mesh, process: int) -> list[jax.Device]:
    """Return the devices of a mesh that belong to one process, in its order."""
    return [device for device in mesh.devices.flat if device.process_index == process]


def _auto(devices: np.ndarray, axes: tuple[str, ...]) -> Mesh:
    return Mesh(devices, axes, axis_types=(AxisType.Auto,) * len(axes))


def _arrange(devices: Sequence[jax.Device], config: DecoderConfig) -> np.ndarray:
    tensor = math.gcd(
        len(devices),
        config.num_key_value_heads,
        config.intermediate_size,
        config.vocab_size,
    )
    return np.array(devices).reshape(-1, 1, tensor)


def copy_to_engine(params: Any, config: DecoderConfig, mesh: Mesh | None) -> Any:
    """Copy parameters, in the compute dtype, to where this process samples.

    All processes do this together, and each gets all parameters.

    Args:
        params: on the devices of training, or anywhere on this process's; adapters
            are merged, one parameter at a time.
        config: the decoder's shape.
        mesh: of `engine_mesh`.
    """

    def copy(path: Any, x: Any) -> jax.Array:
        x = jnp.array(merge_leaf(params, path, x), config.dtype, copy=True)
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        place = None if mesh is None else parameter_sharding(mesh, name, x.shape)
        if x.is_fully_addressable:
            return x if place is None else jax.device_put(x, place)
        parts = [
            _arrange(devices_of(x.sharding.mesh, process), config)
            for process in range(jax.process_count())
        ]
        by_process = _auto(np.stack(parts), ("process", *AXES))
        x = jax.device_put(x, parameter_sharding(by_process, name, x.shape))
        pieces = [shard.data for shard in x.addressable_shards]
        if place is None:
            return pieces[0]
        return jax.make_array_from_single_device_arrays(x.shape, place, pieces)

    return jax.tree_util.tree_map_with_path(copy, base_of(params))


def mesh_of(tree: Any) -> AnyMesh | None:
    """Return the mesh that arrays are on; None for one device.

    Args:
        tree: arrays, abstract or not. Inside a program, an array has the mesh of what
            it is computed from, and one that is made there has none.

    Returns:
        Within a program an abstract mesh, which knows sizes and platform, no devices.
    """
    for x in jax.tree.leaves(tree):
        traced = isinstance(x, jax.core.Tracer)
        sharding = jax.typeof(x).sharding if traced else getattr(x, "sharding", None)
        if isinstance(sharding, NamedSharding) and not sharding.mesh.empty:
            return sharding.mesh
    return None


def platform_of(mesh: AnyMesh | None) -> str:
    """Return what the devices are: cpu, gpu or tpu."""
    if mesh is None:
        return jax.devices()[0].platform
    return mesh.abstract_mesh.abstract_device.platform


def row_shards(mesh: AnyMesh | None) -> int:
    """Return over how many parts of the mesh the rows of a batch are split."""
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in ROWS)


def parameter_sharding(
    mesh: AnyMesh,
    path: str,
    shape: tuple[int, ...],
    *,
    memory_kind: str | None = None,
) -> NamedSharding:
    """Look up where a parameter lives, or an array that an optimiser keeps for it.

    Args:
        mesh: the devices.
        path: keys joined by slashes; the table knows how it ends. Scalars have copies
            everywhere whatever their path.
        shape: of the array.
        memory_kind: of the devices; their default one if None.

    Raises:
        ValueError: if the table does not know it, or an axis cannot be split evenly.
    """
    if not shape:
        return NamedSharding(mesh, P(), memory_kind=memory_kind)
    rows = (spec for row, spec in _TABLE if re.search(rf"(^|/){row}$", path))
    if (spec := next(rows, None)) is None:
        raise ValueError(
            f"the parameter {path!r} {list(shape)} has no row in policy/sharding.py's "
            "table: add one that says how to split it"
        )
    for axis, name in enumerate(tuple(spec)):
        if name is not None and shape[axis] % mesh.shape[name]:
            raise ValueError(
                f"the parameter {path!r} {list(shape)} cannot be split: its axis "
                f"{axis} of {shape[axis]} is not a multiple of the mesh's {name}="
                f"{mesh.shape[name]}; choose a divisor"
            )
    return NamedSharding(mesh, spec, memory_kind=memory_kind)


def parameter_shardings(
    mesh: AnyMesh, tree: Any, *, memory_kind: str | None = None
) -> Any:
    """Map `parameter_sharding` over arrays, abstract or not: a tree like theirs."""

    def look_up(path: Any, leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return parameter_sharding(mesh, name, leaf.shape, memory_kind=memory_kind)

    return jax.tree_util.tree_map_with_path(look_up, tree)


def abstract(mesh: AnyMesh | None, tree: Any) -> Any:
    """Describe parameters or optimiser state as `ShapeDtypeStruct`s with shardings."""
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        tree,
        parameter_shardings(mesh, tree),
    )


def constrain_parameters(tree: Tree) -> Tree:
    """Tell the compiler where parameters, gradients or optimiser state live."""
    if (mesh := mesh_of(tree)) is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, parameter_shardings(mesh, tree))


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
    """Tell the compiler how the axes of `x` are split; those not named are not."""
    if (mesh := mesh_of(x)) is None:
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))


def move(tree: Tree, memory: str) -> Tree:
    """Copy arrays to another memory of their devices: device, or pinned_host."""
    places = jax.tree.map(lambda x: x.sharding.with_memory_kind(memory), tree)
    return jax.device_put(tree, places)


def put_rows(mesh: AnyMesh | None, batch: Tree) -> Tree:
    """Split host arrays [R, ...] over a mesh by rows; what is on it already stays.

    Every process has the whole batch and uploads the rows of its own devices.
    """
    if mesh is None:
        return batch
    sharding = NamedSharding(mesh, P(ROWS))

    def put(x: Any) -> jax.Array:
        if isinstance(x, jax.Array):
            return x
        return jax.make_array_from_process_local_data(sharding, x, x.shape)

    return jax.tree.map(put, batch)


def _show(shape: Sequence[int]) -> str:
    return "{" + ", ".join(f"{a}={n}" for a, n in zip(AXES, shape, strict=True)) + "}"
