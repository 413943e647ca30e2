"""Plans whose parts fit each other, and those whose parts do not."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.strategies.base import NOT_PLAYED, Learned, Plan

TASKS = tuple(Task(f"t{k}", "kind", "train", "") for k in range(3))
ALIKE = Plan.alike(TASKS, EmptyContext(), 2)
NOTHING = np.zeros((0, 2), np.int32)


def plan(tasks=TASKS, contexts=1, arms=ALIKE.arms, train=ALIKE.train, effects=()):
    shown = (EmptyContext(),) * contexts
    return Plan(tasks, shown, np.array(arms), np.array(train), effects)


def test_plans_alike_are_of_one_context_and_train_everything():
    assert ALIKE.contexts == (EmptyContext(),)
    assert (ALIKE.arms.shape, ALIKE.arms.dtype) == ((3, 2), np.int32)
    assert tuple(ALIKE.training_groups) == (0, 1, 2)
    assert tuple(Plan.alike((), EmptyContext(), 2).training_groups) == ()


@pytest.mark.parametrize(
    ("parts", "trains"),
    [
        ({"tasks": (), "contexts": 0, "arms": NOTHING, "train": []}, ()),
        ({"train": [True, False, True]}, (0, 2)),
        ({"arms": [[0, NOT_PLAYED], [NOT_PLAYED, 0], [0, 0]]}, (0, 1, 2)),
        ({"contexts": 2, "arms": [[0, 1], [1, 1], [1, 0]]}, (0, 1, 2)),
        ({"arms": [[NOT_PLAYED] * 2, [0, 0], [0, 0]], "train": [False, True, True]},
         (1, 2)),
    ],
)  # fmt: skip
def test_a_plan_may_leave_out_tasks_rollouts_and_training(parts, trains):
    parts = {"train": ALIKE.train} | parts
    parts["train"] = np.array(parts["train"], bool)
    assert tuple(sorted(plan(**parts).training_groups)) == trains


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"arms": [[0, 0]] * 2}, r"3 tasks needs arms \[3, G\] .* they are \[2, 2\]"),
        ({"arms": [0, 0, 0]}, r"they are \[3\] and \[3\]"),
        ({"train": [True] * 2}, r"train \[3\]; they are \[3, 2\] and \[2\]"),
        ({"tasks": ()}, r"a plan of 0 tasks needs arms \[0, G\]"),
        ({"arms": [[0, 1]] * 3}, "arms hold 1: with 1 contexts they are 0 to 0, or -1"),
        ({"arms": [[0, -2]] * 3}, "arms hold -2: with 1 contexts"),
        ({"arms": [[0, 0], [-1, -1], [0, 0]]}, r"train\[1\] is True, but no rollout"),
        ({"effects": (0.0, 0.1)}, r"effects=\(0.0, 0.1\): .* each of the 1 contexts"),
        ({"effects": (float("nan"),)}, r"effects=\(nan,\): needs a finite number"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, message):
    with pytest.raises(ValueError, match=message):
        plan(**parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"arms": ALIKE.arms.astype(float)},
            r"arms is float64 \[3, 2\]: needs int32",
        ),
        (
            {"arms": [[0, 0]] * 3},
            r"arms=\[\[0, 0\].*: needs a numpy array, int3",
        ),
        ({"train": False}, r"train=False: needs a numpy array, bool \[B\]"),
        ({"train": np.ones(3, int)}, r"train is int64 \[3\]: needs bool"),
        ({"tasks": ("t0", "t1", "t2")}, r"tasks\[0\]='t0': needs a Task"),
        ({"effects": (0,)}, r"effects\[0\]=0: needs a float"),
        ({"tasks": None}, "tasks=None: needs a tuple"),
        ({"contexts": EmptyContext()}, "contexts=EmptyContext.*: needs a tuple"),
    ],
)
def test_parts_of_another_type_are_refused(parts, message):
    with pytest.raises(TypeError, match=message):
        replace(ALIKE, **parts)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"metrics": [1.0]}, r"metrics=\[1\.0\]: needs a dict of numbers"),
        ({"metrics": {1: 1.0}}, "metrics: the key 1 is no str"),
        (
            {"metrics": {"a": np.ones(1)}},
            r"metrics\['a'\]=array\(\[1.\]\): needs a num",
        ),
        ({"events": "a word"}, "events='a word': needs a tuple"),
        ({"decisions": ({"a": np.int64(1)},)}, r"decisions\[0\]\.a is of type int64"),
        ({"status": None}, "status=None: needs a str"),
    ],
)
def test_what_was_learnt_is_checked(parts, message):
    with pytest.raises(TypeError, match=message):
        Learned(**parts)


def test_scalars_of_numpy_and_jax_are_metrics():
    metrics = {"a": np.float32(1), "b": jnp.float32(1), "c": 1, "d": np.ones(())}
    assert Learned(metrics).metrics == metrics
