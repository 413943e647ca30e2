"""Shape of a decoder, under the names of Hugging Face's `config.json`."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reskill_jax.policy.ops.rope import (
    Scaling,
    is_positive,
    read_scaling,
    write_scaling,
)
from reskill_jax.storage import read_json

_ARCHITECTURES = {
    "qwen3": "Qwen3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "llama": "LlamaForCausalLM",
}


@dataclass(frozen=True)
class DecoderConfig:
    """A dense decoder: RMSNorm, RoPE, grouped-query attention, SwiGLU.

    Attributes:
        vocab_size: V, rows of the embedding.
        hidden_size: D.
        intermediate_size: F, of the gated feed-forward block.
        num_hidden_layers: L.
        num_attention_heads: N.
        num_key_value_heads: K, divides N.
        head_dim: H, even.
        rope_theta: base of the rotary frequencies.
        rope_scaling: how the frequencies are scaled, if they are.
        rms_norm_eps: added to the mean square.
        tie_word_embeddings: whether the embedding is the output projection too.
        attention_bias: whether the four projections of attention have a bias; not a
            choice for qwen2, whose queries, keys and values always do.
        max_position_embeddings: longest sequence the weights are meant for.
        model_type: the Hugging Face family: qwen3, qwen2 (2.5 too) or llama.
        dtype: compute dtype; parameters are float32 masters whatever it is.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float = 1e6
    rope_scaling: Scaling | None = None
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    max_position_embeddings: int = 32768
    model_type: str = "qwen3"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be computed, or that the family does not have."""
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: RoPE rotates pairs")
        if self.model_type not in _ARCHITECTURES:
            raise ValueError(
                f"model_type={self.model_type!r} is not supported: "
                f"use one of {', '.join(_ARCHITECTURES)}"
            )
        if self.model_type == "qwen2" and self.attention_bias:
            raise ValueError(
                "attention_bias=True is not for model_type='qwen2', which always has "
                "biases on queries, keys and values, and none on the output: leave it"
            )

    @property
    def qk_norm(self) -> bool:
        """Whether queries and keys are normalised per head."""
        return self.model_type == "qwen3"

    @property
    def qkv_bias(self) -> bool:
        """Whether queries, keys and values have a bias."""
        return self.attention_bias or self.model_type == "qwen2"


# Keys of config.json that are fields of DecoderConfig under the same name.
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "max_position_embeddings",
    "model_type",
)
_OPTIONAL = (
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "attention_bias",
)

# Keys that change what a model computes, with the only value that the decoder computes.
# An absent key has that value.
_FIXED: dict[str, Any] = {
    "hidden_act": "silu",
    "mlp_bias": False,
    "use_sliding_window": False,
    "attention_dropout": 0,
    "partial_rotary_factor": 1,
    "dual_chunk_attention_config": None,
    "quantization_config": None,
    "per_layer_config": None,
    "is_causal": True,
    "logit_scale": 1,  # of Llama: vLLM reads it, transformers does not
}


# What the values of keys have to be, where they are there and not null.
_WANTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "max_position_embeddings",
        ),
        ("a positive integer", lambda x: type(x) is int and x > 0),
    ),
    "rms_norm_eps": ("a positive number", is_positive),
    # Angles would not fall with their index; YaRN divides by the logarithm.
    "rope_theta": ("a number above 1", lambda x: is_positive(x) and x > 1),
    **dict.fromkeys(
        ("tie_word_embeddings", "attention_bias"),
        ("true or false", lambda x: isinstance(x, bool)),
    ),
    **dict.fromkeys(
        ("model_type", "dtype", "torch_dtype"),
        ("a string", lambda x: isinstance(x, str)),
    ),
    **dict.fromkeys(
        ("rope_parameters", "rope_scaling"),
        ("an object", lambda x: isinstance(x, dict)),
    ),
    "layer_types": (
        "a list of strings",
        lambda x: isinstance(x, list) and all(isinstance(y, str) for y in x),
    ),
}


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Return the `config.json` dict that transformers 5 reads for this decoder."""
    values = {
        "architectures": [_ARCHITECTURES[config.model_type]],
        **{key: getattr(config, key) for key in (*_REQUIRED, *_OPTIONAL)},
        "dtype": config.dtype,
        "hidden_act": "silu",
        "rope_parameters": {
            "rope_theta": config.rope_theta,
            **write_scaling(config.rope_scaling),
        },
    }
    if config.model_type == "qwen2":
        del values["attention_bias"]
    return values


def from_hf(values: dict[str, Any]) -> DecoderConfig:
    """Read a `config.json` dict, of transformers 4 or 5.

    Raises:
        ValueError: for a model type or a feature that the decoder does not compute, a
            missing key, or a value of the wrong type, by name.
    """
    _check_types(values)
    model_type = values.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise ValueError(
            f"model_type={model_type!r} is not supported: "
            f"use one of {', '.join(_ARCHITECTURES)}"
        )
    for key, computed in _FIXED.items():
        if values.get(key, computed) not in (computed, None):
            raise ValueError(
                f"{key}={values[key]!r} is not supported: use a model with "
                f"{key}={computed!r}"
            )
    other = sorted(set(values.get("layer_types") or ()) - {"full_attention"})
    if other:
        raise ValueError(
            f"layer_types has {', '.join(other)}, which is not supported: use a model "
            "whose layers are all full_attention"
        )
    # As in transformers: what model cards say to add takes the place of what is there,
    # all of it, and the base stands in it or beside it.
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    _check_types({"rope_theta": rope.get("rope_theta")})
    original = "original_max_position_embeddings"
    within, beside = rope.get(original), values.get(original)
    if None not in (within, beside) and within != beside:
        # transformers' configuration has the first, its models compute with the second.
        raise ValueError(
            f"{original} is {within!r} in the scaling of positions and {beside!r} "
            "beside it: leave out the one that is not the model's"
        )
    theta: Any = rope.get("rope_theta", values.get("rope_theta"))
    missing = [key for key in _REQUIRED if values.get(key) is None]
    missing += ["rope_theta"] if theta is None else []
    if model_type == "qwen3":  # transformers would take 128, whatever the hidden size
        missing += ["head_dim"] if values.get("head_dim") is None else []
    if missing:
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    heads = values["num_attention_heads"]
    defaults = {
        "num_key_value_heads": heads,
        "head_dim": values["hidden_size"] // heads,
        "tie_word_embeddings": False,
        "attention_bias": False,
    }
    given = {key: values[key] for key in _OPTIONAL if values.get(key) is not None}
    if model_type == "qwen2":
        given.pop("attention_bias", None)  # transformers and vLLM do not read it either
    return DecoderConfig(
        **{key: values[key] for key in _REQUIRED},
        **{**defaults, **given},
        rope_theta=theta,
        rope_scaling=read_scaling(rope),
        dtype=values.get("dtype") or values.get("torch_dtype") or "float32",
    )


def _check_types(values: dict[str, Any]) -> None:
    """Raise a ValueError unless values are of the types in `_WANTED`."""
    wrong = [
        f"{key}={values[key]!r} is not {wanted}"
        for key, (wanted, fits) in _WANTED.items()
        if values.get(key) is not None and not fits(values[key])
    ]
    if wrong:
        raise ValueError("; ".join(wrong))


def load_config(directory: Path | str) -> DecoderConfig:
    """Read `config.json` of a Hugging Face directory.

    Raises:
        FileNotFoundError: it does not exist.
        ValueError: it is damaged, or describes a decoder that is not supported.
    """
    path = Path(directory) / "config.json"
    values = read_json(path)
    try:
        return from_hf(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
