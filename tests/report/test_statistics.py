"""Errors over clusters: closed forms, resampling, and how often intervals hold."""

import math

import numpy as np
import pytest
from scipy import stats

from reskill_jax.report.page.figures import rate
from reskill_jax.report.statistics import (
    area_under_curve,
    mean_of_shares,
    paired_difference,
    share_of_tasks,
)


def test_one_sample_per_task_is_wilson_of_about_the_tasks():
    won = np.array([1] * 30 + [0] * 70)
    share = share_of_tasks(won, 1)
    assert share.effective == pytest.approx(99, rel=0.03)  # Student's for 100 tasks
    plain = rate(30, 100)
    assert (share.low, share.high) == pytest.approx(
        (plain["low"], plain["high"]), abs=2e-3
    )


def test_samples_that_always_agree_tell_no_more_than_one():
    won = np.array([1] * 30 + [0] * 70)
    alike = np.repeat(won[:, None], 4, axis=1)
    assert share_of_tasks(alike.mean(axis=1), 4) == share_of_tasks(won, 1)


def test_the_error_is_that_of_resampling_tasks():
    rng = np.random.default_rng(0)
    success = rng.random((192, 4)) < rng.beta(0.5, 1, (192, 1))
    tasks = success.mean(axis=1)
    drawn = rng.integers(0, 192, (4000, 192))
    resampled = tasks[drawn].mean(axis=1).std()
    share = share_of_tasks(tasks, 4)
    error = math.sqrt(share.mean * (1 - share.mean) / share.effective)
    assert error == pytest.approx(resampled, rel=0.05)
    independent = math.sqrt(share.mean * (1 - share.mean) / success.size)
    assert error > 1.3 * independent


@pytest.mark.parametrize(("a", "b"), [(0.2, 3), (0.5, 0.5), (20, 20), (40, 1)])
def test_intervals_hold_in_19_of_20_panels(a, b):
    rng = np.random.default_rng(1)
    truth, held = a / (a + b), 0
    for _ in range(1000):
        won = rng.random((48, 4)) < rng.beta(a, b, (48, 1))
        share = share_of_tasks(won.mean(axis=1), 4)
        held += share.low <= truth <= share.high
    assert 0.93 <= held / 1000 <= 0.99


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_extremes_do_not_claim_certainty(value):
    share = share_of_tasks(np.full(12, value), 4)
    assert share.effective == 12
    assert share.high - share.low == pytest.approx(1 - 12 / (12 + 1.959964**2))
    assert share.low <= value <= share.high
    one = share_of_tasks([value], 4)
    assert one.effective == 1
    mean = mean_of_shares([one, share])
    assert 0.05 < mean.high - mean.low < 1


def test_equal_rates_between_count_every_episode():
    assert share_of_tasks([0.5] * 300, 4).effective == pytest.approx(1200, rel=0.01)


@pytest.mark.parametrize("tasks", [2, 3, 5, 10, 20])
def test_intervals_of_few_tasks_hold_their_rate(tasks):
    rng = np.random.default_rng(tasks)
    rates = rng.beta(0.5, 0.5, (2000, tasks))
    values = rng.binomial(4, rates) / 4
    shares = [share_of_tasks(row, 4) for row in values]
    assert np.mean([share.low <= 0.5 <= share.high for share in shares]) > 0.93


def test_a_mean_of_kinds_is_as_wide_as_resampling_within_kinds():
    rng = np.random.default_rng(2)
    kinds = [rng.beta(1, 2, size) for size in (30, 60, 200)]
    mean = mean_of_shares([share_of_tasks(values, 4) for values in kinds])
    assert mean.mean == pytest.approx(np.mean([v.mean() for v in kinds]))
    resampled = [
        np.mean([rng.choice(v, len(v)).mean() for v in kinds]) for _ in range(3000)
    ]
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * np.std(resampled), rel=0.1)


