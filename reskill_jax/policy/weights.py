"""Parameters to and from a Hugging Face directory, tensor by tensor.

`save` writes what transformers reads, by default in float32: what `load` returns is
bitwise what was saved. `load` passes the tensors to a placement function: `on_host`, by
default, or `on_mesh(mesh)`. Host memory holds one tensor at a time beside the target.
`device_tensors` makes the tensors that `save` writes on the devices of the parameters.

Tensors that are split over the devices of several processes are made whole by all of
them together: all save the same ones, in the same order, each into its own directory.
"""

import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.decoder import Params, abstract_params
from reskill_jax.policy.decoder_config import DecoderConfig, load_config, to_hf
from reskill_jax.policy.safetensors_io import (
    Stored,
    Tensor,
    open_tensors,
    write_tensors,
)
from reskill_jax.policy.sharding import mesh_of, parameter_sharding

# Pieces of a parameter as they are read: the index on its leading axis L (None for the
# whole of a parameter without that axis) and the array, in our layout and the file's
# dtype.
Pieces = Iterator[tuple[int | None, np.ndarray]]
# (keys into the parameters, its shape and dtype, pieces) -> the parameter
Place = Callable[[tuple[str, ...], jax.ShapeDtypeStruct, Pieces], Any]

_SHARD_BYTES = 5 * 10**9

# Our path -> Hugging Face's name; under `layers`, relative to `model.layers.{i}.`.
_MODEL = {
    "embed.embedding": "model.embed_tokens.weight",
    "norm.scale": "model.norm.weight",
    "lm_head.kernel": "lm_head.weight",
}
_LAYER = {
    "attention_norm.scale": "input_layernorm.weight",
    "attention.query.kernel": "self_attn.q_proj.weight",
    "attention.key.kernel": "self_attn.k_proj.weight",
    "attention.value.kernel": "self_attn.v_proj.weight",
    "attention.out.kernel": "self_attn.o_proj.weight",
    "attention.query.bias": "self_attn.q_proj.bias",
    "attention.key.bias": "self_attn.k_proj.bias",
    "attention.value.bias": "self_attn.v_proj.bias",
    "attention.out.bias": "self_attn.o_proj.bias",
    "attention.query_norm.scale": "self_attn.q_norm.weight",
    "attention.key_norm.scale": "self_attn.k_norm.weight",
    "mlp_norm.scale": "post_attention_layernorm.weight",
    "mlp.gate.kernel": "mlp.gate_proj.weight",
    "mlp.up.kernel": "mlp.up_proj.weight",
    "mlp.down.kernel": "mlp.down_proj.weight",
}


class _Entry(NamedTuple):
    """One tensor of a Hugging Face file.

    Attributes:
        name: in the file.
        shape: in the file.
        layer: index on the leading axis of our array, None if it has no such axis.
        transposed: whether our array is [in, out] and the file's [out, in].
    """

    name: str
    shape: tuple[int, ...]
    layer: int | None
    transposed: bool


def save(
    directory: Path | str,
    config: DecoderConfig,
    params: Params,
    *,
    dtype: str = "float32",
    shard_bytes: int = _SHARD_BYTES,
) -> None:
    """Write `config.json` and the weights, one tensor in host memory at a time.

    Args:
        directory: made if missing.
        config: the decoder's shape.
        params: its parameters, jax or numpy arrays.
        dtype: type in the files; bfloat16 rounds to the nearest.
        shard_bytes: size above which there are several files and an index.

    Raises:
        ValueError: `directory` holds files of other weights.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(to_hf(config), indent=2) + "\n"
    (directory / "config.json").write_text(text)
    tensors = _tensors(config, params, functools.partial(_fetch, dtype))
    write_tensors(directory, tensors, dtype=dtype, shard_bytes=shard_bytes)


def device_tensors(config: DecoderConfig, params: Params) -> list[Tensor]:
    """Return the tensors that `save` writes, in its order, to be made on devices.

    Args:
        config: the decoder's shape, and the tensors' dtype.
        params: its parameters; every device that they are on gets every tensor whole.
    """
    mesh = mesh_of(params)
    place = None if mesh is None else NamedSharding(mesh, P())

    def make(leaf: Any, entry: _Entry) -> jax.Array:
        return _convert(
            leaf, entry.layer, entry.shape, entry.transposed, config.dtype, place
        )

    return _tensors(config, params, make)


def manifest(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all tensors that `save` writes, by name, in its order."""
    return {entry.name: entry.shape for _, entry in _ordered(config)}


