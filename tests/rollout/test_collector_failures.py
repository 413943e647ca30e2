"""Episodes whose environment fails, in real worker processes: again, lost, dropped."""

import asyncio
import json

import corridor
import numpy as np
import pytest
from failing_corridors import Deadly, Flaky
from scripted_engine import ScriptedEngine

from reskill_jax.codec import decode, encode
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.task import Task
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode, LostGroup, whole_groups
from reskill_jax.rollout.prefetch import Batch
from reskill_jax.rollout.prompts import PromptBuilder

TOKENIZER = train_tokenizer(["<action>right</action> door 3 after 1"] * 3, 300)
BROKEN = Task("train/broken/t", "walk", "train", "not a door")


@pytest.fixture(scope="module")
def pool():
    with EnvironmentPool(corridor.Corridor, workers=2, timeout_s=60.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def flaky():
    with EnvironmentPool(Flaky, workers=1, timeout_s=60.0) as pool:
        yield pool


def play(pool, tasks, group_size=3, *, concurrency=6, **options):
    engine = ScriptedEngine(TOKENIZER, ["<action>right</action>"])
    attempts = options.pop("max_attempts", 2)
    prompts = PromptBuilder(
        TOKENIZER, wording=corridor.WORDING, layout="tree", max_tokens=240, max_turns=5
    )
    collector = Collector(
        engine, pool, prompts, corridor.FORMAT, 5, concurrency, attempts
    )
    played = asyncio.run(
        collector.collect(
            tasks,
            np.zeros((len(tasks), group_size), int),
            [EmptyContext()],
            sampling=Sampling(),
            seed=1,
            **options,
        )
    )
    return played, engine


def places(episodes):
    return [(e.group, e.index) for e in episodes]


@pytest.mark.parametrize("only_whole_groups", [False, True])
@pytest.mark.parametrize("concurrency", [1, 9])
def test_a_broken_game_loses_its_own_episodes_only(
    pool, concurrency, only_whole_groups
):
    good = corridor.tasks(2)
    played, engine = play(
        pool,
        [good[0], BROKEN, good[1]],
        concurrency=concurrency,
        only_whole_groups=only_whole_groups,
    )
    assert places(played) == [(g, i) for g in range(3) for i in range(3)]
    assert [bool(e.lost) for e in played] == [False] * 3 + [True] * 3 + [False] * 3
    for episode in played:
        if episode.lost:
            assert "reset of task train/broken/t (source not a door)" in episode.lost
            assert "raised ValueError: invalid literal" in episode.lost
            assert (episode.turns, episode.trunks, episode.success) == ([], [], False)
        else:
            assert episode.success
    # The engine keeps nothing of any of them.
    assert set(engine.prompts) <= set(engine.released)
    whole, dropped = whole_groups(played)
    assert places(whole) == [(g, i) for g in (0, 2) for i in range(3)]
    assert dropped == (LostGroup("train/broken/t", played[3].lost),)
    # They survive as documents, as all episodes of a run do.
    text = json.dumps(encode(played))
    assert json.dumps(encode(decode(list[Episode], json.loads(text)))) == text


@pytest.mark.parametrize(("failures", "lost"), [(1, False), (2, True)])
def test_an_episode_is_played_again_and_then_lost(tmp_path, flaky, failures, lost):
    path = tmp_path / "failures"
    path.write_text(str(failures))
    task = Task("train/flaky/t", "walk", "train", str(path))
    [episode], engine = play(flaky, [task], 1)
    assert bool(episode.lost) == lost
    assert path.read_text() == "0"
    assert len(engine.released) == 2
    # An attempt that failed leaves no trace in the one that did not.
    [wanted], _ = play(flaky, [task], 1)
    assert lost or encode(episode) == encode(wanted)


def test_once_a_rollout_is_lost_its_group_is_not_played_on(tmp_path, flaky):
    path = tmp_path / "failures"
    path.write_text("1000")
    task = Task("train/flaky/t", "walk", "train", str(path))
    played, engine = play(flaky, [task], 99, only_whole_groups=True)
    assert all("raised ConnectionError: " in e.lost for e in played)
    assert len(engine.prompts) <= 6  # as many as play at once
    # What was left in the middle does not disturb the next episodes.
    path.write_text("0")
    again, _ = play(flaky, [task], 9)
    assert all(e.success and not e.lost for e in again)


def test_what_kills_its_worker_is_not_tried_again_and_harms_no_neighbour():
    tasks = [Task("train/deadly/t", "walk", "train", "1"), *corridor.tasks(3)[2:]]
    with EnvironmentPool(Deadly, workers=1, max_attempts=2) as deadly:
        played, _ = play(deadly, tasks, 2, max_attempts=3, only_whole_groups=True)
        assert deadly.counters.restarts <= 2 * 2
    assert [bool(e.lost) for e in played] == [True, True, False, False]
    assert "made its worker fail 2 times" in played[0].lost
    assert all(e.success for e in played[2:])


def test_a_batch_learns_from_whole_groups_only(pool):
    played, _ = play(pool, [BROKEN, *corridor.tasks(1)])
    whole, lost = whole_groups(played)
    batch = Batch(whole, (1,), 1.0, lost=lost)
    assert batch.training_episodes == whole
    metrics = batch.metrics(0)
    assert metrics["rollout/failed_groups"] == 1
    assert metrics["rollout/success"] == 1
    text = json.dumps(encode(batch))
    assert json.dumps(encode(decode(Batch, json.loads(text)))) == text
