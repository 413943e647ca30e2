"""Paired differences and their errors, on outcomes that are known."""

import math

import numpy as np
import pytest
from scipy import stats

from reskill_jax.experiments.paired import difference


def test_one_seed_has_the_error_over_tasks():
    one, other = np.array([[1.0, 0.5, 0.0]]), np.array([[0.5, 0.5, 0.5]])
    found = difference(one, other)
    pairs = np.array([0.5, 0, -0.5])
    error = pairs.std(ddof=1) / np.sqrt(3)
    half = stats.t.ppf(0.975, 2) * error
    assert (found.mean, found.error) == pytest.approx((0, error))
    assert (found.low, found.high) == pytest.approx((-half, half))


def test_what_all_tasks_of_a_seed_share_is_counted_once_per_seed():
    by_seed = np.array([0.1, 0.3])
    one = np.repeat(by_seed[:, None], 100, axis=1)
    found = difference(one, np.zeros_like(one))
    assert found.mean == pytest.approx(0.2)
    assert found.error == pytest.approx(by_seed.std(ddof=1) / np.sqrt(2))
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 1) * found.error)


def test_what_a_task_does_in_all_seeds_is_counted_once_per_task():
    by_task = np.array([0.0, 1.0, 0.5, 0.5])
    one = np.repeat(by_task[None], 50, axis=0)
    found = difference(one, np.zeros_like(one))
    assert found.error == pytest.approx(by_task.std(ddof=1) / 2)


def test_intervals_hold_where_seeds_and_tasks_differ():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        effect = (
            0.2
            + 0.05 * rng.standard_normal((5, 1))
            + 0.2 * rng.standard_normal((1, 40))
            + 0.3 * rng.standard_normal((5, 40))
        )
        found = difference(effect, np.zeros_like(effect))
        held += found.low <= 0.2 <= found.high
    assert held / 400 > 0.93


def test_one_pair_tells_no_error():
    found = difference(np.ones((1, 1)), np.zeros((1, 1)))
    assert found.mean == 1
    assert math.isnan(found.error)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"one has the shape \(2, 3\), other \(3, 2\)"):
        difference(np.zeros((2, 3)), np.zeros((3, 2)))
