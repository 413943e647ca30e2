"""Recorded demonstrations are read back as they were played."""

import importlib.util
import json
from dataclasses import replace

import pytest

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.rollout.demonstration import (
    DemonstratedTurn,
    Demonstration,
    as_line,
    read_demonstrations,
)
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.skills.skill_md import load_bank

HAS_ALFWORLD = importlib.util.find_spec("alfworld") is not None
OPEN = Skill("open-it", "d", "It is closed.", "Open it.")
OTHERWISE = replace(OPEN, when_to_use="You see something closed.")


def turn(*skills, response="<action>look</action>"):
    seen = Observation("a desk", ("look", "wait"), hint="VERB THING")
    return DemonstratedTurn(seen, "look", response, skills)


def test_a_line_is_read_back_as_what_it_was(tmp_path):
    shown = Demonstration(
        Task("train/t1", "look", "train", ""),
        "see",
        (turn(OPEN), turn(OTHERWISE, response=None), turn()),
        "a lamp",
        success=False,
        opening="a memory",
    )
    names = {OPEN: "open-it-1", OTHERWISE: "open-it-2"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(as_line(shown, names)) + "\n")
    one, two = (replace(skill, name=name) for skill, name in names.items())
    (read,) = read_demonstrations(path, SkillBank((one, two)))
    assert read == replace(shown, turns=(turn(one), turn(two, response=None), turn()))


@pytest.mark.skipif(not HAS_ALFWORLD, reason="needs the extra alfworld")
def test_wordings_of_one_rule_get_different_names():
    from reskill_jax.laboratory.record import name_apart

    task = Task("t", "", "train", "")
    found = name_apart(
        [
            Demonstration(task, "g", (turn(OPEN), turn(OTHERWISE, OPEN))),
            Demonstration(task, "g", (turn(replace(OPEN, name="close-it")),)),
        ]
    )
    assert [*found.values()] == ["open-it-1", "open-it-2", "close-it-1"]


@pytest.mark.skipif(not HAS_ALFWORLD, reason="needs the extra alfworld")
def test_what_is_recorded_are_the_demonstrations_of_the_recipe(tmp_path, monkeypatch):
    from reskill_jax.laboratory.collect import demonstrate_all, find_tasks
    from reskill_jax.laboratory.recipe import Recipe
    from reskill_jax.laboratory.record import record

    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "cache"))
    recipe = Recipe(num_houses=3, episodes=2)
    recipe = replace(recipe, teaching=replace(recipe.teaching, skilled=1.0))
    output = tmp_path / "out"
    count, success = record(recipe, output, workers=1)
    tasks = find_tasks(recipe, workers=1)
    shown = demonstrate_all(tasks, recipe.teaching, 2, recipe.seed, workers=1)
    read = read_demonstrations(output / "episodes.jsonl", load_bank(output / "skills"))
    assert count == len(read) == len(shown) == 6
    assert success == sum(d.success for d in shown) / 6
    for one, other in zip(read, shown, strict=True):
        assert one.goal == other.goal
        assert one.final_observation == other.final_observation
        for mine, theirs in zip(one.turns, other.turns, strict=True):
            assert mine.observation == theirs.observation
            assert (mine.action, mine.response) == (theirs.action, theirs.response)
            texts = [(skill.when_to_use, skill.action) for skill in mine.skills]
            assert texts == [(s.when_to_use, s.action) for s in theirs.skills]
    assert any(turn.skills for d in read for turn in d.turns)
    with pytest.raises(FileExistsError, match="is there already"):
        record(recipe, output, workers=1)
