"""What training is worth: the table, on outcomes that are known."""

import math

import numpy as np
import pytest

from reskill_jax.experiments.gain import describe
from reskill_jax.report.statistics import paired_difference


def outcomes(before, after):
    """Return [seeds, before and after, tasks, samples]."""
    return np.stack([np.array(before, float), np.array(after, float)], axis=1)


def test_one_seed_has_an_interval_over_tasks():
    before = [[[0, 0], [1, 0], [1, 1]]]
    after = [[[1, 1], [1, 0], [1, 0]]]
    row, figures, bar = describe("test", outcomes(before, after))
    by_task = np.array([1, 0, -0.5])
    assert row[:3] == ["test", 1, 3]
    assert figures["test/before"] == pytest.approx(0.5)
    assert figures["test/after"] == pytest.approx(4 / 6)
    assert bar.value == pytest.approx(by_task.mean())
    assert figures["test/gain_se"] == pytest.approx(by_task.std(ddof=1) / np.sqrt(3))


def test_several_seeds_have_the_interval_of_paired_difference():
    rng = np.random.default_rng(0)
    before, after = rng.random((2, 3, 10, 4)) < 0.5
    row, figures, bar = describe("unseen", outcomes(before, after))
    expected = paired_difference(before, after)
    assert bar.value == expected.mean
    assert figures["unseen/gain_se"] == expected.error
    assert figures["unseen/gain_low"] == expected.low
    assert row[-1] == (
        f"{expected.mean:+.1%} [{expected.low:+.1%}, {expected.high:+.1%}]"
    )


def test_one_task_of_one_seed_has_no_error():
    _, figures, bar = describe("test", outcomes([[[0] * 4]], [[[1] * 4]]))
    assert bar.value == 1
    assert math.isnan(figures["test/gain_se"])
