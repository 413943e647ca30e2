"""Rotary frequencies: plain, or scaled for contexts longer than those of pre-training.

Scalings are read from `rope_scaling` (transformers 4, and what is added by hand) or
`rope_parameters` (5). H is the width of a head.
"""

import math
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow frequencies are divided, fast ones kept, with a ramp between (Llama 3.1).

    Attributes:
        factor: divides the slow frequencies.
        low_freq_factor: those that turn less often than this in the original context
            are slow.
        high_freq_factor: those that turn more often are fast.
        original_max_position_embeddings: context of pre-training, in tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071), as Qwen's long-context configurations use it.

    Attributes:
        factor: divides the slow frequencies.
        original_max_position_embeddings: context of pre-training, in tokens.
        beta_fast: frequencies that turn more often in that context are kept.
        beta_slow: those that turn less often are divided.
        attention_factor: multiplies cosines and sines; None for 0.1 ln(factor) + 1.
        truncate: whether the ramp between begins and ends at whole indices.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True


Scaling = Llama3Scaling | YarnScaling
_TYPES: dict[str, type[Llama3Scaling] | type[YarnScaling]] = {
    "llama3": Llama3Scaling,
    "yarn": YarnScaling,
}


def read_scaling(rope: dict[str, Any]) -> Scaling | None:
    """Read the scaling of a configuration; None for plain frequencies.

    Raises:
        ValueError: it is of a kind, or has a parameter, that is not computed here; or a
            value of another type than it has to be.
    """
    given = {key: value for key, value in rope.items() if value is not None}
    kind = given.pop("rope_type", given.get("type", "default"))
    for key in ("type", "rope_theta"):
        given.pop(key, None)
    if kind not in ("default", *_TYPES):
        way_out = ""
        if kind == "dynamic":  # the others change short texts, too
            way_out = (
                ". Where all prompts stay within max_position_embeddings, the scaling "
                "can be removed from config.json"
            )
        raise ValueError(
            f"rope_type={kind!r} is not supported: use one of default, "
            f"{', '.join(_TYPES)}{way_out}"
        )
    if given.pop("partial_rotary_factor", 1) != 1:
        value = rope["partial_rotary_factor"]
        raise ValueError(f"partial_rotary_factor={value} is not supported: only 1 is")
    known = {} if kind == "default" else {f.name: f for f in fields(_TYPES[kind])}
    if surplus := sorted(given.keys() - known.keys()):
        shown = ", ".join(f"{key}={given[key]!r}" for key in surplus)
        raise ValueError(f"rope_type={kind!r} with {shown} is not supported")
    if kind == "default":
        return None
    for key, value in given.items():
        if key == "truncate" and not isinstance(value, bool):
            raise ValueError(
                f"rope_type={kind!r}: {key}={value!r} is not true or false"
            )
        if key != "truncate" and not is_positive(value):
            raise ValueError(
                f"rope_type={kind!r}: {key}={value!r} is not a positive number"
            )
    try:
        return _TYPES[kind](**given)
    except TypeError as error:  # it names the parameters that are missing
        raise ValueError(f"rope_type={kind!r} is incomplete: {error}") from error


def is_positive(value: Any) -> bool:
    """Tell whether a value of JSON is a positive, finite number."""
    return type(value) in (int, float) and 0 < value <= sys.float_info.max


def write_scaling(scaling: Scaling | None) -> dict[str, Any]:
    """Return what `read_scaling` reads."""
    if scaling is None:
        return {"rope_type": "default"}
    kind = next(name for name, kind in _TYPES.items() if isinstance(scaling, kind))
    values = {key: value for key, value in asdict(scaling).items() if value is not None}
    return {"rope_type": kind, **values}


def frequencies(
    head_dim: int, theta: float, scaling: Scaling | None
) -> tuple[np.ndarray, float]:
    """Return radians per position, float32 [H / 2], and what multiplies cos and sin."""
    half = head_dim // 2
    plain = theta ** (-np.arange(half) / half)
    match scaling:
        case None:
            scaled, scale = plain, 1.0
        case Llama3Scaling():
            turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            kept = np.clip((turns - low) / (high - low), 0, 1)
            scaled, scale = plain * (kept + (1 - kept) / scaling.factor), 1.0
        case YarnScaling():
            kept = 1 - _yarn_ramp(head_dim, theta, scaling)
            scaled = plain * (kept + (1 - kept) / scaling.factor)
            given = scaling.attention_factor
            scale = _yarn_temperature(scaling.factor) if given is None else given
    return scaled.astype(np.float32), scale


def _yarn_temperature(factor: float) -> float:
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def _yarn_ramp(head_dim: int, theta: float, scaling: YarnScaling) -> np.ndarray:
    """Return how far each index lies between the fast (0) and the slow (1) ones."""

    def index(turns: float) -> float:
        """The index, a fraction, of the frequency that turns so often."""
        length = scaling.original_max_position_embeddings / (2 * math.pi * turns)
        return head_dim * math.log(length) / (2 * math.log(theta))

    first, last = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001  # as the reference has it: a step instead of a ramp
    return np.clip((np.arange(head_dim // 2) - first) / (last - first), 0, 1)