def on_host(
    path: tuple[str, ...], abstract: jax.ShapeDtypeStruct, pieces: Pieces
) -> np.ndarray:
    """Collect a parameter in host memory."""
    del path
    whole = np.empty(abstract.shape, abstract.dtype)
    for layer, piece in pieces:
        whole[... if layer is None else layer] = piece
    return whole


def on_mesh(mesh: Mesh | None) -> Place:
    """Return the placement of parameters on devices as `sharding` splits them.

    Every piece is uploaded by itself, to each device its own part: no device holds a
    whole parameter, unless the mesh is None.
    """

    def place(
        path: tuple[str, ...], abstract: jax.ShapeDtypeStruct, pieces: Pieces
    ) -> jax.Array:
        if mesh is None:
            return jnp.array(on_host(path, abstract, pieces))
        target = parameter_sharding(mesh, "/".join(path), abstract.shape)
        if path[0] != "layers":
            ((_, piece),) = pieces
            return _upload(piece, abstract.dtype, target)
        whole = jnp.zeros(abstract.shape, abstract.dtype, device=target)
        of_layer = NamedSharding(mesh, P(*tuple(target.spec)[1:]))
        for layer, piece in pieces:
            part = _upload(piece, abstract.dtype, of_layer)
            whole = _insert(target, whole, part, layer)
        return whole

    return place


def _upload(piece: np.ndarray, dtype: Any, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(
        piece.shape, sharding, lambda index: np.asarray(piece[index], dtype)
    )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=1)
def _insert(
    place: NamedSharding, whole: jax.Array, part: jax.Array, layer: int
) -> jax.Array:
    whole = jax.lax.dynamic_update_index_in_dim(whole, part, layer, 0)
    return jax.lax.with_sharding_constraint(whole, place)


def load(directory: Path | str, place: Place = on_host) -> tuple[DecoderConfig, Params]:
    """Read what `save` or transformers wrote.

    Args:
        directory: holds config.json and one or several safetensors files.
        place: makes each parameter from its pieces; float32 numpy arrays by default.

    Raises:
        FileNotFoundError: config.json or a file with weights is not there.
        ValueError: the config is of a decoder that is not supported; or a file is
            corrupt; or tensors are missing, surplus, or of a wrong shape or type. The
            message names them all, and nothing has been placed then. Or a tensor holds
            a number that is not finite.
    """
    config = load_config(directory)
    with open_tensors(directory) as stored:
        _check(directory, config, stored)
        params: Params = {}
        for path, leaf in _leaves(config):
            entries = _entries(config, path, leaf)
            pieces = (_piece(stored[e.name], e, leaf) for e in entries)
            *parents, last = path
            node = functools.reduce(
                lambda x, key: x.setdefault(key, {}), parents, params
            )
            node[last] = place(path, leaf, pieces)
    return config, params


