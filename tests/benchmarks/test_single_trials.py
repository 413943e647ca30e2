"""Trials held one by one agree with those that the bounds were chosen by."""

import numpy as np
import pytest

from reskill_jax.benchmarks import single_trials
from reskill_jax.benchmarks.single_trials import World
from reskill_jax.trials import simulation
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig


@pytest.mark.slow
@pytest.mark.parametrize("deletes", [False, True])
def test_they_agree_with_the_calibration(deletes):
    shape, config, runs = Shape(6, 8), TrialConfig(), 600
    accepted, steps = single_trials.simulate(
        config, [0.05], World(0.5, 0.4), shape, runs=runs, seed=0, deletes=deletes
    )
    paths = simulation.play(
        shape,
        np.full((runs, 1), 0.05),
        steps=config.max_steps,
        seed=0,
        worlds=[(0.5, 0.4)],
    )
    chance = simulation.chances(
        paths, config.effect_sd, config.cost(0 if deletes else 1)
    )
    found = simulation.decide(chance, config.bounds(deletes=deletes), shape.episodes)
    assert (accepted > 0).mean() == pytest.approx((found.accepted == 0).mean(), abs=0.1)
    assert steps.mean() == pytest.approx(found.steps.mean(), abs=0.5)
