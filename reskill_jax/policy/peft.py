"""Adapters as a directory that PEFT and vLLM load: adapter_config.json and weights."""

import functools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from reskill_jax.policy.lora import TARGETS, A, B
from reskill_jax.policy.safetensors_io import Tensor, write_tensors
from reskill_jax.storage import new_directory


def peft_tensors(adapters: Any) -> dict[str, np.ndarray]:
    """Return the tensors by PEFT's names: lora_A [r, in] and lora_B [out, r].

    Args:
        adapters: see `lora.Adapted`.
    """
    tensors = {}
    for target, (part, name) in TARGETS.items():
        adapter = adapters["layers"].get(part, {}).get(name)
        if adapter is None:
            continue
        module = "self_attn" if part == "attention" else part
        for layer, (a, b) in enumerate(
            zip(np.asarray(adapter[A]), np.asarray(adapter[B]), strict=True)
        ):
            prefix = f"base_model.model.model.layers.{layer}.{module}.{target}"
            rank = b.shape[0]
            tensors[f"{prefix}.lora_A.weight"] = a.reshape(-1, rank).T
            tensors[f"{prefix}.lora_B.weight"] = b.reshape(rank, -1).T
    return tensors


def peft_config(base: str, adapters: Any, rank: int, alpha: float) -> dict[str, Any]:
    """Return the content of adapter_config.json.

    Args:
        base: Hugging Face directory of the weights that the adapters are for.
        adapters: see `lora.Adapted`.
        rank: r.
        alpha: changes are scaled by alpha / r.
    """
    layers = adapters["layers"]
    targets = [t for t, (part, name) in TARGETS.items() if name in layers.get(part, {})]
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if math.floor(alpha) == alpha else alpha,
        "target_modules": targets,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
    }


def save_adapters(
    output: Path, base: Path, adapters: Any, *, rank: int, alpha: float
) -> None:
    """Write the directory; it appears whole or not at all.

    Args:
        output: the new directory.
        base: Hugging Face directory of the weights that the adapters are for.
        adapters: see `lora.Adapted`.
        rank: r.
        alpha: changes are scaled by alpha / r.

    Raises:
        FileExistsError: `output` is there already.
    """
    values = peft_config(str(base), adapters, rank, alpha)
    text = json.dumps(values, indent=2) + "\n"
    tensors = [
        Tensor(name, x.shape, functools.partial(np.ascontiguousarray, x))
        for name, x in peft_tensors(adapters).items()
    ]
    with new_directory(output) as unfinished:
        (unfinished / "adapter_config.json").write_text(text)
        write_tensors(unfinished, tensors, dtype="float32", shard_bytes=1 << 62)
        weights = unfinished / "model.safetensors"
        weights.rename(unfinished / "adapter_model.safetensors")