def _check(
    directory: Path | str, config: DecoderConfig, stored: dict[str, Stored]
) -> None:
    """Raise unless the tensors are those of the config."""
    expected = manifest(config)
    # Frequencies follow from the config. Files of older versions of transformers hold
    # them, and newer ones skip them.
    derived = {
        f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        for layer in range(config.num_hidden_layers)
    }
    surplus = stored.keys() - expected.keys() - derived
    output, embedding = _MODEL["lm_head.kernel"], _MODEL["embed.embedding"]
    problems = [f"{name} is missing" for name in sorted(expected.keys() - stored)]
    if config.tie_word_embeddings and output in surplus and embedding in stored:
        surplus.remove(output)  # some files repeat the tied embedding
        if not _equal(stored[output], stored[embedding]):
            problems.append(
                f"{output} is not {embedding}, though tie_word_embeddings is true"
            )
    problems += [f"{name} is surplus" for name in sorted(surplus)]
    problems += [
        f"{name} is {stored[name].shape}, not {shape}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    if problems:
        raise ValueError(
            f"the tensors of {directory} do not fit its config.json: "
            f"{'; '.join(problems)}"
        )


def _equal(a: Stored, b: Stored) -> bool:
    return a.shape == b.shape and np.array_equal(a.read(), b.read())


def _piece(
    stored: Stored, entry: _Entry, leaf: jax.ShapeDtypeStruct
) -> tuple[int | None, np.ndarray]:
    """Read a tensor as a view in our layout."""
    x = stored.read()
    if not np.isfinite(x).all():
        raise ValueError(
            f"{entry.name} holds numbers that are not finite: the file is damaged, or "
            "of a training that failed"
        )
    x = x.T if entry.transposed else x
    return entry.layer, x.reshape(leaf.shape[0 if entry.layer is None else 1 :])


def _fetch(dtype: str, leaf: Any, entry: _Entry) -> np.ndarray:
    """Bring one tensor to the host, in the file's layout.

    Parts that other processes hold come over the network, so in the file's dtype.
    """
    if not (isinstance(leaf, np.ndarray) or leaf.is_fully_addressable):
        place = NamedSharding(leaf.sharding.mesh, P())
        return np.asarray(
            _convert(leaf, entry.layer, entry.shape, entry.transposed, dtype, place)
        )
    if entry.layer is None:
        x = np.asarray(leaf)
    elif isinstance(leaf, np.ndarray):
        x = leaf[entry.layer]
    else:
        x = np.asarray(_layer(leaf, entry.layer))
    return _arrange(x, entry.shape, entry.transposed)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _convert(
    leaf: jax.Array,
    layer: int | None,
    shape: tuple[int, ...],
    transposed: bool,
    dtype: str,
    place: NamedSharding | None,
) -> jax.Array:
    """Make one tensor on devices, in the file's layout; one program for all layers."""
    x = leaf if layer is None else _layer(leaf, layer)
    x = _arrange(x, shape, transposed).astype(dtype)
    return x if place is None else jax.lax.with_sharding_constraint(x, place)


def _arrange(x: Any, shape: tuple[int, ...], transposed: bool) -> Any:
    """Turn an array of numpy or jax from our layout into the file's."""
    x = x.reshape(shape[::-1] if transposed else shape)
    return x.T if transposed else x


@jax.jit
def _layer(leaf: jax.Array, layer: int) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False)


def _tensors(
    config: DecoderConfig, params: Params, make: Callable[[Any, _Entry], Any]
) -> list[Tensor]:
    """List the tensors of parameters, each made when it is needed."""
    return [
        Tensor(
            entry.name,
            entry.shape,
            functools.partial(make, _leaf(params, path), entry),
        )
        for path, entry in _ordered(config)
    ]


@functools.cache
def _ordered(config: DecoderConfig) -> list[tuple[tuple[str, ...], _Entry]]:
    """List all tensors of a file, with the paths of the parameters that hold them.

    Those of a layer are adjacent, since readers build one layer after the other.
    """

    def place(pair: tuple[tuple[str, ...], _Entry]) -> int:
        path, entry = pair
        if entry.layer is not None:
            return entry.layer
        return -1 if path[0] == "embed" else config.num_hidden_layers

    pairs = [
        (path, entry)
        for path, leaf in _leaves(config)
        for entry in _entries(config, path, leaf)
    ]
    return sorted(pairs, key=place)


@functools.cache
def _leaves(
    config: DecoderConfig,
) -> list[tuple[tuple[str, ...], jax.ShapeDtypeStruct]]:
    """List every parameter."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(abstract_params(config))
    return [(tuple(key.key for key in keys), leaf) for keys, leaf in leaves]


def _entries(
    config: DecoderConfig, path: tuple[str, ...], leaf: jax.ShapeDtypeStruct
) -> Iterator[_Entry]:
    """Yield the tensors in which a file holds a parameter."""
    if path[0] != "layers":
        yield _Entry(_MODEL[".".join(path)], *_flat(path, leaf.shape, None))
        return
    for layer in range(config.num_hidden_layers):
        name = f"model.layers.{layer}.{_LAYER['.'.join(path[1:])]}"
        yield _Entry(name, *_flat(path, leaf.shape[1:], layer))


def _flat(
    path: tuple[str, ...], shape: tuple[int, ...], layer: int | None
) -> tuple[tuple[int, ...], int | None, bool]:
    """Return shape, layer and transposition of a file's tensor, see `_Entry`."""
    if path[-1] == "bias":
        return (math.prod(shape),), layer, False
    if path[-1] != "kernel":
        return shape, layer, False
    inputs = 2 if path[-2] == "out" else 1  # [N, H, D] against [D, N, H] and [D, F]
    return (math.prod(shape[inputs:]), math.prod(shape[:inputs])), layer, True


def _leaf(params: Params, path: tuple[str, ...]) -> Any:
    for key in path:
        params = params[key]
    return params
