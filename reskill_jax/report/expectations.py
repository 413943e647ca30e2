"""What a run's trials are expected to decide: told, and kept, when the run starts."""

import json
from dataclasses import asdict
from typing import Any

from ml_collections import ConfigDict

from reskill_jax.storage import write_text
from reskill_jax.strategies import holds_trials
from reskill_jax.trials.bounds import KEYS, expected, make_config
from reskill_jax.trials.calibration import Rates
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig
from reskill_jax.workdir import Workdir


def introduce_trials(config: ConfigDict, workdir: Workdir) -> None:
    """Print the expected rates of a run's trials, and write them to `trial.json`."""
    if not holds_trials(config.strategy.name):
        return
    shape = Shape(
        config.rollout.tasks_per_step,
        config.grpo.group_size,
        config.strategy.candidates,
    )
    preset = config.trial.preset
    trial = make_config(config.trial, shape)
    changed = _changed(trial, make_config({"preset": preset}, shape))
    rates = expected(trial, shape)
    print(describe(preset, shape, trial, rates, changed), flush=True)
    document = {
        "preset": preset,
        "shape": shape._asdict(),
        "changed": changed,
        "settings": asdict(trial),
        "expected": asdict(rates),
    }
    write_text(workdir.trial, json.dumps(document, indent=2) + "\n")


def describe(
    preset: str,
    shape: Shape,
    trial: TrialConfig,
    rates: Rates,
    changed: dict[str, Any],
) -> str:
    """Say what trials are and what to expect of them."""
    others = ", others without effect" if shape.candidates > 1 else ""
    lines = [
        f"trials: preset {preset!r}, {shape}; accepted, as simulated: "
        f"{rates.null:.0%} of what does nothing, {rates.harmful:.1%} of -5 points, "
        f"{rates.helpful:.0%} of +5 points{others}; of deletes "
        f"{rates.null_delete:.0%} and {rates.harmful_delete:.1%}; after "
        f"{rates.steps:.1f} steps on average, at most {trial.max_steps}"
    ]
    if trial.harm_errors:
        lines.append(
            "trials: what harms a type of task is rejected; simulated with 6 types "
            "that are alike, so that every such rejection there is an error"
        )
    if changed:
        keys = ", ".join(f"{key}={value!r}" for key, value in changed.items())
        lines.append(f"trials: departing from that preset: {keys}")
    if preset == "ours" and not rates.kept:
        lines.append(
            "trials: WARNING: beyond what the preset promises, 30% of what does "
            "nothing and 3% of -5 points: leave out the keys above"
        )
    return "\n".join(lines)


def _changed(trial: TrialConfig, preset: TrialConfig) -> dict[str, Any]:
    return {
        key: getattr(trial, key)
        for key in KEYS
        if getattr(trial, key) != getattr(preset, key)
    }
