"""Settings from a preset, single keys and the batch's shape."""

import pytest

from reskill_jax.trials import bounds, calibration
from reskill_jax.trials.bounds import KEYS, make_config, settled
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import PRESETS, TrialConfig

SHAPE = Shape(6, 8)


def test_bounds_follow_from_the_shape():
    small, large = (make_config({"preset": "ours"}, s) for s in (SHAPE, Shape(16, 8)))
    assert large == TrialConfig()
    assert small.max_steps > large.max_steps


@pytest.mark.parametrize("preset", PRESETS)
def test_single_keys_win_over_the_preset(preset):
    settings = {"preset": preset, "min_steps": 2, "max_steps": 7, "epsilon": None}
    config = make_config(settings, SHAPE)
    assert (config.min_steps, config.max_steps) == (2, 7)
    plain = make_config({"preset": preset}, SHAPE)
    assert config.epsilon == plain.epsilon
    assert config.mode == plain.mode


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_keys_without_a_meaning_are_refused(preset):
    for key in ("early_accept", "effect_sd", "cost_per_skill", "delete_margin"):
        with pytest.raises(ValueError, match=f"^{key}=0.05 has no meaning with preset"):
            make_config({"preset": preset, key: 0.05}, SHAPE)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match=r"^preset='x': choose one of 'ours', 'paper'"):
        make_config({"preset": "x"}, SHAPE)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("changes", [{}, {"max_steps": 9}])
def test_settled_settings_make_the_same_trial_and_stay_what_they_are(preset, changes):
    settings = {"preset": preset, **changes}
    once = settled(settings, SHAPE)
    assert set(once) == {"preset", *KEYS}
    assert make_config(once, SHAPE) == make_config(settings, SHAPE)
    assert settled(once, SHAPE) == once
    # Also where the shape would now say something else.
    assert settled(once, Shape(16, 8)) == once


def test_several_candidates_are_refused_where_they_cannot_be_told_apart():
    shape = SHAPE._replace(candidates=3)
    config = make_config({"preset": "ours"}, shape)
    (problem,) = bounds.problems(config, shape)
    assert problem.startswith("candidates=3: with 6 tasks x 8 rollouts per step")
    assert not [*bounds.problems(TrialConfig(), Shape(16, 8))]
    shape = Shape(16, 8, 3)
    assert not [*bounds.problems(make_config({"preset": "ours"}, shape), shape)]


def test_a_shape_that_is_not_listed_gets_bounds_that_keep_the_promises():
    shape = Shape(3, 6)
    assert shape not in bounds.TABLE
    config = make_config({"preset": "ours"}, shape)
    found = bounds.expected(config, shape)
    assert found.kept
    assert found.helpful > found.null > found.harmful
    assert config.early_reject == bounds.TABLE[bounds.nearest(shape)][2]


def test_a_shape_without_contrasts_is_refused():
    with pytest.raises(ValueError, match=r"^tasks=2, group_size=1, candidates=1: "):
        bounds.bounds_for(Shape(2, 1))


def test_promises_are_about_nulls_and_losses():
    good = calibration.Rates(0.3, 0.03, 0.9, 0.9, 0.03, 4)
    assert good.kept
    for name in ("null", "harmful", "harmful_delete"):
        assert not calibration.Rates(**(vars(good) | {name: 0.31})).kept
