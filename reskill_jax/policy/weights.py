"""Parameters to and from a Hugging Face directory, under Qwen3's names.

`save` writes `config.json` and `model.safetensors` as transformers reads them, in
float32: what `load` returns is bitwise what was saved.
"""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from reskill_jax.policy.config import DecoderConfig, load_config, to_hf
from reskill_jax.policy.decoder import Params, abstract_params

_FILE = "model.safetensors"

# Our path -> their name; under `layers`, relative to `model.layers.{i}.`.
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


class _Tensor(NamedTuple):
    """One tensor of theirs.

    Attributes:
        name: in the file.
        shape: in the file.
        path: keys into our parameters.
        layer: index on the leading axis of our array, None if it has no such axis.
        transposed: whether ours is [in, out] and theirs [out, in].
    """

    name: str
    shape: tuple[int, ...]
    path: tuple[str, ...]
    layer: int | None
    transposed: bool


def save(directory: Path | str, config: DecoderConfig, params: Params) -> None:
    """Write `config.json` and `model.safetensors`; the latter appears whole or not."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = jax.device_get(params)
    tensors = {}
    for tensor in _tensors(config):
        x = _leaf(arrays, tensor.path)
        x = x if tensor.layer is None else x[tensor.layer]
        shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
        x = x.reshape(shape)
        tensors[tensor.name] = np.ascontiguousarray(x.T if tensor.transposed else x)
    text = json.dumps(to_hf(config), indent=2) + "\n"
    (directory / "config.json").write_text(text)
    partial = directory / f"{_FILE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    os.replace(partial, directory / _FILE)


def load(directory: Path | str) -> tuple[DecoderConfig, Params]:
    """Read what `save` or transformers wrote; parameters are float32 numpy arrays.

    Raises:
        FileNotFoundError: if `config.json` or `model.safetensors` is not there.
        ValueError: if the file is corrupt, or names of tensors are missing or surplus,
            or a shape is not the config's; the message names them.
    """
    config = load_config(directory)
    path = Path(directory) / _FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            return config, _read(path, file, config)
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt: {error}") from error


def _read(path: Path, file: safe_open, config: DecoderConfig) -> Params:
    tensors = list(_tensors(config))
    expected, found = {tensor.name for tensor in tensors}, set(file.keys())
    if config.tie_word_embeddings:
        found -= {"lm_head.weight"}  # some files repeat the tied embedding
    problems = [f"{name} is missing" for name in sorted(expected - found)]
    problems += [f"{name} is surplus" for name in sorted(found - expected)]
    for tensor in tensors:
        if tensor.name in found:
            shape = tuple(file.get_slice(tensor.name).get_shape())
            if shape != tensor.shape:
                problems.append(f"{tensor.name} is {shape}, not {tensor.shape}")
    if problems:
        raise ValueError(f"{path} does not fit its config.json: {'; '.join(problems)}")
    params = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), abstract_params(config))
    for tensor in tensors:
        x = file.get_tensor(tensor.name).astype(np.float32)
        target = _leaf(params, tensor.path)
        target = target if tensor.layer is None else target[tensor.layer]
        target[...] = (x.T if tensor.transposed else x).reshape(target.shape)
    return params


def _tensors(config: DecoderConfig) -> Iterator[_Tensor]:
    """Yield every tensor that the file of a decoder holds."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(abstract_params(config))
    for keys, leaf in leaves:
        path = tuple(key.key for key in keys)
        if path[0] != "layers":
            name = _MODEL[".".join(path)]
            yield _Tensor(name, *_flat(path, leaf.shape, None))
            continue
        for layer in range(config.num_hidden_layers):
            name = f"model.layers.{layer}.{_LAYER['.'.join(path[1:])]}"
            yield _Tensor(name, *_flat(path, leaf.shape[1:], layer))


def _flat(
    path: tuple[str, ...], shape: tuple[int, ...], layer: int | None
) -> tuple[tuple[int, ...], tuple[str, ...], int | None, bool]:
    """Return their shape, our path, the layer, and whether theirs is transposed."""
    if path[-1] == "bias":
        return (math.prod(shape),), path, layer, False
    if path[-1] != "kernel":
        return shape, path, layer, False
    inputs = 2 if path[-2] == "out" else 1  # [N, H, D] against [D, N, H] and [D, F]
    flat = (math.prod(shape[inputs:]), math.prod(shape[:inputs]))
    return flat, path, layer, True


def _leaf(params: Params, path: tuple[str, ...]) -> np.ndarray:
    for key in path:
        params = params[key]
    return params  # type: ignore[return-value]
