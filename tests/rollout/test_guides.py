"""What a context's guide says: in trunk and branch, and to tags that it answers."""

import asyncio

import jax
import notebook
import numpy as np
import pytest
from library_context import OPENING, SKILL, Library
from scripted_engine import ScriptedEngine

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.alfworld.wordings import WORDINGS
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Observation
from reskill_jax.memories.principles import TAG, Principle, Principles
from reskill_jax.memories.settings import EvolverSettings
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector, rollout_metrics
from reskill_jax.rollout.context import (
    BankContext,
    EmptyContext,
    StaticGuide,
)
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import SkillBank

TOKENIZER = train_tokenizer(["<action>write a word</action> send erase"] * 3, 320)
TASK = notebook.task("a b")


def builder(**changes):
    options = {
        "wording": WORDINGS["full"],
        "layout": "tree",
        "max_tokens": 3000,
        "max_turns": 6,
        **changes,
    }
    return PromptBuilder(TOKENIZER, **options)


@pytest.fixture(scope="module")
def pool():
    with EnvironmentPool(notebook.Notebook, workers=1) as pool:
        yield pool


def play(pool, context, says, *, prompts=None, engine=None, max_turns=6, size=1):
    engine = engine or ScriptedEngine(TOKENIZER, says)
    collector = Collector(
        engine,
        pool,
        prompts or builder(),
        TaggedFormat(),
        max_turns=max_turns,
        concurrency=size,
    )
    return asyncio.run(
        collector.collect(
            [TASK],
            np.zeros((1, size), int),
            [context],
            sampling=Sampling(max_tokens=8),
            seed=1,
        )
    )


def act(*actions):
    return [f"<action>{action}</action>" for action in actions]


def tokens(episode):
    """Tokens that an episode costs: trunks once, and every branch and response."""
    turns = sum(len(turn.branch) + len(turn.response) for turn in episode.turns)
    return turns + sum(len(trunk) for trunk in episode.trunks)


def prompt_of(episode, turn):
    trunk = episode.trunks[turn.window][: turn.trunk_length]
    return TOKENIZER.decode([*trunk, *turn.branch])


# ---- the opening


def test_the_opening_is_in_the_trunk_once(pool):
    says = act("write a", "write b", "write c", "write d", "write e", "send")
    [plain] = play(pool, EmptyContext(), says)
    [opened] = play(pool, Opens(), says)
    assert opened.actions == plain.actions
    extra = len(TOKENIZER.encode(f"\n{OPENING}\n"))
    # Of the whole episode of six turns, not of each.
    assert tokens(opened) - tokens(plain) == extra
    assert len(opened.trunks) == 1
    for ours, theirs in zip(opened.turns, plain.turns, strict=True):
        assert ours.trunk_length == theirs.trunk_length + extra
        assert ours.branch.tolist() == theirs.branch.tolist()
        assert prompt_of(opened, ours).count(OPENING) == 1


def test_the_opening_is_in_every_window(pool):
    says = act(*(f"write {'word ' * 8}{k}" for k in range(12)))
    small = builder(wording=WORDINGS["brief"], max_tokens=250, max_turns=12)
    [episode] = play(pool, Opens(), says, prompts=small, max_turns=12)
    assert len(episode.trunks) >= 3
    for trunk in episode.trunks:
        assert TOKENIZER.decode(trunk.tolist()).count(OPENING) == 1
    for turn in episode.turns:
        assert turn.trunk_length + len(turn.branch) <= 250
        assert OPENING not in TOKENIZER.decode(turn.branch.tolist())


def test_the_published_layout_has_the_opening_as_well(pool):
    prompts = builder(layout="paper")
    [episode] = play(pool, Opens(), act("write a", "send"), prompts=prompts)
    for turn in episode.turns:
        assert prompt_of(episode, turn).count(OPENING) == 1


@pytest.mark.parametrize("layout", ["tree", "paper"])
def test_an_opening_that_is_too_long_is_cut(layout):
    prompts = builder(layout=layout, max_tokens=800)
    first = Observation("a room", ("look",))
    talk = Conversation(prompts, "goal", first, StaticGuide("Remember. " * 500))
    for _ in range(20):
        prompt = talk.prompt(first, [])
        length = prompt.trunk_length + len(prompt.branch)
        assert length <= 800
        talk.advance("look", "nothing")
    text = TOKENIZER.decode(talk.trunks[0][: prompt.trunk_length] + prompt.branch)
    assert "Remember. Remember." in text
    assert " ..." in text


def test_it_is_told_that_an_opening_was_cut(pool):
    """One that does not fit is another method than the one that was asked for."""
    says = act("write a", "send")
    episodes = [
        play(pool, Opens(), says, prompts=builder(**changes))[0]
        for changes in ({}, {"wording": WORDINGS["brief"], "max_tokens": 150})
    ]
    assert [episode.opening_cut for episode in episodes] == [False, True]
    assert episodes[1].opening == OPENING  # what the context said, all the same
    assert rollout_metrics(episodes, 1.0)["rollout/opening_cut"] == 0.5
    [plain] = play(pool, EmptyContext(), says)
    assert "rollout/opening_cut" not in rollout_metrics([plain], 1.0)


