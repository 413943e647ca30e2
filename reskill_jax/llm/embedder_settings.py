"""Checks all that an embedder needs, but for the network."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reskill_jax.llm.embedding_service import Service


def problems(*, name: str, encoder: str, **service: Any) -> Iterator[str]:
    """Yield what cannot work; each problem begins with the argument's name.

    Args:
        name: one of `embedders.NAMES`.
        encoder: directory of the model for ``encoder``; empty: the packaged one.
        **service: fields of `Service`, for ``openai``.
    """
    if encoder and name != "encoder":
        yield (
            f"encoder={encoder!r} would be ignored by name={name!r}: leave it empty, "
            "or use name='encoder'"
        )
    elif encoder and not (Path(encoder) / "model.safetensors").is_file():
        yield (
            f"encoder={encoder!r} holds no model.safetensors: name the directory of a "
            "sentence encoder such as all-MiniLM-L6-v2"
        )
    if name == "openai" and (problem := Service(**service).problem()):
        yield problem
