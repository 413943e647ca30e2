"""EvolveR's principles: the score, queries, merges."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from method_cases import tasks

from reskill_jax.environments.action_format import Action
from reskill_jax.environments.protocol import Observation
from reskill_jax.memories.principles import TAG, Principle, Principles
from reskill_jax.memories.settings import EvolverSettings


def store(*items, **settings):
    return Principles(EvolverSettings(**settings), items)


def ask(memory, query):
    guide = asyncio.run(memory.begin(tasks()[0], "goal", Observation("room")))
    assert TAG in guide.tags
    assert f"<{TAG}>" in guide.opening
    return asyncio.run(guide.answer(Action(TAG, query, True)))


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_score_is_that_of_the_paper(won, lost):
    principle = Principle("text", True, used=won + lost, won=won)
    assert principle.score == (won + 1) / (won + lost + 2)


def test_two_failures_in_a_row_are_pruned_and_what_was_never_used_is_not():
    bad = Principle("a", True, used=2)
    unused, fair = Principle("b", True), Principle("c", True, used=4, won=1)
    assert store(bad, unused, fair).pruned().items == (unused, fair)


def test_a_query_gets_the_nearest_three_with_type_and_score():
    items = [
        Principle("open the fridge first", True),
        Principle("fridge doors stay open", False, used=2, won=2),
        Principle("look at the lamp", True),
        Principle("the fridge is cold", True),
    ]
    text = ask(store(*items), "fridge")
    assert text.count("\n") == 3
    assert "look at the lamp" not in text
    assert "do (0.50): open the fridge first" in text
    assert "avoid (0.75): fridge doors stay open" in text
    assert store(*items).shown_in(text) == {items[k].id for k in (0, 1, 3)}
    assert ask(store(), "fridge") == "No principle is known about this."


def test_an_answer_is_bounded_and_holds_whole_principles():
    items = [Principle(f"fridge {k} " + "long " * 60, True) for k in range(3)]
    memory = store(*items, characters=740)
    text = ask(memory, "fridge")
    assert len(text) <= 740
    assert len(memory.shown_in(text)) == 2


def test_other_ids_in_a_text_are_no_principles():
    assert store(Principle("a", True)).shown_in("[0123456789ab] [x]") == set()


def test_a_principle_that_quotes_another_ones_id_gives_it_no_credit():
    """Writers see the ids in episodes, and may repeat them."""
    other = Principle("look at the lamp", True)
    quoting = Principle(f"fridge [{other.id}] do (0.50): open the fridge", True)
    memory = store(quoting, other, shown=1)
    text = ask(memory, "fridge")
    assert other.id in text
    assert memory.shown_in(text) == {quoting.id}


def test_fault_3_a_merge_changes_no_count():
    old = Principle("open it", True, ("t1",), used=5, won=3)
    (item,) = store(old).merged(Principle("open it!", True, ("t2",)), old).items
    assert (item.used, item.won, item.tasks) == (5, 3, ("t1", "t2"))
    (again,) = store(old).plus(Principle("Open it", True, ("t3",))).items
    assert (again.used, again.won, again.score) == (5, 3, old.score)
    assert again.tasks == ("t1", "t3")


def test_fault_4_only_principles_of_one_type_are_compared():
    both = store(
        Principle("open the fridge", True), Principle("open the fridge", False)
    )
    for guiding in (True, False):
        found = asyncio.run(both.matches(Principle("Open the fridge", guiding)))
        assert [item.guiding for item in found] == [guiding]
    assert not asyncio.run(both.matches(Principle("look at a lamp", True)))


def test_fault_6_queries_change_nothing():
    memory = store(Principle("broken [text] of no use", True))
    before = memory.to_json()
    ask(memory, "")
    ask(memory, "broken")
    assert memory.to_json() == before


def test_the_capacity_costs_the_lowest_score():
    low, high = Principle("a", True, used=4), Principle("b", True, used=4, won=4)
    full = store(low, high, capacity=2).plus(Principle("c", True))
    assert [principle.text for principle in full.items] == ["b", "c"]
