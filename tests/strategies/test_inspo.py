"""INSPO's population against its formulas."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_cases import Game, make

from reskill_jax.memories.instruction import Instruction
from reskill_jax.strategies.inspo import (
    Baseline,
    Member,
    probabilities,
    survivors,
)

GOOD, BAD = "try hard", "give up"


def population(strategy, *members):
    strategy._members = list(members)
    return strategy


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=5))
def test_groups_draw_by_the_softmax_of_weights(weights):
    oracle = np.exp(np.array(weights) / 0.1)
    assert probabilities(weights, 0.1) == pytest.approx(oracle / oracle.sum())


def test_a_weight_follows_the_advantage_of_its_groups():
    strategy = population(make("inspo", tasks_per_step=2), Member(GOOD, 0.5))
    strategy._baselines = {"put": Baseline(0.25, 100), "heat": Baseline(0.5, 100)}
    game = Game(strategy, won=lambda task, text, seed: task.kind == "put", count=2)
    game.step(1)
    kinds = [task.kind for task in game.plans[0].tasks]
    w = 0.5
    for kind in kinds:  # in the order of groups
        w = 0.9 * w + 0.1 * ((1.0 - 0.25) if kind == "put" else (0.0 - 0.5))
    assert strategy._members[0].weight == pytest.approx(w)
    assert strategy._members[0].groups == 2
    # The running mean has followed at the same rate.
    assert strategy._baselines["put"].mean == pytest.approx(0.25 + 0.1 * 0.75)


def test_what_came_first_of_a_type_has_no_advantage_and_the_mean_is_one_at_first():
    baseline = Baseline()
    found = [baseline.advantage(r, 0.1) for r in (1.0, 0.0, 1.0)]
    assert found == [0.0, -1.0, 0.5]
    assert baseline.mean == pytest.approx(2 / 3)


def test_the_worse_half_of_what_is_well_tried_is_dropped():
    members = [Member("a", 0.1, 8), Member("b", 0.3, 9), Member("c", -0.2, 7),
               Member("d", -0.1, 20), Member("e", 0.2, 8)]  # fmt: skip
    assert [m.text for m in survivors(members, 8)] == ["b", "c", "e"]
    assert survivors(members[:1], 8) == members[:1]


def test_evaluation_uses_the_best_of_those_with_sixteen_groups():
    strategy = population(
        make("inspo"),
        Member("", 0.0, 40),
        Member("new", 0.9, 15),
        Member(GOOD, 0.4, 16),
    )
    assert strategy.incumbent == Instruction(GOOD)
    assert population(make("inspo"), Member("", 0.0, 3)).incumbent == Instruction("")


def test_candidates_are_verified_apart_and_the_best_fill_the_population():
    settings = {"population": 2, "checks": 3}
    strategy = make("inspo", tasks_per_step=3, inspo=settings)
    game = Game(strategy, won=lambda task, text, seed: text == GOOD)
    game.step(1)
    strategy._candidates = [BAD, GOOD]
    strategy._members[0].weight = 0.3
    learned = game.step(2)
    plan = game.plans[1]
    assert len(plan.tasks) == 3 + 2 * 3
    assert plan.train.tolist() == [True] * 3 + [False] * 6
    assert (plan.arms[3:, 0] == [1, 1, 1, 2, 2, 2]).all()
    assert (plan.arms[3:, 1:] == -1).all()
    buffered = {task.id for task in game.plans[0].tasks}
    assert {task.id for task in plan.tasks[3:6]} == buffered
    texts = [member.text for member in strategy._members]
    assert texts == ["", GOOD]
    assert strategy._members[1].weight == strategy._members[0].weight  # the median
    assert strategy._members[1].groups == 0
    assert learned.metrics["inspo/verification_episodes"] == 6
    assert "100% of its checks won" in learned.events[0]
    # They are no evidence about the instruction in use.
    assert strategy._members[0].groups == 6


def test_a_generation_asks_from_failures_for_what_there_is_room_for():
    strategy = make("inspo", inspo={"every": 2, "least_groups": 100, "population": 2})
    game = Game(strategy, won=lambda task, text, seed: False)
    assert game.step(1).metrics["memory/written"] == 0
    assert game.step(2).metrics["memory/written"] == 2
    assert len(strategy._candidates) == 2
    game.step(3)
    assert len(strategy._members) == 2
    assert game.step(4).metrics["memory/written"] == 0  # it is full


@pytest.mark.parametrize("size", [4, 5])
def test_on_the_same_tasks_every_group_holds_all_instructions(size):
    strategy = make("inspo", group_size=size, inspo={"compare": "same_tasks"})
    population(strategy, Member(""), Member(GOOD), Member(BAD))
    game = Game(strategy, won=lambda task, text, seed: text == GOOD)
    game.step(1)
    for row in game.plans[0].arms:
        counts = np.bincount(row, minlength=3)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == size
    weights = [member.weight for member in strategy._members]
    # Advantage over the others in its group: 1 for what won, never for the others.
    assert weights[1] == pytest.approx(1 - 0.9**3)
    assert max(weights[0], weights[2]) < 0
    assert not strategy._baselines
