"""What a guide of somebody's own says is checked; errors name its context and task."""

import asyncio

import corridor
import numpy as np
import pytest
from corridor_environment import RemoteDrift
from faulty_modules import FaultyContext
from scripted_engine import ScriptedEngine

from reskill_jax.environments.remote import RemotePlayers
from reskill_jax.environments.task import Task
from reskill_jax.modules import ModuleError
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.prompts import PromptBuilder

TOKENIZER = train_tokenizer(["<action>right</action> door 3 after 1"] * 3, 300)


def play(fault, layout="tree"):
    prompts = PromptBuilder(
        TOKENIZER, wording=corridor.WORDING, layout=layout, max_tokens=240, max_turns=2
    )
    engine = ScriptedEngine(TOKENIZER, ["<action>b</action>"])
    players = RemotePlayers(RemoteDrift, timeout_s=60.0)
    collector = Collector(engine, players, prompts, corridor.FORMAT, 2, 2)
    (episode,) = asyncio.run(
        collector.collect(
            [Task("train/7", "kind", "train", "0")],
            np.zeros((1, 1), int),
            [FaultyContext(fault)],
            sampling=Sampling(),
            seed=1,
        )
    )
    return episode, engine


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("begin", "begin raised KeyError: 'missing'"),
        ("no guide", "begin raised AttributeError: 'NoneType' object has no .*opening"),
        ("opening", "begin raised TypeError: opening is 5: needs str"),
        (
            "notes",
            "notes raised TypeError: a note is 'go left': needs .*Skill | .*Note",
        ),
        ("note", "notes raised TypeError: a note's text is 5: needs str"),
        ("raising notes", "notes raised KeyError: 'missing'"),
        ("answer", r"answer raised TypeError: answer is 5: needs str \| None"),
    ],
)
def test_a_mistake_of_a_guide_names_its_context_and_task(fault, message):
    what = rf"^context faulty_modules\.FaultyContext, task train/7: {message}"
    with pytest.raises(ModuleError, match=what):
        play(fault)


@pytest.mark.parametrize("layout", ["tree", "paper"])
def test_half_an_emoji_in_an_opening_becomes_a_sign(layout):
    episode, engine = play("surrogate", layout)
    assert len(episode.turns) == 2
    (prompts,) = engine.prompts.values()
    assert all("half" in prompt and "\ufffd" in prompt for prompt in prompts)
