"""Every method: resumes bit for bit, travels to other processes, writes and reads."""

import json

import numpy as np
import pytest
from method_cases import Game, make, opening, resumed, tasks, travelled

from reskill_jax import distributed
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.memories.desk import Desk
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies import NEED_BANK, STRATEGIES
from reskill_jax.strategies.leader import Leader

BANK = SkillBank(tuple(rule.skill() for rule in HELPFUL))
METHODS = [
    name
    for name, (module, _) in STRATEGIES.items()
    if not module.endswith((".reskill", ".static"))
]
FIXED = ("react", *NEED_BANK[1:])
QUICK = {
    "inspo": {"every": 2, "least_groups": 1, "trusted_groups": 2, "checks": 2},
    "expel": {"gather_steps": 4, "attempts": 2},
    "evolver": {"prune_every": 3, "ask": "goal"},
}
FROZEN = ("long_context", "reflexion", "expel")


def quick(name, **options):
    bank = BANK if name in NEED_BANK else None
    return make(name, bank=bank, **QUICK, **options)


def trace(game):
    return [
        (
            [task.id for task in plan.tasks],
            plan.arms.tolist(),
            plan.train.tolist(),
            [context.hash for context in plan.contexts],
        )
        for plan in game.plans
    ]


@pytest.mark.parametrize("name", [*METHODS, *FIXED])
def test_a_run_that_is_killed_at_every_step_ends_the_same(name):
    straight = Game(quick(name))
    learned = straight.run(8)
    broken = Game(quick(name))
    for step in range(1, 9):
        broken.strategy = resumed(broken.strategy, quick(name))
        assert broken.step(step) == learned[step - 1]
    assert trace(broken) == trace(straight)
    assert broken.strategy.state() == straight.strategy.state()
    assert broken.strategy.incumbent == straight.strategy.incumbent


@pytest.mark.parametrize("name", [*METHODS, *FIXED])
def test_contexts_are_the_same_in_every_process(name):
    game = Game(quick(name))
    game.run(8)
    for context in (*game.plans[-1].contexts, game.strategy.incumbent):
        other = travelled(context)
        assert (other, other.hash) == (context, context.hash)
        for task in tasks():
            assert opening(other, task) == opening(context, task)


@pytest.mark.parametrize("name", [*METHODS, *FIXED])
def test_what_a_leader_decides_is_the_same_after_the_way_to_others(name, monkeypatch):
    """Plans, results and the accepted context reach other processes as JSON text."""
    monkeypatch.setattr(
        distributed, "on_leader", lambda action: json.loads(json.dumps(action()))
    )
    alone, led = Game(quick(name)), Game(Leader(lambda: quick(name), {}))
    assert led.run(8) == alone.run(8)
    assert trace(led) == trace(alone)
    assert led.strategy.incumbent == alone.strategy.incumbent
    assert led.strategy.state() == alone.strategy.state()


@pytest.mark.parametrize("name", METHODS)
def test_what_is_written_is_shown_later(name):
    game = Game(quick(name))
    first = game.step(1)
    before = {*game.openings}
    learned = [first, *game.run(9, start=2)]
    assert any(x.metrics.get("memory/items") for x in learned)
    assert {*game.openings} - before  # something was shown that was not known at first
    assert any(x.metrics.get("memory/read") for x in learned)
    common = {"memory/items", "memory/written", "memory/read"}
    assert all(x.metrics.keys() >= common for x in learned)  # curves without gaps


@pytest.mark.parametrize(
    "name", [name for name in METHODS if not name.startswith("long")]
)
@pytest.mark.parametrize("delay_steps", [0, 2])
def test_a_writer_is_waited_for_where_nothing_else_is_to_be_done(name, delay_steps):
    """With a frozen policy a step reads all that the steps before it have written."""

    def desk(work, wait):
        beside = {"background": True, "delay_steps": delay_steps}
        return Desk(OfflineWriter(), work, **beside, wait=wait)

    frozen = name in FROZEN or name.endswith("_frozen")
    adapting = quick(name, desk=desk, frozen=not frozen)  # as in --mode=adapt
    ready, waiting = Game(quick(name)), Game(adapting)
    assert waiting.run(8) == ready.run(8)
    assert trace(waiting) == trace(ready)
    if not frozen and delay_steps:
        beside = Game(quick(name, desk=desk))
        beside.run(8)
        assert trace(beside) != trace(ready)


@pytest.mark.parametrize("name", [*METHODS, *FIXED])
def test_frozen_policies_learn_nothing_and_others_from_all_that_is_drawn(name):
    game = Game(quick(name))
    game.run(8)
    frozen = name in (*FROZEN, *FIXED) or name.endswith("_frozen")
    for plan in game.plans:
        assert plan.train[:3].tolist() == [not frozen] * len(plan.train[:3])
        assert not plan.train[3:].any()  # verification


@pytest.mark.parametrize("name", [*METHODS, *FIXED])
def test_groups_that_were_lost_stop_nothing(name):
    game = Game(quick(name))
    game.step(1, dropped=(0, 1, 2))
    game.step(2, dropped=(1,))
    game.run(4, start=3)


@pytest.mark.parametrize("name", [*METHODS, *FIXED])
def test_evaluation_changes_nothing(name):
    game = Game(quick(name))
    game.run(5)
    before = game.strategy.state()
    for task in tasks():
        opening(game.strategy.incumbent, task)
    assert game.strategy.state() == before
    assert game.strategy.incumbent.hash == game.strategy.incumbent.hash


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in ("reflexion",)]
)
def test_a_group_shares_its_context(name):
    game = Game(quick(name))
    game.run(8)
    for plan in game.plans:
        played = np.where(plan.arms < 0, plan.arms.max(1, keepdims=True), plan.arms)
        assert (played == played[:, :1]).all()
