"""Branches without a skill: what they say, where they are recorded, what is chosen."""

import asyncio
from dataclasses import replace

import corridor
import numpy as np
import pytest
from grpo_cases import make_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_engine import ScriptedEngine

from reskill_jax.codec import decode, encode
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Observation
from reskill_jax.grpo.packing import pack
from reskill_jax.policy.random_policy import random_policy
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import BankContext, Note, StaticGuide
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Ablation, Episode
from reskill_jax.rollout.meter import Recorder, choose, measured, tokens_of
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

RIGHT = Skill("go-right", "d", "Always.", "Go right.")
FIRST = Skill("begin", "d", "You begin.", "Look first.", Trigger("beginning"))
BANK = SkillBank((RIGHT, FIRST))
TOKENIZER = Tokenizer.load(random_policy("tiny", 0))


def builder(layout="tree", max_tokens=600):
    return PromptBuilder(
        TOKENIZER,
        wording=corridor.WORDING,
        layout=layout,
        max_tokens=max_tokens,
        max_turns=9,
    )


def seen(text="door 1", actions=corridor.ACTIONS):
    return Observation(text, actions)


def talk(bank, layout="tree", turns=3, **options):
    made = Conversation(
        builder(layout, **options), "reach door 3", seen(), StaticGuide(bank=bank)
    )
    for k in range(turns):
        made.prompt(seen(), bank.active(None))
        made.advance("left", f"door {k}")
    return made


@pytest.mark.parametrize("layout", ["tree", "paper"])
@pytest.mark.parametrize("left_out", [0, 1])
@pytest.mark.parametrize("bank", [BANK, SkillBank((RIGHT,))])
def test_the_branch_is_that_of_the_bank_without_the_skill(layout, left_out, bank):
    if left_out >= len(bank.skills):
        left_out = 0
    made = talk(bank, layout)
    prompt = made.prompt(seen(), bank.skills)
    branch = made.without(prompt, seen(), bank.skills, left_out)
    rest = SkillBank(tuple(s for k, s in enumerate(bank.skills) if k != left_out))
    other = talk(rest, layout)
    wanted = other.prompt(seen(), rest.skills)
    assert branch.tolist() == wanted.branch
    assert branch.tolist() != prompt.branch
    window, length = prompt.window, prompt.trunk_length
    assert made.trunks[window][:length] == other.trunks[window][:length]


def test_a_prompt_that_had_to_be_shortened_is_not_scored():
    long = Skill("long", "d", "Always.", "Go on and on. " * 40)
    made = talk(BANK, turns=12, max_tokens=300)
    prompt = made.prompt(seen(), (RIGHT, long))
    assert prompt.notes == 1
    assert made.without(prompt, seen(), (RIGHT, long), 0) is None


def record(session, share, notes=BANK.skills):
    made = talk(BANK)
    prompt = made.prompt(seen(), notes)
    return [Recorder(session, share).record(made, prompt, seen(), notes, 3)]


def test_episodes_record_by_their_session_and_only_skills():
    assert record("7/0/1", 0.0) == [None]
    [found] = record("7/0/1", 1.0)
    assert found.skill in BANK.names()
    assert record("7/0/1", 1.0)[0].lot == found.lot
    assert record("7/0/1", 1.0, (Note("remembered", "door 2"),)) == [None]
    recorded = sum(record(f"{k}/0/0", 0.03) != [None] for k in range(400))
    assert 0.15 < recorded / 400 < 0.33  # 8 times the share
    left_out = {record(f"{k}/0/0", 1.0)[0].skill for k in range(20)}
    assert left_out == set(BANK.names())


@pytest.fixture(scope="module")
def pool():
    with EnvironmentPool(corridor.Corridor, workers=1) as pool:
        yield pool


def play(pool, meter, seed=3):
    engine = ScriptedEngine(TOKENIZER, ["left", "<action>right</action>"])
    collector = Collector(
        engine, pool, builder(), corridor.FORMAT, max_turns=5, concurrency=4
    )
    episodes = asyncio.run(
        collector.collect(
            corridor.tasks(4),
            np.ones((4, 4), int),
            (BankContext(SkillBank()), BankContext(BANK)),
            sampling=Sampling(),
            seed=seed,
            meter=meter,
        )
    )
    return episodes, dict(engine.prompts)


def test_recording_changes_nothing_else(pool):
    plain, asked = play(pool, 0.0)
    metered, asked_again = play(pool, 0.05)
    assert asked == asked_again
    found = [turn.ablation for e in metered for turn in e.turns]
    assert any(found)
    assert not all(found)
    for episode in metered:
        episode.turns = [replace(turn, ablation=None) for turn in episode.turns]
    assert encode(plain) == encode(metered)


def test_what_is_recorded_follows_from_the_seed_and_survives_a_checkpoint(pool):
    first, again, other = (play(pool, 0.05, seed)[0] for seed in (3, 3, 4))
    assert encode(first) == encode(again)
    lots = [
        [(e.group, e.index) for e in episodes if any(t.ablation for t in e.turns)]
        for episodes in (first, other)
    ]
    assert lots[0] != lots[1]
    assert encode(decode(list[Episode], encode(first))) == encode(first)


def ablate(episodes, seed, chance=0.6):
    """Give turns a shorter branch, as if a skill were left out."""
    rng = np.random.default_rng(seed)
    for episode in episodes:
        for turn in episode.turns:
            if rng.random() < chance:
                turn.ablation = Ablation(
                    "a", turn.branch[-1:], int(rng.integers(2**31))
                )
    return episodes


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_a_step_never_scores_more_than_its_share(seed, share):
    episodes = ablate(make_batch(seed), seed)
    chosen = choose(episodes, share)
    total = sum(map(tokens_of, episodes))
    assert sum(map(tokens_of, chosen)) <= share * total
    for episode in chosen:
        for one, other in zip(episode.turns[::2], episode.turns[1::2], strict=True):
            assert other.branch is one.ablation.branch
            assert other.response is one.response
    assert choose(episodes[::-1], share)[:1] == chosen[:1]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_tokens_are_counted_as_they_are_packed(seed):
    [episode, *_] = make_batch(seed, windows=1)
    [packed] = pack([episode], buckets=(256,), tokens_per_microbatch=256)
    slots = int((np.asarray(packed.visible_end) > 0).sum())
    # The last token of a response has no slot of its own.
    assert tokens_of(episode) == slots + len(episode.turns)


def test_effects_are_listed_by_skill():
    episodes = ablate(make_batch(0), 0)
    assert measured(episodes) == {}
    turn = next(t for t in episodes[0].turns if t.ablation)
    turn.ablation.effect = 0.25
    assert measured(episodes) == {"a": [0.25]}
