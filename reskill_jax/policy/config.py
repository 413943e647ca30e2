"""Shape of a decoder, under the names of Hugging Face's `config.json`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM"}


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
        rms_norm_eps: added to the mean square.
        tie_word_embeddings: whether the embedding is the output projection too.
        attention_bias: whether the projections of attention have a bias.
        qk_norm: whether queries and keys are normalised per head (Qwen3).
        max_position_embeddings: longest sequence the weights are meant for.
        model_type: the Hugging Face family that the weights are written as.
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
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    attention_bias: bool = False
    qk_norm: bool = True
    max_position_embeddings: int = 32768
    model_type: str = "qwen3"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be computed."""
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
                f"use one of {sorted(_ARCHITECTURES)}"
            )


# Keys of config.json that are fields of DecoderConfig under the same name.
_SAME = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "tie_word_embeddings",
    "attention_bias",
    "max_position_embeddings",
    "model_type",
)


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """Return the `config.json` dict that transformers 5 reads for this decoder."""
    return {
        "architectures": [_ARCHITECTURES[config.model_type]],
        **{key: getattr(config, key) for key in _SAME},
        "dtype": config.dtype,
        "hidden_act": "silu",
        "rope_parameters": {"rope_theta": config.rope_theta, "rope_type": "default"},
    }


def from_hf(values: dict[str, Any]) -> DecoderConfig:
    """Read a `config.json` dict, of transformers 4 or 5.

    Raises:
        ValueError: for a model type, activation, rotary scaling or sliding window that
            the decoder does not compute, or a missing key, by name.
    """
    model_type = values.get("model_type")
    if model_type not in _ARCHITECTURES:
        raise ValueError(
            f"model_type={model_type!r} is not supported: "
            f"use one of {sorted(_ARCHITECTURES)}"
        )
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    unsupported = {
        "hidden_act": values.get("hidden_act", "silu") != "silu",
        "rope_parameters": rope_type != "default",
        "use_sliding_window": bool(values.get("use_sliding_window", False)),
    }
    for key, refused in unsupported.items():
        if refused:
            raise ValueError(f"{key}={values.get(key)!r} is not supported")
    required = {key for key in _SAME if key not in ("attention_bias",)}
    missing = sorted(key for key in required if key not in values)
    theta = rope.get("rope_theta", values.get("rope_theta"))
    if missing or theta is None:
        missing += ["rope_theta"] if theta is None else []
        raise ValueError(f"config.json lacks {', '.join(missing)}")
    dtype = values.get("dtype") or values.get("torch_dtype") or "float32"
    same = {key: values[key] for key in _SAME if key in values}
    return DecoderConfig(**same, rope_theta=theta, dtype=dtype, qk_norm=True)


def load_config(directory: Path | str) -> DecoderConfig:
    """Read `config.json` of a Hugging Face directory."""
    path = Path(directory) / "config.json"
    try:
        values = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    try:
        return from_hf(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
