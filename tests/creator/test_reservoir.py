"""The reservoir keeps the right records, counts all episodes and resumes exactly."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_episodes import acts

from reskill_jax.codec import decode, encode
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.protocol import Task
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.episode_record import EpisodeRecord


def make(task, success=False, *, bank="b", step=0):
    return acts("look", task=task, success=success, bank=bank, step=step)


def labels(records):
    return [(r.task, r.success, r.step) for r in records]


def test_record_holds_the_words_of_an_episode_and_no_tokens():
    tokens = np.arange(3, dtype=np.int32)
    logprobs = np.zeros(3, np.float32)
    turns = [
        Turn(
            0,
            3,
            tokens,
            tokens,
            logprobs,
            7,
            seen,
            "I think. go",
            act,
            ok,
            active_skills,
        )
        for seen, act, ok, active_skills in (
            ("A room.", "go to shelf 1", True, ("a", "b")),
            ("A shelf.", "fly", False, ("b",)),
        )
    ]
    episode = Episode(
        task=Task("t1", "pick", "train", "path"),
        group=0,
        index=0,
        arm=1,
        context="beef",
        goal="put a egg in fridge.",
        trunks=[tokens],
        turns=turns,
        final_observation="Nothing happens.",
        reward=1.0,
        success=True,
    )

    record = episode.record(step=12)

    assert record == EpisodeRecord(
        task="t1",
        kind="pick",
        goal="put a egg in fridge.",
        bank="beef",
        step=12,
        success=True,
        actions=("go to shelf 1", "fly"),
        observations=("A room.", "A shelf.", "Nothing happens."),
        active_skills=(("a", "b"), ("b",)),
        valid=(True, False),
    )
    assert record.skills() == {"a", "b"}
    assert decode(EpisodeRecord, json.loads(json.dumps(encode(record)))) == record


def test_newest_record_of_task_bank_and_outcome_replaces_the_older():
    reservoir = Reservoir()
    reservoir.add([make("x", step=1), make("y", step=1), make("x", True, step=1)])
    reservoir.add([make("x", step=2), make("x", bank="c", step=2)])
    assert labels(reservoir.records(2)) == [
        ("y", False, 1),
        ("x", True, 1),
        ("x", False, 2),
        ("x", False, 2),
    ]
    assert [r.bank for r in reservoir.records(2)] == ["b", "b", "b", "c"]


def outcomes(records):
    return Counter(record.success for record in records)


def test_full_reservoir_keeps_the_share_of_outcomes():
    reservoir = Reservoir(capacity=4, failure_share=0.5)
    reservoir.add([make("s", True), make("f1"), make("f2"), make("f3")])
    reservoir.add([make("f4")])  # 4 failures of 5 exceed 2: one of them goes
    assert outcomes(reservoir.records(0)) == {False: 3, True: 1}
    reservoir.add([make("s2", True), make("s3", True)])
    # 3 failures exceed 2: one goes; then 2 do not: a success goes.
    assert outcomes(reservoir.records(0)) == {False: 2, True: 2}


def test_steps_have_the_same_room_then_banks_then_tasks():
    reservoir = Reservoir(capacity=6)
    reservoir.add([make("a", step=1), make("b", step=1)])
    reservoir.add(
        [make(task, bank="c", step=2) for task in "xyz"]
        + [make("v", step=2), make("w", step=2)]
    )
    reservoir.add([make("v", bank="d", step=3)])
    held = reservoir.records(3)
    assert Counter(record.step for record in held) == {1: 2, 2: 3, 3: 1}
    assert Counter(r.bank for r in held if r.step == 2) in (
        {"b": 2, "c": 1},
        {"b": 1, "c": 2},
    )
    reservoir.add([make("v", bank="d", step=4), make("u", bank="d", step=4)])
    steps = Counter(record.step for record in reservoir.records(4))
    assert steps == {1: 2, 2: 2, 4: 2}
    tasks = Counter(record.task for record in reservoir.records(4))
    assert tasks["v"] == 1  # of two others, the one that is there already


def big_run(steps, *, repeat=False, capacity=200):
    """Steps of the published scale, 256 x 5; every third one tries a second bank.

    Returns:
        The reservoir, and every task's place in the batch of its step.
    """
    rng = np.random.default_rng(0)
    reservoir, places = Reservoir(capacity), {}
    order = rng.permutation(256 * steps)
    for step in range(1, steps + 1):
        drawn = order[256 * (step - 1) : 256 * step]
        if repeat:
            drawn = rng.permutation(3553)[:256]
        hard = rng.random(256)
        records = []
        for place, task in enumerate(drawn):
            places[step, f"t{task}"] = place
            for index in range(5):
                bank = "new" if step % 3 == 0 and index % 2 else "old"
                won = bool(rng.random() < hard[place] * 0.8)
                records.append(make(f"t{task}", won, bank=bank, step=step))
        reservoir.add(records)
    return reservoir, places


def test_at_scale_it_represents_steps_banks_outcomes_and_places_in_the_batch():
    reservoir, places = big_run(30)
    held = reservoir.records(30)
    assert len(held) == 200
    assert outcomes(held) == {False: 140, True: 60}
    # 20 steps of the window have 7 failures and 3 successes each.
    assert Counter((r.step, r.success) for r in held) == {
        (step, won): 3 if won else 7 for step in range(11, 31) for won in (False, True)
    }
    for step in range(12, 31, 3):
        banks = Counter((r.bank, r.success) for r in held if r.step == step)
        assert abs(banks["new", False] - banks["old", False]) <= 1
        assert abs(banks["new", True] - banks["old", True]) <= 1
    tasks = Counter(record.task for record in held)
    assert max(tasks.values()) <= 2  # a win and a loss
    assert len(tasks) > 100
    # Every place in the batch is as likely. Chi-square with 7 degrees of freedom is
    # below 24.3 in 999 of 1000 samples; the tail of a batch alone would give 1000.
    found = [places[r.step, r.task] * 8 // 256 for r in held]
    counts = np.bincount(found, minlength=8)
    assert ((counts - 25) ** 2 / 25).sum() < 24.3
    # Both outcomes of a task at a step are kept together more often than by chance.
    won = {(r.step, r.task) for r in held if r.success}
    lost = {(r.step, r.task) for r in held if not r.success}
    assert len(won & lost) > 10


def test_the_newest_batch_alone_is_sampled_from_all_its_places():
    reservoir, places = big_run(1)
    held = reservoir.records(1)
    counts = np.bincount([places[1, r.task] * 4 // 256 for r in held], minlength=4)
    assert len(held) == 200
    assert counts.min() > 25


def test_tasks_that_come_again_take_the_place_of_their_older_records():
    reservoir, places = big_run(30, repeat=True)
    held = reservoir.records(30)
    steps = Counter(record.step for record in held)
    assert len(held) == 200
    assert set(steps) == set(range(11, 31))
    assert max(steps.values()) < 40
    found = np.bincount([places[r.step, r.task] * 4 // 256 for r in held], minlength=4)
    assert found.min() > 25


def test_few_tasks_are_kept_evenly():
    rng = np.random.default_rng(0)
    reservoir = Reservoir(capacity=40)
    for step in range(1, 26):
        reservoir.add(
            make(f"t{task}", bool(rng.random() < 0.5), bank=f"b{step // 5}", step=step)
            for task in rng.permutation(30)[:16]
        )
    tasks = Counter((r.task, r.success) for r in reservoir.records(25))
    assert len(reservoir.records(25)) == 40
    assert len({task for task, _ in tasks}) > 20
    assert max(tasks.values()) <= 3  # of six banks


def test_what_is_out_of_the_window_makes_room_first():
    reservoir = Reservoir(capacity=4, window=2)
    reservoir.add(make(f"old{k}", step=1) for k in range(4))
    reservoir.add(make(f"new{k}", step=3) for k in range(4))
    assert {record.step for record in reservoir.records(3)} == {3}
    assert len(reservoir.records(3)) == len(reservoir.state()["records"]) == 4


@pytest.mark.parametrize(
    ("tasks", "both", "most"), [(30, True, 60), (30, False, 30), (500, True, 200)]
)
def test_how_many_records_there_can_be(tasks, both, most):
    reservoir = Reservoir(200)
    assert reservoir.most(tasks, both_outcomes=both) == most
    outcomes = (False, True) if both else (True,)
    for step in range(1, 20):
        reservoir.add(
            make(f"t{k}", o, step=step) for k in range(tasks) for o in outcomes
        )
    assert len(reservoir.records(19)) == most


def test_window_reaches_so_many_steps_back_and_not_ahead():
    reservoir = Reservoir(window=3)
    reservoir.add(make(f"t{step}", step=step) for step in range(1, 7))
    assert [r.step for r in reservoir.records(5)] == [4, 5]
    assert [r.step for r in reservoir.records(6)] == [4, 5, 6]
    assert [r.step for r in reservoir.records(7)] == [5, 6]
    assert [t.step for t in reservoir.tallies(6)] == [4, 5, 6]


def test_tally_counts_every_episode_even_if_one_record_stands_for_many():
    reservoir = Reservoir()
    won = acts("look", success=True, bank="b", active_skills=("help",))
    lost = acts("look", success=False, bank="b")
    reservoir.add([won] * 7 + [lost])
    (tally,) = reservoir.tallies(0)
    assert (tally.episodes, tally.successes) == (8, 7)
    assert tally.active_skills == {"help": 7}
    assert len(reservoir.records(0)) == 2


@settings(deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.sampled_from("abcdefgh"), st.booleans(), st.sampled_from("xy")
            ),
            max_size=12,
        ),
        max_size=12,
    ),
    st.integers(0, 12),
)
def test_state_goes_on_as_if_never_interrupted(steps, cut):
    batches = [
        [make(task, won, bank=bank, step=step) for task, won, bank in batch]
        for step, batch in enumerate(steps)
    ]
    whole, first, second = (Reservoir(capacity=5, window=6) for _ in range(3))
    for batch in batches:
        whole.add(batch)
    for batch in batches[:cut]:
        first.add(batch)
    second.restore(json.loads(json.dumps(first.state())))
    for batch in batches[cut:]:
        second.add(batch)
    assert json.dumps(second.state()) == json.dumps(whole.state())
    held = whole.records(len(steps))
    assert len(held) <= 5
    assert len({(r.task, r.bank, r.success) for r in held}) == len(held)
    played = {(r.task, r.bank, r.success) for batch in batches[-6:] for r in batch}
    assert len(whole.records(len(steps) - 1)) == min(5, len(played)) or not steps


def test_replacing_a_record_evicts_nothing():
    reservoir = Reservoir(capacity=2)
    old = make("a")
    reservoir.add([old, make("b")])
    reservoir.add([replace(old, step=1)])
    assert labels(reservoir.records(1)) == [("b", False, 0), ("a", False, 1)]


@pytest.mark.parametrize(
    "options", [{"capacity": 1}, {"window": 0}, {"failure_share": 1.0}]
)
def test_bad_options_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Reservoir(**options)
