"""Learning rates over optimiser steps."""

from typing import Literal

import optax

Schedule = Literal["constant", "linear", "cosine"]

SCHEDULES = ("constant", "linear", "cosine")


def make_schedule(
    learning_rate: float,
    *,
    kind: Schedule = "cosine",
    warmup: int = 0,
    decay: int = 0,
    floor: float = 0.0,
) -> optax.ScalarOrSchedule:
    """Warm up linearly, then keep the learning rate or let it fall.

    Args:
        learning_rate: the highest.
        kind: how it falls; `constant` does not.
        warmup: optimiser steps until it is reached.
        decay: optimiser steps of the fall after these; 0: it is constant.
        floor: what it falls to, and keeps then.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in SCHEDULES:
        choices = ", ".join(map(repr, SCHEDULES))
        raise ValueError(f"kind={kind!r}: choose one of {choices}")
    falls = decay and kind != "constant"
    if not warmup and not falls:
        return learning_rate
    then: optax.Schedule = optax.constant_schedule(learning_rate)
    if falls and kind == "linear":
        then = optax.linear_schedule(learning_rate, floor, decay)
    elif falls:
        share = floor / learning_rate if learning_rate else 0.0
        then = optax.cosine_decay_schedule(learning_rate, decay, alpha=share)
    if not warmup:
        return then
    rise = optax.linear_schedule(learning_rate / warmup, learning_rate, warmup - 1)
    return optax.join_schedules([rise, then], [warmup])


def rate_at(learning_rate: optax.ScalarOrSchedule, step: int) -> float:
    """Return the learning rate of an optimiser step, counted from 0."""
    return float(learning_rate(step) if callable(learning_rate) else learning_rate)
