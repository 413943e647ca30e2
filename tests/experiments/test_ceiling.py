"""What skills are worth: the arithmetic, on outcomes that are known."""

import numpy as np
import pytest

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.experiments.ceiling import (
    best_per_kind,
    by_kind,
    some_of_each_kind,
    worth,
)

# [tasks, arms, samples]: four tasks, none and two skills, two samples.
SUCCESS = np.array(
    [
        [[0, 0], [1, 1], [0, 0]],
        [[0, 1], [1, 1], [0, 0]],
        [[1, 1], [1, 0], [1, 1]],
        [[0, 0], [0, 0], [1, 0]],
    ],
    float,
)
KINDS = ["heat", "heat", "look", "look"]


def test_a_skill_is_compared_with_none_on_the_same_tasks():
    found = worth(SUCCESS, ["a", "b"])
    assert found.tasks == 4
    assert found.without == 3 / 8
    differences = np.array([1, 0.5, -0.5, 0]), np.array([0, -0.5, 0, 0.5])
    for name, by_task in zip("ab", differences, strict=True):
        effect, error = found.effects[name]
        assert effect == pytest.approx(by_task.mean())
        assert error == pytest.approx(by_task.std(ddof=1) / 2)
    assert found.best == "a"


def test_each_kind_has_its_own_best_skill_or_none():
    found = by_kind(SUCCESS, KINDS, ["a", "b"])
    assert list(found) == ["", "heat", "look"]
    assert found["heat"].best == "a"
    assert found["look"].best == "b"
    assert best_per_kind(found) == pytest.approx((0.75 + 0.25) / 2)
    harmful = by_kind(SUCCESS[:, [0, 2]], KINDS, ["b"])
    assert best_per_kind(harmful) == pytest.approx((0.0 + 0.25) / 2)


def test_kinds_have_the_same_number_of_tasks():
    tasks = [Task(f"{k}", "ab"[k % 3 == 0], "train", "") for k in range(9)]
    panel = some_of_each_kind(TaskPanel(tuple(tasks)), 3)
    assert sorted(task.kind for task in panel) == ["a"] * 3 + ["b"] * 3
    with pytest.raises(ValueError, match="tasks=4: there are only 3 of b"):
        some_of_each_kind(TaskPanel(tuple(tasks)), 4)
