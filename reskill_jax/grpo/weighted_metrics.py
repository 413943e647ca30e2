"""Metrics that reduce exactly, however a batch is cut into micro-batches."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax


class Mean(NamedTuple):
    """A weighted mean, kept as the sum and the weight."""

    total: Any
    weight: Any


class Max(NamedTuple):
    """A maximum."""

    value: Any


Metrics = Mapping[str, Mean | Max]


def reduce_metrics(parts: Iterable[Metrics]) -> dict[str, float]:
    """Merge metrics of micro-batches into plain numbers; means without weight are 0."""
    merged: dict[str, list[Mean | Max]] = {}
    for part in jax.device_get(list(parts)):
        for name, metric in part.items():
            merged.setdefault(name, []).append(metric)
    return {name: _reduce(metrics) for name, metrics in merged.items()}


def _reduce(metrics: list[Mean | Max]) -> float:
    if isinstance(metrics[0], Max):
        return max(float(m.value) for m in metrics if isinstance(m, Max))
    means = [metric for metric in metrics if isinstance(metric, Mean)]
    weight = sum(float(mean.weight) for mean in means)
    return sum(float(mean.total) for mean in means) / weight if weight else 0.0
