"""What training is worth: the arithmetic, on outcomes that are known."""

import math

import numpy as np
import pytest

from reskill_jax.experiments.gain import gain


def test_one_seed_has_an_error_over_tasks():
    before = np.array([[[0, 0], [1, 0], [1, 1]]], float)
    after = np.array([[[1, 1], [1, 0], [1, 0]]], float)
    mean, error = gain(before, after)
    by_task = np.array([1, 0, -0.5])
    assert mean == pytest.approx(by_task.mean())
    assert error == pytest.approx(by_task.std(ddof=1) / np.sqrt(3))


def test_several_seeds_have_an_error_over_seeds():
    before = np.zeros((3, 4, 2))
    after = np.zeros((3, 4, 2))
    after[0], after[1, :2] = 1, 1
    mean, error = gain(before, after)
    assert mean == pytest.approx(0.5)
    assert error == pytest.approx(np.std([1, 0.5, 0], ddof=1) / np.sqrt(3))


def test_one_task_of_one_seed_has_none():
    mean, error = gain(np.zeros((1, 1, 4)), np.ones((1, 1, 4)))
    assert mean == 1
    assert math.isnan(error)
