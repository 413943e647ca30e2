"""The reservoir keeps the right records, counts all episodes and resumes exactly."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
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


def test_full_reservoir_drops_the_oldest_of_the_crowded_outcome():
    reservoir = Reservoir(capacity=4, failure_share=0.5)
    reservoir.add([make("s", True), make("f1"), make("f2"), make("f3")])
    reservoir.add([make("f4")])  # 4 failures of 5 exceed 2: the oldest failure goes
    assert [r.task for r in reservoir.records(0)] == ["s", "f2", "f3", "f4"]
    reservoir.add([make("s2", True), make("s3", True)])
    # 3 failures exceed 2: f2 goes; then 2 do not: the oldest success goes.
    assert [r.task for r in reservoir.records(0)] == ["f3", "f4", "s2", "s3"]


def test_window_reaches_so_many_steps_back_and_not_ahead():
    reservoir = Reservoir(window=3)
    reservoir.add(make(f"t{step}", step=step) for step in range(1, 7))
    assert [r.step for r in reservoir.records(5)] == [3, 4, 5]
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


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"),
            st.booleans(),
            st.sampled_from("xy"),
            st.integers(0, 3),
        ),
        max_size=60,
    ),
    st.integers(0, 60),
)
def test_state_goes_on_as_if_never_interrupted(episodes, cut):
    step, records = 0, []
    for task, success, bank, initial_delay_s in episodes:
        step += initial_delay_s
        records.append(make(task, success, bank=bank, step=step))
    whole, first, second = (Reservoir(capacity=5, window=6) for _ in range(3))
    whole.add(records)
    first.add(records[:cut])
    second.restore(json.loads(json.dumps(first.state())))
    second.add(records[cut:])
    assert second.state() == whole.state()
    held = whole.records(step)
    assert len(held) <= 5
    assert len({(r.task, r.bank, r.success) for r in held}) == len(held)


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
