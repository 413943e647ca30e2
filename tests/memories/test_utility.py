"""MemRL's retrieval and utility against oracles, and the faults of its code."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.llm.embedders import lexical
from reskill_jax.memories.settings import MemrlSettings
from reskill_jax.memories.utility import (
    Experience,
    UtilityMemory,
    choose,
    standardised,
)

SETTINGS = MemrlSettings()
GOAL = "heat an egg and put it in the fridge"
FLOATS = st.floats(-1, 1, allow_nan=False)


def memory(*items, **settings):
    return UtilityMemory(MemrlSettings(**settings), items)


def plus(store, *items):
    for item in items:
        store = asyncio.run(store.plus(item))
    return store


def retrieve(store, key):
    return asyncio.run(store.retrieve(key))


@given(st.lists(st.tuples(st.floats(0, 1), FLOATS), min_size=1, max_size=12))
def test_the_score_is_the_published_one(pairs):
    similarity, q = map(list, zip(*pairs, strict=True))
    spread = np.std(q)
    if spread < 1e-6 and spread > 0:
        return  # rounding decides
    z = np.clip((np.array(q) - np.mean(q)) / spread, -3, 3) if spread else 0.0
    score = 0.5 * (np.array(similarity) - 0.5187) / 0.1203 + 0.5 * z
    chosen = choose(similarity, q, SETTINGS)
    assert len(chosen) == min(3, len(q))
    rest = [score[k] for k in range(len(q)) if k not in chosen]
    assert min(score[k] for k in chosen) >= max(rest, default=-np.inf) - 1e-9
    assert [score[k] for k in chosen] == sorted(
        (score[k] for k in chosen), reverse=True
    )


def test_utilities_that_all_agree_say_nothing_and_outliers_are_clipped():
    assert standardised([0.3, 0.3], 3.0) == [0.0, 0.0]
    assert max(standardised([1.0] + [0.0] * 30, 3.0)) == 3.0


@given(FLOATS, st.lists(FLOATS, max_size=5))
def test_utility_moves_by_three_tenths_of_the_difference(q, returns):
    item = Experience(GOAL, "text", True, q=q)
    (found,) = memory(item).rewarded({item.id: returns}).items
    for r in returns:
        q = q + 0.3 * (r - q)
    assert found.q == pytest.approx(q)
    assert found.visits == len(returns)


def test_the_threshold_is_inclusive_and_only_the_five_nearest_keys_give_candidates():
    keys = [f"heat an egg {'x' * k}" for k in range(1, 8)]
    store = memory(*(Experience(key, f"of {key}", True) for key in keys))
    near = asyncio.run(store.nearest("heat an egg"))
    assert len(near) == 5
    exact = max(near.values())
    cosine = lexical(["heat an egg"]) @ lexical(keys[:1]).T
    assert exact == pytest.approx(float(cosine[0, 0]), abs=1e-6)
    at = replace(store, settings=MemrlSettings(threshold=exact))
    above = replace(store, settings=MemrlSettings(threshold=exact + 1e-5))
    assert asyncio.run(at.nearest("heat an egg"))
    assert not asyncio.run(above.nearest("heat an egg"))


def test_all_memories_of_a_key_are_candidates_and_useless_ones_are_not():
    items = [Experience(GOAL, f"text {k}", True, q=k / 10) for k in range(6)]
    assert [x.text for x in retrieve(memory(*items), GOAL)] == [
        "text 5", "text 4", "text 3",
    ]  # fmt: skip
    few = retrieve(memory(*items, q_min=0.45), GOAL)
    assert [x.text for x in few] == ["text 5"]


def test_fault_a_an_equal_key_keeps_what_lay_under_it():
    store = plus(memory(), *(Experience(GOAL, f"text {k}", True) for k in range(3)))
    assert [item.text for item in store.items] == ["text 0", "text 1", "text 2"]
    assert {item.key for item in store.items} == {GOAL}


def test_fault_c_what_has_no_text_is_not_kept_and_nothing_twice():
    item = Experience(GOAL, "text", True)
    assert plus(memory(), replace(item, text="")).items == ()
    assert plus(memory(), item, replace(item, born=4)).items == (item,)


def test_fault_d_the_store_is_bounded_by_utility_never_at_the_new_ones_cost():
    items = [
        Experience(f"key {k}", f"t{k}", True, q=q) for k, q in enumerate((0.5, -1, 0))
    ]
    store = plus(
        memory(*items, capacity=3), Experience("other words", "new", True, q=-1)
    )
    assert [item.text for item in store.items] == ["t0", "t2", "new"]


def test_fault_e_means_of_groups_tell_memories_apart_where_most_is_lost():
    """By returns of +-1, one after another, utilities of a weak policy are noise.

    One memory is shown where 20% are won, the other where 5% are; ten groups of eight.
    """
    rng, right = np.random.default_rng(0), {"groups": 0, "one by one": 0}
    for _ in range(200):
        won = {key: rng.random((10, 8)) < p for key, p in (("a", 0.2), ("b", 0.05))}
        items = [Experience(key, key, True) for key in won]
        returns = {item.id: (2 * won[item.key].mean(1) - 1).tolist() for item in items}
        a, b = memory(*items).rewarded(returns).items
        right["groups"] += a.q > b.q
        returns = {
            item.id: (2.0 * won[item.key].ravel() - 1).tolist() for item in items
        }
        a, b = memory(*items).rewarded(returns).items
        right["one by one"] += a.q > b.q
    assert right["groups"] > 190
    assert right["one by one"] < 175


def test_a_near_key_is_shared_and_contents_are_never_merged():
    near = plus(
        memory(Experience(GOAL, "a", True)), Experience(GOAL.upper(), "b", False)
    )
    assert [(item.key, item.text) for item in near.items] == [(GOAL, "a"), (GOAL, "b")]
    far = plus(
        memory(Experience(GOAL, "a", True)), Experience("look at a lamp", "b", True)
    )
    assert [item.key for item in far.items] == [GOAL, "look at a lamp"]


def test_successes_stand_before_failures_and_rooms_are_keys_only_if_asked_for():
    store = memory(Experience(GOAL, "lost", False), Experience(GOAL, "won", True))
    text = store.lay_out(store.items)
    assert text.index("won") < text.index("lost")
    assert store.key("goal", "room") == "goal"
    assert memory(keyed_by="goal_and_room").key("goal", "room") == "room\ngoal"
