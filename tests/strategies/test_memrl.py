"""MemRL in the loop: one update per group, at most two memories of it."""

from dataclasses import replace

import pytest
from method_cases import Game, make

from reskill_jax.memories.utility import Experience, UtilityMemory


def with_memory(strategy, *items):
    strategy._memory = replace(strategy._memory, items=items)
    return strategy


def test_fault_b_a_group_moves_a_utility_once_by_its_mean():
    """Eight updates in a row would move it by 1 - 0.7^8 of the way."""
    shown = Experience("put a mug in the shelf", "script", True)
    strategy = with_memory(make("memrl", group_size=8, tasks_per_step=1), shown)
    game = Game(strategy, won=lambda task, text, seed: seed[1] < 6, count=1)
    game.step(1)
    (item, *_) = strategy.incumbent.items
    assert item.q == pytest.approx(0.3 * (2 * 6 / 8 - 1))
    assert item.visits == 1


def test_a_group_leaves_its_shortest_success_and_one_failure():
    strategy = make("memrl", group_size=8, tasks_per_step=1)
    game = Game(strategy, won=lambda task, text, seed: seed[1] % 2, count=1)
    learned = game.step(1)
    assert [item.success for item in strategy.incumbent.items] == [True, False]
    assert learned.metrics["memory/written"] == 2
    assert {item.key for item in strategy.incumbent.items} == {
        game.plans[0].tasks[0].source
    }


def test_a_step_reads_what_was_written_before_it_never_within():
    strategy = make("memrl", tasks_per_step=3)
    game = Game(strategy, count=3)
    game.step(1)
    assert set(game.openings) == {""}
    assert game.plans[0].contexts == (UtilityMemory(strategy.incumbent.settings),)
    game.step(2)
    assert "" not in game.openings[12:]


def test_the_order_of_groups_does_not_matter_for_utilities():
    items = [Experience(f"put a {x} in the shelf", x, True) for x in ("mug", "cup")]
    found = []
    for order in (1, -1):
        strategy = with_memory(make("memrl"), *items)
        game = Game(strategy)
        plan = strategy.plan(1, game.stream.draw)
        groups = [
            [game.episode(plan, group, index, 1) for index in range(4)]
            for group in range(3)
        ]
        strategy.observe(1, [e for group in groups[::order] for e in group])
        found.append({item.id: round(item.q, 9) for item in strategy.incumbent.items})
    assert found[0] == found[1]
