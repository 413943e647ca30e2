"""Whole episodes: a real engine, real worker processes, a small world."""

import asyncio
import json
import threading
from dataclasses import replace

import corridor
import jax
import numpy as np
import pytest

from reskill_jax.codec import CodecError, decode, encode
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import Threaded, lexical
from reskill_jax.memories.settings import MemrlSettings
from reskill_jax.memories.utility import Experience, UtilityMemory
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector, greedy, rollout_metrics
from reskill_jax.rollout.context import BankContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.strategies.base import NOT_PLAYED

SAMPLING = Sampling(max_tokens=6)
GENERAL = Skill("go-right", "d", "Always.", "Go right.")
AFTER_LEFT = Skill("turn", "d", "You went left.", "Turn.", Trigger("beginning"))
CONTEXTS = (BankContext(SkillBank()), BankContext(SkillBank((GENERAL, AFTER_LEFT))))


@pytest.fixture(scope="module")
def parts():
    texts = ["door 3 after 1", "<action>right</action>", "reach left look"] * 2
    tokenizer = train_tokenizer(texts, 300)
    config = DecoderConfig(tokenizer.vocab_size, 32, 64, 2, 2, 1, 16)
    engine = JaxEngine(
        config,
        init(config, jax.random.key(1)),
        eos_ids=tokenizer.eos_ids,
        max_sequences=4,
        context=256,
        block_size=32,
        prefill_rows=4,
        decode_rows=4,
    )
    prompts = PromptBuilder(
        tokenizer, wording=corridor.WORDING, layout="tree", max_tokens=240, max_turns=5
    )
    with EnvironmentPool(corridor.Corridor, workers=1) as pool:
        yield engine, pool, prompts
    engine.close()


ARMS = np.array([[0, 1, 0], [1, 1, 0]])


def play(parts, concurrency, sampling=SAMPLING, seed=7, arms=ARMS):
    collector = Collector(*parts, corridor.FORMAT, max_turns=5, concurrency=concurrency)
    return asyncio.run(
        collector.collect(
            corridor.tasks(len(arms)), arms, CONTEXTS, sampling=sampling, seed=seed
        )
    )


@pytest.fixture(scope="module")
def episodes(parts):
    return play(parts, concurrency=6)


def test_episodes_come_in_order_and_tell_what_they_ran_on(episodes):
    assert [(e.group, e.index) for e in episodes] == [
        (group, index) for group in range(2) for index in range(3)
    ]
    assert [e.arm for e in episodes] == [0, 1, 0, 1, 1, 0]
    assert all(e.context == CONTEXTS[e.arm].hash for e in episodes)
    assert all(e.goal == "reach door 3" for e in episodes)
    for episode in episodes:
        for number, turn in enumerate(episode.turns):
            first = ("go-right", "turn") if number == 0 else ("go-right",)
            assert turn.active_skills == (first if episode.arm else ())


def test_turns_hold_what_the_engine_saw_and_said(parts, episodes):
    tokenizer = parts[2].tokenizer
    for episode in episodes:
        assert 1 <= len(episode.turns) <= 5
        for turn in episode.turns:
            trunk = episode.trunks[turn.window][: turn.trunk_length]
            prompt = tokenizer.decode([*trunk, *turn.branch])
            assert turn.observation in prompt
            assert ("Go right." in prompt) == ("go-right" in turn.active_skills)
            assert len(turn.response) == len(turn.logprobs) <= 6
            assert turn.text == tokenizer.decode(turn.response)
            action = corridor.FORMAT.parse(turn.text)
            assert action.text == turn.action
            assert turn.valid == (
                action.well_formed and turn.action in corridor.ACTIONS
            )
            assert turn.stopped == (turn.response[-1] == tokenizer.eos_id)


def same(one, two):
    for a, b in zip(one, two, strict=True):
        assert a.actions == b.actions
        assert a.observations == b.observations
        for s, t in zip(a.turns, b.turns, strict=True):
            np.testing.assert_array_equal(s.response, t.response)
            np.testing.assert_array_equal(s.logprobs, t.logprobs)


def test_an_episode_does_not_depend_on_what_runs_beside_it(parts, episodes):
    same(episodes, play(parts, concurrency=1))


def test_the_seed_decides_samples_and_nothing_decides_greedy_ones(parts, episodes):
    other = play(parts, concurrency=6, seed=8)
    assert [e.actions for e in other] != [e.actions for e in episodes]
    still = [play(parts, 6, sampling=greedy(SAMPLING), seed=s) for s in (1, 2)]
    same(*still)


def test_success_ends_an_episode_and_is_counted(parts):
    engine, pool, prompts = parts

    class Right:
        """Answers `right`, as an engine would."""

        async def generate(self, request):
            completion = await engine.generate(request)
            tokens = np.array(prompts.tokenizer.encode("<action>right</action>"))
            return type(completion)(tokens, np.zeros(len(tokens)), 0, True)

        def release(self, session):
            engine.release(session)

    played = play((Right(), pool, prompts), 2, arms=np.zeros((2, 1), int))
    assert [len(e.turns) for e in played] == [3, 2]
    assert all(e.success and e.reward == 1 for e in played)
    metrics = rollout_metrics(played, 2.0)
    assert metrics["rollout/success"] == 1
    assert metrics["rollout/reward"] == 1
    assert metrics["rollout/turns"] == 2.5
    assert metrics["rollout/valid"] == 1
    assert metrics["time/rollout"] == 2.0


