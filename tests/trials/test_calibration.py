"""Bounds: promises of the table, the published rule, the choice made again."""

import pytest

from reskill_jax.trials import bounds, calibration
from reskill_jax.trials.calibration import Grid
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig


def test_the_published_rule_tosses_a_coin_about_what_does_nothing():
    found = calibration.paper_rates(Shape(16, 8), TrialConfig.preset("paper"), 1000)
    assert found.null == pytest.approx(0.5, abs=0.05)
    assert 0.05 < found.harmful < 0.2
    assert 0.8 < found.helpful < 0.95
    assert found.steps == 5


@pytest.mark.parametrize("shape", bounds.TABLE, ids=str)
def test_every_row_of_the_table_keeps_the_promises(shape):
    assert calibration.Rates(*bounds.EXPECTED[shape]).kept
    TrialConfig(**bounds.bounds_for(shape))  # within the ranges


@pytest.mark.parametrize("shape", [Shape(6, 8), Shape(2, 4)], ids=str)
def test_what_the_table_expects_is_what_a_smaller_simulation_finds(shape):
    config = TrialConfig(**bounds.bounds_for(shape))
    found = calibration.rates(
        shape, config, calibration.cases(shape, config.max_steps, 400)
    )
    expected = bounds.EXPECTED[shape]
    near = (0.06, 0.02, 0.05, 0.06, 0.02, 0.6)
    for value, wanted, error in zip(vars(found).values(), expected, near, strict=True):
        assert value == pytest.approx(wanted, abs=error)


@pytest.mark.slow
def test_the_table_is_what_the_command_makes():
    shape = Shape(6, 8)
    assert calibration.choose(shape, Grid(), runs=2000) == bounds.bounds_for(shape)
