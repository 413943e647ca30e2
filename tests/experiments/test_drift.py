"""What is said of the memory M in worlds whose drift is known."""

import numpy as np
import pytest

from reskill_jax.experiments.drift import (
    BANKS,
    MEMORIES,
    Run,
    World,
    describe,
    hold,
    play,
    success,
)
from reskill_jax.trials.bounds import make_config
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial import Trial

PAPER = make_config({"preset": "paper"}, Shape(16, 8))


def test_memory_is_short_where_success_rises_fast_and_the_estimate_gains_by_it():
    still, fast = (
        play(PAPER, World(Shape(16, 8), 0.0, drift), trials=4, seed=0)
        for drift in (0.0, 0.06)
    )
    assert still.memory > 1000
    assert fast.memory < 100
    with_memory, undiscounted = fast.squares[2:, [0, -1]].mean(0)
    assert with_memory < undiscounted / 2


@pytest.mark.parametrize("preset", ["paper", "ours"])
def test_success_is_what_the_trial_itself_estimates(preset):
    config = make_config({"preset": preset}, Shape(16, 8))
    trial = Trial.start(config, BANKS, memory=100.0)
    level = hold(trial, World(Shape(16, 8), 0.3, 0.02), seed=1)
    steps = len(trial.counts)
    assert level == pytest.approx(0.2 + 0.02 * (steps - 1))
    alpha, beta = trial.evidence(0)
    assert success(trial, 100.0) == pytest.approx(alpha / (alpha + beta))
    wins, episodes = trial.padded_counts().sum((0, 1))[0]
    kept = success(trial, np.inf)
    assert kept == pytest.approx((wins + 1) / (episodes + 2))


def test_runs_are_described_without_the_trials_that_had_no_memory():
    squares = np.full((3, 1 + len(MEMORIES)), 0.04)
    squares[2] = 0.01
    squares[2, 3] = 0.0
    found = describe([Run(50.0, squares), Run(np.inf, squares), Run(70.0, squares)])
    assert (found["memory"], found["memory_high"]) == (70.0, np.inf)
    assert found["error"] == pytest.approx(10.0)
    assert (found["error_best"], found["memory_best"]) == (0.0, MEMORIES[2])
