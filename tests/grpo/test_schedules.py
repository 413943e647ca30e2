"""Learning rates over optimiser steps, against their formulas."""

import numpy as np
import pytest

from reskill_jax.grpo.schedules import make_schedule, rate_at


def rates(schedule, count):
    return [rate_at(schedule, step) for step in range(count)]


def test_the_learning_rate_rises_and_stays():
    rising = make_schedule(0.8, warmup=4)
    assert rates(rising, 6) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert rates(make_schedule(0.8, warmup=1), 1) == pytest.approx([0.8])
    assert make_schedule(0.8) == 0.8
    assert make_schedule(0.8, kind="constant", decay=5, floor=0.1) == 0.8
    assert rate_at(0.8, 7) == 0.8


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("floor", [0.0, 0.2])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_learning_rate_falls_to_its_floor_and_stays_there(kind, warmup, floor):
    schedule = make_schedule(0.8, kind=kind, warmup=warmup, decay=10, floor=floor)
    past = np.arange(12).clip(max=10) / 10
    share = (1 + np.cos(np.pi * past)) / 2 if kind == "cosine" else 1 - past
    expected = floor + (0.8 - floor) * share
    found = rates(schedule, warmup + 12)
    assert found[warmup:] == pytest.approx(expected.tolist(), abs=1e-6)
    rise = [0.8 * (step + 1) / warmup for step in range(warmup)]
    assert found[:warmup] == pytest.approx(rise)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="kind='step': choose one of 'constant'"):
        make_schedule(0.8, kind="step")
