"""A trial's settings from a preset, single keys and the batch's shape.

`TABLE` holds the bounds of shipped shapes, and

    python -m reskill_jax.benchmarks.trial_bounds

makes it. Those of other shapes are found when a run starts, in seconds, by the same
simulation beginning from the nearest row.
"""

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

from reskill_jax.trials import calibration
from reskill_jax.trials.calibration import Grid, Rates
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import PRESETS, TrialConfig

# By tasks, rollouts per task and candidates: the fields below, in this order.
BOUNDS = (
    "max_steps",
    "early_accept",
    "early_reject",
    "accept_probability",
    "delete_early_accept",
    "delete_accept_probability",
)
TABLE: dict[Shape, tuple[int, float, float, float, float, float]] = {
    Shape(16, 8): (8, 0.96, 0.1, 0.66, 0.99, 0.9),
    Shape(16, 8, 2): (16, 0.94, 0.15, 0.82, 0.99, 0.94),
    Shape(16, 8, 3): (16, 0.99, 0.1, 0.84, 0.99, 0.96),
    Shape(6, 8): (24, 0.88, 0.15, 0.74, 0.98, 0.94),
    Shape(6, 8, 2): (24, 0.94, 0.15, 0.8, 0.99, 0.96),
    Shape(6, 8, 3): (24, 0.94, 0.25, 0.82, 0.98, 0.98),
    Shape(256, 5): (4, 0.85, 0.15, 0.68, 0.995, 0.6),
    Shape(256, 5, 3): (8, 0.94, 0.1, 0.88, 0.995, 0.8),
    Shape(2, 4): (24, 0.995, 0.15, 0.76, 0.98, 0.94),
}
# What each row leads to, in the order of `Rates`.
EXPECTED: dict[Shape, tuple[float, ...]] = {
    Shape(16, 8): (0.27, 0.013, 0.854, 0.489, 0.024, 3.521),
    Shape(16, 8, 2): (0.264, 0.011, 0.751, 0.595, 0.024, 5.947),
    Shape(16, 8, 3): (0.265, 0.011, 0.678, 0.573, 0.021, 7.528),
    Shape(6, 8): (0.25, 0.024, 0.801, 0.408, 0.021, 7.147),
    Shape(6, 8, 2): (0.268, 0.023, 0.625, 0.404, 0.021, 10.131),
    Shape(6, 8, 3): (0.258, 0.024, 0.453, 0.334, 0.016, 10.092),
    Shape(256, 5): (0.269, 0.0, 0.992, 0.955, 0.024, 1.427),
    Shape(256, 5, 3): (0.27, 0.001, 0.96, 0.982, 0.022, 2.248),
    Shape(2, 4): (0.121, 0.024, 0.338, 0.129, 0.021, 12.862),
}
# What trials of mode paper do not have.
_PAIRED_ONLY = (
    *BOUNDS[1:],
    "effect_sd",
    "cost_per_skill",
    "delete_margin",
    "harm_errors",
)  # fmt: skip
# What strategies say, not the section `trial`; `mode` follows from the preset.
NOT_KEYS = ("mode", "uniform", "frozen_policy")
KEYS = tuple(f.name for f in fields(TrialConfig) if f.name not in NOT_KEYS)


def make_config(
    settings: Mapping[str, Any], shape: Shape, **switches: Any
) -> TrialConfig:
    """Return how trials run.

    Args:
        settings: `preset`, a name in `PRESETS`, and any of `KEYS`; None is what the
            preset says, or for bounds of preset `ours` the shape.
        shape: of the batch.
        **switches: fields that no setting has.

    Raises:
        ValueError: a setting is wrong, or has no meaning with the preset.
    """
    preset = settings["preset"]
    if preset not in PRESETS:
        raise ValueError(
            f"preset={preset!r}: choose one of {', '.join(map(repr, PRESETS))}"
        )
    given = {k: v for k, v in settings.items() if k != "preset" and v is not None}
    if preset != "ours":
        for key in _PAIRED_ONLY:
            if key in given:
                raise ValueError(
                    f"{key}={given[key]!r} has no meaning with preset={preset!r}, "
                    "which decides by posterior means: leave it out, or use "
                    "preset='ours'"
                )
        return TrialConfig.preset(preset, **{**given, **switches})
    bounds = {} if given.keys() >= set(BOUNDS) else bounds_for(shape)
    return TrialConfig(**{**bounds, **given, **switches})


def settled(settings: Mapping[str, Any], shape: Shape) -> dict[str, Any]:
    """Return settings with every key that has a meaning filled in."""
    config = make_config(settings, shape)
    unused = () if settings["preset"] == "ours" else _PAIRED_ONLY
    return {
        "preset": settings["preset"],
        **{key: None if key in unused else getattr(config, key) for key in KEYS},
    }


@lru_cache
def bounds_for(shape: Shape) -> dict[str, Any]:
    """Return the bounds of a shape: of the table, or found by simulation.

    Raises:
        ValueError: no bounds keep the promises, as where a group cannot have all arms.
    """
    if shape.group_size <= shape.candidates:
        raise ValueError(
            f"tasks={shape.tasks}, group_size={shape.group_size}, candidates="
            f"{shape.candidates}: a group must have a rollout for each candidate and "
            "one for the incumbent"
        )
    if shape in TABLE:
        return dict(zip(BOUNDS, TABLE[shape], strict=True))
    near = dict(zip(BOUNDS, TABLE[nearest(shape)], strict=True))
    grid = Grid(
        max_steps=(int(near["max_steps"]),),
        early_accept=tuple(sorted({near["early_accept"], 0.96, 0.99})),
        early_reject=(near["early_reject"],),
    )
    print(f"choosing bounds for trials of {shape}", file=sys.stderr, flush=True)
    found = calibration.choose(shape, grid, runs=_runs(shape))
    if not found:
        raise ValueError(
            f"candidates={shape.candidates}: no trials with {shape.tasks} tasks x "
            f"{shape.group_size} rollouts keep the promises: use larger batches"
        )
    return found


def nearest(shape: Shape) -> Shape:
    """Return the shape in the table that is most alike."""

    def distance(row: Shape) -> float:
        candidates = abs(row.candidates - shape.candidates)
        return 10 * candidates + abs(math.log(row.episodes / shape.episodes))

    return min(TABLE, key=distance)


@lru_cache
def expected(config: TrialConfig, shape: Shape) -> Rates:
    """Return what to expect of trials, by simulation where no table has it."""
    if config.mode == "paper":
        return calibration.paper_rates(shape, config, _runs(shape))
    row = TABLE.get(shape)
    if row and config == TrialConfig(**bounds_for(shape)):
        return Rates(*EXPECTED[shape])
    found = calibration.cases(shape, config.max_steps, _runs(shape))
    return calibration.rates(shape, config, found)


def problems(config: TrialConfig, shape: Shape) -> Iterator[str]:
    """Yield why several candidates cannot be told apart; begins with `candidates`."""
    if shape.candidates == 1 or shape.group_size <= shape.candidates:
        return  # the latter is refused anyway
    power = expected(config, shape).helpful
    if power < calibration.LEAST_POWER:
        yield (
            f"candidates={shape.candidates}: with {shape.tasks} tasks x "
            f"{shape.group_size} rollouts per step, a bundle worth +5 points would be "
            f"accepted in {power:.0%} of trials, below {calibration.LEAST_POWER:.0%}: "
            "use fewer candidates, or larger batches"
        )


def _runs(shape: Shape) -> int:
    """Trials of each kind and world: fewer where each takes longer."""
    return max(300, min(1000, 100_000 // shape.episodes))
