"""Batches collected ahead of the step that learns from them, with scripted parts."""

import asyncio
import json
import threading
import traceback

import numpy as np
import pytest

from reskill_jax.codec import decode, encode
from reskill_jax.environments.task import Task
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.prefetch import Batch, Batches, Planned

TASKS = [Task(f"train/{k}", "kind", "train", "") for k in range(2)]
LIMIT = 60.0  # seconds until what never comes is an error


class Engine:
    """Has weights, and knows whether somebody is sampling."""

    def __init__(self):
        self.version = 0
        self.params = "weights 0"
        self.sampling = 0
        self.log = []

    def push(self, params, version):
        assert not self.sampling
        assert params == f"weights {version}"
        self.params, self.version = params, version
        self.log.append(f"push {version}")

    def sleep(self):
        assert not self.sampling
        self.log.append("sleep")


def episode(group, index, version):
    trunk = np.arange(5, dtype=np.int32)
    tokens = np.arange(index + 1, dtype=np.int32)
    logprobs = -np.random.default_rng(index).random(index + 1, np.float32)
    turn = Turn(0, 3, tokens, tokens, logprobs, version, "o", "t", "a", True, ("s",))
    return Episode(
        TASKS[group], group, index, index % 2, "bank", "goal", [trunk], [turn]
    )


BOTH = (0, 1)  # groups


class Collector:
    """Plays two groups of two; `meanwhile(step)` is awaited in the middle."""

    def __init__(self, engine, meanwhile=None):
        self.engine = engine
        self.meanwhile = meanwhile
        self.begun = []

    def __call__(self, step):
        self.begun.append(step)  # at the call, as a strategy plans
        return Planned(self.play(step), BOTH, (0.0, 0.1 + step / 3))

    async def play(self, step):
        self.engine.sampling += 1
        if self.meanwhile:
            await self.meanwhile(step)
        self.engine.sampling -= 1
        return [episode(g, i, self.engine.version) for g in range(2) for i in range(2)]


def train(batches, steps, *, overlap, update=lambda step: None, evaluate=None):
    """The main loop, without the rest: returns the versions in each step's turns."""
    versions = {}
    for step in range(1, steps + 1):
        batch = batches.take(step, f"weights {step - 1}", step - 1)
        versions[step] = {t.version for e in batch.episodes for t in e.turns}
        if overlap and step < steps:
            batches.start(step + 1, f"weights {step - 1}", step - 1)
        else:
            batches.sleep()
        update(step)
        if evaluate:
            batches.serve(f"weights {step}", step)
            evaluate(step)
    return versions


@pytest.fixture
def engine():
    return Engine()


def test_without_overlap_every_batch_is_sampled_by_the_newest_weights(engine):
    batches = Batches(engine, Collector(engine), 0)
    assert train(batches, 4, overlap=False) == {1: {0}, 2: {1}, 3: {2}, 4: {3}}
    assert engine.log[:4] == ["sleep", "push 1", "sleep", "push 2"]
    assert not [t for t in threading.enumerate() if t.name == "rollout"]


def test_with_overlap_a_batch_is_one_update_old_but_for_the_first(engine):
    collector = Collector(engine)
    batches = Batches(engine, collector, 0)
    assert train(batches, 5, overlap=True) == {1: {0}, 2: {0}, 3: {1}, 4: {2}, 5: {3}}
    assert engine.log == ["push 1", "push 2", "push 3", "sleep"]
    assert collector.begun == [1, 2, 3, 4, 5]


def test_the_next_batch_is_collected_while_the_policy_trains(engine):
    """Each waits for the other to be in its midst: one after the other, none ends."""
    updating = [threading.Event() for _ in range(5)]
    collecting = [threading.Event() for _ in range(5)]

    async def meanwhile(step):
        collecting[step].set()
        if step > 1:
            assert await asyncio.to_thread(updating[step - 1].wait, LIMIT)

    def update(step):
        updating[step].set()
        if step < 4:
            assert collecting[step + 1].wait(LIMIT)

    batches = Batches(engine, Collector(engine, meanwhile), 0)
    train(batches, 4, overlap=True, update=update)


def test_evaluations_see_the_newest_weights_and_leave_the_batch_alone(engine):
    seen = []

    async def slow(step):
        await asyncio.sleep(0.05)  # so that an engine that is pushed to is sampling

    def evaluate(step):
        assert not engine.sampling
        seen.append((step, engine.version, engine.params))

    batches = Batches(engine, Collector(engine, slow), 0)
    versions = train(batches, 4, overlap=True, evaluate=evaluate)
    assert seen == [(step, step, f"weights {step}") for step in range(1, 5)]
    # Evaluations bring the weights sooner to the engine, not to the batches.
    assert versions == {1: {0}, 2: {0}, 3: {1}, 4: {2}}
    assert engine.log == ["push 1", "push 2", "push 3", "sleep", "push 4"]