def test_differences_are_paired_by_seed_and_task():
    first = np.array([[[0, 1], [0, 0]], [[1, 1], [0, 1]], [[0, 0], [0, 1]]])
    second = np.array([[[1, 1], [0, 1]], [[1, 1], [1, 1]], [[0, 1], [0, 1]]])
    found = paired_difference(first, second)
    cells = np.array([[0.5, 0.5], [0, 0.5], [0.5, 0]])
    assert found.mean == pytest.approx(cells.mean())
    assert (found.seeds, found.tasks) == (3, 2)
    seeds = stats.sem(cells.mean(axis=1))
    assert found.error_over_seeds == pytest.approx(seeds)
    assert found.error_over_tasks == pytest.approx(stats.sem(cells.mean(axis=0)))
    assert found.error == pytest.approx(seeds)  # two-way is less here
    assert found.high - found.mean == pytest.approx(stats.t.ppf(0.975, 1) * seeds)


def test_two_ways_add_up_without_what_both_count():
    rng = np.random.default_rng(3)
    cells = rng.normal(0, 1, (6, 1, 1)) + rng.normal(0, 1, (1, 9, 1))
    found = paired_difference(np.zeros((6, 9, 1)), cells)
    each = stats.sem(cells.mean(axis=(1, 2))), stats.sem(cells.mean(axis=(0, 2)))
    both = each[0] ** 2 + each[1] ** 2 - stats.sem(cells.ravel()) ** 2
    assert found.error == pytest.approx(math.sqrt(both))
    assert found.error > max(each)


def test_one_seed_is_compared_over_tasks_and_one_task_over_seeds():
    rng = np.random.default_rng(4)
    cells = rng.random((1, 20, 3))
    found = paired_difference(np.zeros((1, 20, 1)), cells)
    values = cells.mean(axis=2)[0]
    low, high = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert math.isnan(found.error_over_seeds)
    turned = paired_difference(np.zeros((20, 1, 1)), np.swapaxes(cells, 0, 1))
    assert turned[:4] == pytest.approx(found[:4])
    assert math.isnan(turned.error_over_tasks)
    alone = paired_difference(np.zeros((1, 1, 2)), np.ones((1, 1, 2)))
    assert alone.mean == 1
    assert math.isnan(alone.error)


def test_intervals_of_differences_hold_for_other_seeds_and_tasks():
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(600):
        shift = rng.normal(0, 0.05, (8, 1, 1)) + rng.normal(0, 0.1, (1, 48, 1))
        common = rng.random((8, 48, 1)) * 0.6 + 0.15
        first = rng.random((8, 48, 4)) < common
        second = rng.random((8, 48, 4)) < common + shift + 0.05
        found = paired_difference(first, second)
        held += found.low <= 0.05 <= found.high
    assert 0.93 <= held / 600 <= 0.99


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match=r"first has \(2, 3\) seeds and tasks, second"):
        paired_difference(np.zeros((2, 3, 1)), np.zeros((2, 4, 1)))


def test_the_area_under_a_curve_is_its_mean_height():
    steps = [0, 10, 40]
    assert area_under_curve(steps, [0.3, 0.3, 0.3]) == pytest.approx(0.3)
    assert area_under_curve(steps, [0, 10, 40]) == pytest.approx(20)
    both = area_under_curve(steps, [[0, 1, 1], [1, 0, 0]])
    assert both == pytest.approx([(5 + 30) / 40, 5 / 40])


@pytest.mark.parametrize("steps", [[0], [0, 0], [3, 1]])
def test_curves_need_steps_that_increase(steps):
    with pytest.raises(ValueError, match="needs two or more that increase"):
        area_under_curve(steps, np.zeros(len(steps)))


def test_curves_need_a_value_for_every_step():
    with pytest.raises(ValueError, match="values has 3 points, steps 2"):
        area_under_curve([0, 1], np.zeros(3))