def test_rollouts_that_are_not_played_leave_the_others_as_they_were(parts, episodes):
    arms = ARMS.copy()
    arms[0, 1] = arms[1, 0] = NOT_PLAYED
    some = play(parts, concurrency=6, arms=arms)
    places = [(e.group, e.index) for e in some]
    assert places == [(0, 0), (0, 2), (1, 1), (1, 2)]
    same(some, [e for e in episodes if (e.group, e.index) in places])
    assert play(parts, concurrency=6, arms=arms[:0]) == []
    assert rollout_metrics([], 2.0) == {"time/rollout": 2.0}


def test_an_episode_may_be_over_before_its_first_turn(parts):
    engine, pool, prompts = parts
    collector = Collector(engine, pool, prompts, corridor.FORMAT, 5, 1)
    there = [Task("train/there", "walk", "train", str(corridor.GOAL))]
    arms = np.zeros((1, 1), int)
    [episode] = asyncio.run(
        collector.collect(there, arms, CONTEXTS, sampling=SAMPLING, seed=0)
    )
    assert (episode.turns, episode.success) == ([], True)
    assert episode.observations == ("door 3 after 0",)
    metrics = rollout_metrics([episode], 1.0)
    assert metrics["rollout/success"] == 1
    assert metrics["rollout/turns"] == metrics["rollout/prompt_tokens"] == 0


def test_a_failure_comes_out_as_itself(parts):
    with pytest.raises(ValueError, match="is longer than context=256"):
        play(parts, concurrency=6, sampling=Sampling(max_tokens=250))


def test_an_episode_survives_as_a_document(episodes):
    for episode in episodes:
        text = json.dumps(encode(episode))
        copy = decode(Episode, json.loads(text))
        same([episode], [copy])
        assert copy.task == episode.task
        assert json.dumps(encode(copy)) == text
        assert copy.turns[0].branch.dtype == episode.turns[0].branch.dtype
        assert copy.turns[0].active_skills == episode.turns[0].active_skills
        for one, other in zip(copy.trunks, episode.trunks, strict=True):
            np.testing.assert_array_equal(one, other)
    nothing = replace(episodes[0], turns=[], trunks=[np.zeros(0, np.int32)])
    assert len(decode(Episode, encode(nothing)).trunks[0]) == 0


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda e: e.pop("group"), "Episode: Object missing required field `group`"),
        (lambda e: e.pop("success"), "Episode.success: this field is missing"),
        (lambda e: e.update(more=1), "Episode.more: this field is unknown"),
        (lambda e: e["task"].pop("kind"), "Episode.task: Object missing required f"),
        (lambda e: e.update(trunks=[[1, 2]]), "Episode.trunks[0]: Expected `str`, got"),
        (lambda e: e["turns"][0].update(response="<i4[1]:AAA*"), "base64"),
        (lambda e: e["turns"][0].update(response="<i4[1]:AAAA"), "buffer size"),
        (lambda e: e["turns"][0].update(response="<i4[0]:"), "logprobs of a response"),
        (lambda e: e["turns"][0].update(response="AAAA"), "Expected an array, got"),
        (lambda e: e["turns"][0].update(window=1), "turn 0: trunk_length="),
        (lambda e: e["turns"][0].update(trunk_length=999), "turn 0: trunk_length=999,"),
        (lambda e: e["turns"][0].pop("version"), "Episode.turns[0]: Object missing"),
        (lambda e: e.update(turns=[3]), "Episode.turns[0]: Expected `object`, got"),
    ],
)
def test_a_document_that_is_no_episode_is_refused(episodes, damage, message):
    document = json.loads(json.dumps(encode(episodes[0])))
    damage(document)
    with pytest.raises(CodecError) as error:
        decode(Episode, document)
    assert message in str(error.value)


def test_an_embedder_that_hangs_stops_no_other_episode(parts):
    """It answers once an episode that does not need it has ended."""
    engine, pool, prompts = parts
    ended = threading.Event()

    class Watched:
        batch_invariant = engine.batch_invariant
        generate = engine.generate

        def release(self, session):
            ended.set()
            engine.release(session)

    def compute(texts):
        assert ended.wait(60)
        return lexical(texts)

    memory = UtilityMemory(
        MemrlSettings(threshold=0.0),
        (Experience("reach door 3", "go right", True),),
        Threaded("slow", lambda: compute),
    )
    collector = Collector(
        Watched(), pool, prompts, corridor.FORMAT, max_turns=5, concurrency=6
    )
    episodes = asyncio.run(
        collector.collect(
            corridor.tasks(2), ARMS, (CONTEXTS[0], memory), sampling=SAMPLING, seed=7
        )
    )
    assert all(("go right" in e.opening) == (e.arm == 1) for e in episodes)
    assert not any(e.lost for e in episodes)