def test_an_engine_reads_what_the_opening_says(pool):
    """A policy that is not scripted says other things with it."""
    config = DecoderConfig(TOKENIZER.vocab_size, 32, 64, 2, 2, 1, 16)
    engine = JaxEngine(
        config,
        init(config, jax.random.key(1)),
        eos_ids=TOKENIZER.eos_ids,
        max_sequences=2,
        context=640,
        block_size=64,
    )
    small = builder(wording=WORDINGS["brief"], max_tokens=600, max_turns=2)
    played = [
        play(pool, context, (), prompts=small, engine=engine, max_turns=2, size=2)
        for context in (EmptyContext(), Opens(), Opens())
    ]
    engine.close()
    plain, opened, again = (
        [turn.response.tolist() for e in episodes for turn in e.turns]
        for episodes in played
    )
    assert opened == again != plain


# ---- notes


def test_notes_are_in_the_branch_of_their_turn_only(pool):
    context = Library()
    [episode] = play(pool, context, act("write a", "write b", "write c", "send"))
    assert [turn.active_skills for turn in episode.turns] == [
        (),
        ("even", "be-brief"),
        (),
        ("even", "be-brief"),
    ]
    for number, turn in enumerate(episode.turns, start=1):
        branch = TOKENIZER.decode(turn.branch.tolist())
        assert ("An even turn.\n- be-brief." in branch) == (number % 2 == 0)
    assert "even turn" not in TOKENIZER.decode(episode.trunks[0].tolist())
    assert context.begun == [(TASK, "note: a b", "empty")]
    assert context.heard == [
        ("empty", None),
        ("wrote a", "write a"),
        ("wrote b", "write b"),
        ("wrote c", "write c"),
    ]
    assert episode.context == context.hash


@pytest.mark.parametrize("layout", ["tree", "paper"])
def test_only_a_context_with_skills_has_a_section_for_them(pool, layout):
    prompts = builder(layout=layout)
    says = act("write a", "send")
    [plain] = play(pool, EmptyContext(), says, prompts=prompts)
    for turn in plain.turns:
        assert "skill" not in prompt_of(plain, turn).lower()
    [empty] = play(pool, BankContext(SkillBank()), says, prompts=prompts)
    for turn in empty.turns:
        prompt = prompt_of(empty, turn)
        assert "skills that may help" in prompt
        assert "Skills:\n(no skill applies to this turn)" in prompt
    [full] = play(pool, BankContext(SkillBank((SKILL,))), says, prompts=prompts)
    for turn in full.turns:
        prompt = prompt_of(full, turn)
        assert "Skills:\n- be-brief. When: Always. Then: Be brief." in prompt
        assert "no skill applies" not in prompt


# ---- tags


def test_what_the_guide_answers_is_a_turn_and_no_step(pool):
    says = [
        "<action>write a</action>",
        "<recall>Mugs  and cups</recall>",
        "<action>dance</action>",
        "<recall>more</recall>",
        "<action>write b</action>",
        "<action>send</action>",
    ]
    before = pool.counters.steps
    context = Library()
    [episode] = play(pool, context, says)
    assert pool.counters.steps - before == 4
    assert [turn.text.strip() for turn in episode.turns] == says
    assert episode.actions[1] == "Mugs and cups"
    assert episode.observations == (
        "empty",
        "wrote a",
        "recalled Mugs and cups",
        "?",
        "recalled more",
        "wrote b",
        "sent",
    )
    assert [turn.valid for turn in episode.turns] == [
        True,
        True,
        False,
        True,
        True,
        True,
    ]
    assert [turn.reward for turn in episode.turns] == [0, 0, 0, 0, 0, 1]
    assert episode.success
    trunk = TOKENIZER.decode(episode.trunks[0].tolist())
    assert "recalled Mugs and cups" in trunk
    assert context.heard[2] == ("recalled Mugs and cups", "Mugs and cups")


def test_a_tag_that_the_guide_leaves_goes_to_the_world(pool):
    [episode] = play(pool, Library(), ["<pass>write a</pass>", *act("send")])
    assert episode.observations == ("empty", "wrote a", "sent")
    [episode] = play(pool, EmptyContext(), ["<pass>write a</pass>", *act("send")])
    assert episode.observations == ("empty", "?", "sent")
    assert [turn.valid for turn in episode.turns] == [False, True]


def test_answers_count_as_turns_and_the_world_is_finished_after_them(pool):
    says = [*act("write a", "write b"), "<recall>x</recall>"]
    [episode] = play(pool, Library(), says, max_turns=4)
    assert len(episode.turns) == 4
    assert [turn.reward for turn in episode.turns] == [0, 0, 0, 1]
    assert episode.final_observation == "recalled x"


class Opens:
    """Only opens."""

    kind = "test/opens"
    hash = "opens"

    async def begin(self, task, goal, observation):
        return StaticGuide(OPENING)


def test_evolver_fault_7_what_is_too_long_for_a_prompt_costs_no_reply(pool):
    """EvolveR's released code raises there, and drops the replies of a whole batch."""
    known = tuple(Principle(f"mugs {k} {'and cups ' * 40}", True) for k in range(4))
    memory = Principles(EvolverSettings(), known)
    says = [f"<{TAG}>mugs {k}</{TAG}>" for k in range(5)] + act("write a")
    prompts = builder(max_tokens=800)
    episodes = play(pool, memory, says, prompts=prompts, size=3)
    for episode in episodes:
        assert not episode.lost
        assert [turn.text.strip() for turn in episode.turns] == says
        answers = [memory.answer(f"mugs {k}") for k in range(5)]
        for seen, answer in zip(episode.observations[1:], answers, strict=False):
            assert seen == asyncio.run(answer)
        for turn in episode.turns:
            assert turn.trunk_length + len(turn.branch) <= 800
