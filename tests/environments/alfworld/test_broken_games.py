"""Game files that are damaged, played by the real engine in real processes."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from scripted_engine import ScriptedEngine

pytest.importorskip("textworld")

from reskill_jax.environments.alfworld.environment import (
    ACTION_FORMAT,
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.games import generate
from reskill_jax.environments.alfworld.house_settings import HouseSettings
from reskill_jax.environments.alfworld.wordings import WORDINGS
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import whole_groups
from reskill_jax.rollout.prompts import PromptBuilder

TOKENIZER = train_tokenizer(["<action>look</action> You are in a room."] * 3, 320)


def with_a_hole(text):
    return text[: len(text) // 2] + text[-200:]


def without_a_goal(text):
    return text.replace("(:goal", "(:gaol")


def garbled(text):
    return text.replace("(define", "(((define")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """One good game, and one for every kind of damage."""
    root = tmp_path_factory.mktemp("games") / "houses"
    generate(root, HouseSettings(train=6, valid_seen=0, valid_unseen=0, seed=5))
    tasks = find_games(str(root), "train")[:4]
    for task, damage in zip(
        tasks[1:], (with_a_hole, without_a_goal, garbled), strict=True
    ):
        path = Path(task.source)
        text = path.read_text()
        assert damage(text) != text
        path.write_text(damage(text))
    return find_games(str(root), "train")[:4]  # nothing is noticed so far


def test_a_damaged_game_file_loses_its_group_and_no_other(tasks):
    with EnvironmentPool(AlfworldEnvironment, workers=2, timeout_s=60.0) as pool:
        collector = Collector(
            ScriptedEngine(TOKENIZER, ["<action>look</action>"]),
            pool,
            PromptBuilder(
                TOKENIZER,
                wording=WORDINGS["full"],
                layout="tree",
                max_tokens=4000,
                max_turns=2,
            ),
            ACTION_FORMAT,
            max_turns=2,
            concurrency=8,
            max_attempts=2,
        )
        played = asyncio.run(
            collector.collect(
                [*tasks[1:], tasks[0]],
                np.zeros((4, 3), int),
                [EmptyContext()],
                sampling=Sampling(),
                seed=0,
                only_whole_groups=True,
            )
        )
    whole, lost = whole_groups(played)
    assert [group.task for group in lost] == [task.id for task in tasks[1:]]
    for group, task in zip(lost, tasks[1:], strict=True):
        assert f"reset of task {task.id} (source {task.source})" in group.reason
    assert [(e.group, e.index, len(e.turns)) for e in whole] == [
        (3, index, 2) for index in range(3)
    ]