def test_what_collecting_raises_is_raised_at_the_next_wait(engine):
    async def fails_in_its_thread(step):
        if step == 3:
            raise ZeroDivisionError("no luck")

    updates = []
    batches = Batches(engine, Collector(engine, fails_in_its_thread), 0)
    with pytest.raises(ZeroDivisionError, match="no luck") as caught:
        train(batches, 4, overlap=True, update=updates.append)
    assert updates == [1, 2]
    shown = "".join(traceback.format_exception(caught.value))
    assert "fails_in_its_thread" in shown
    batches.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_update_that_fails_stops_the_collecting(engine, error):
    begun, cancelled = threading.Event(), []

    async def never_ends(step):
        if step == 1:
            return
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(step)
            raise

    def update(step):
        assert begun.wait(LIMIT)
        raise error

    batches = Batches(engine, Collector(engine, never_ends), 0)
    with pytest.raises(error):
        train(batches, 4, overlap=True, update=update)
    batches.close()
    assert cancelled == [2]
    assert not [t for t in threading.enumerate() if t.name == "rollout"]


def test_what_has_just_been_started_can_be_stopped(engine):
    async def never_ends(step):
        await asyncio.Event().wait()

    for _ in range(20):
        batches = Batches(engine, Collector(engine, never_ends), 0)
        batches.start(1, "weights 0", 0)
        batches.close()
    assert not [t for t in threading.enumerate() if t.name == "rollout"]


def test_a_batch_goes_on_after_a_restart(engine):
    batches = Batches(engine, Collector(engine), 0)
    assert batches.state() is None
    batches.start(7, "weights 5", 5)
    text = json.dumps(batches.state())
    wanted = batches.take(7, "weights 6", 6)

    collector = Collector(engine)
    resumed = Batches(engine, collector, 6)
    resumed.restore(json.loads(text))
    assert json.dumps(resumed.state()) == text
    batch = resumed.take(7, "weights 6", 6)
    assert collector.begun == []
    assert batch.seconds == wanted.seconds
    assert batch.train == wanted.train == BOTH
    assert encode(batch.episodes) == encode(wanted.episodes)
    # What the arms were expected to add is that of the plan, to the last bit.
    expected = [(0.0, 0.1 + 7 / 3)[e.arm] for e in batch.episodes]
    assert [e.arm_effect for e in batch.episodes] == expected
    assert len(set(expected)) == 2
    assert [e.task for e in batch.episodes] == [e.task for e in wanted.episodes]
    assert resumed.state() is None


def test_a_wait_that_is_interrupted_loses_no_batch(engine, monkeypatch):
    batches = Batches(engine, Collector(engine), 0)
    batches.start(2, "weights 0", 0)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("reskill_jax.rollout.prefetch.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            batches.serve("weights 1", 1)  # when the batch is there
    assert batches.state() is not None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("episodes"), "episodes"),
        (lambda s: s.update(more=1), "more"),
        (lambda s: s.pop("train"), "train"),
        (lambda s: s.update(train=3), "batch.train: Expected `array`"),
        (lambda s: s["episodes"].reverse(), "not ordered by group and index"),
        (lambda s: s["episodes"][0].update(index=1), "not ordered by group and index"),
        (lambda s: s["episodes"][0].pop("turns"), "turns"),
    ],
)
def test_a_batch_that_is_none_is_refused(engine, damage, message):
    episodes = [episode(g, i, 5) for g in range(2) for i in range(2)]
    state = Batch(episodes, BOTH, 1.0)
    document = json.loads(json.dumps(encode(state)))
    damage(document)
    with pytest.raises(ValueError, match="batch is not a recorded one") as error:
        Batches(engine, Collector(engine), 6).restore(document)
    assert message in str(error.value)


def test_tells_how_far_behind_sampled_tokens_are_on_average():
    episodes = [episode(0, 0, 4), episode(0, 2, 5)]  # of 1 and of 3 tokens
    metrics = Batch(episodes, BOTH, seconds=2.0, waited=0.5).metrics(6)
    assert metrics["rollout/staleness"] == (1 * 2 + 3 * 1) / 4
    assert metrics["time/rollout"] == 2.0
    assert metrics["time/wait"] == 0.5
    assert metrics["speed/rollout_tokens"] == 2.0


def test_a_batch_tells_what_the_policy_learns_from_and_may_be_empty():
    episodes = [episode(g, i, 5) for g in range(2) for i in range(2)]
    for train, wanted in ((BOTH, episodes), ({1}, episodes[2:]), ({}, [])):
        batch = Batch(episodes, tuple(train), 1.0)
        assert batch.training_episodes == wanted
    nothing = Batch([], (), seconds=2.0)
    assert nothing.metrics(6) == {
        "time/rollout": 2.0,
        "time/wait": 0.0,
        "rollout/staleness": 0.0,
        "rollout/failed_groups": 0.0,
    }
    assert decode(Batch, json.loads(json.dumps(encode(nothing)))) == nothing
