"""Demonstrating, and correcting what another player does, in the real engine."""

import importlib.util
from dataclasses import replace

import pytest

from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.laboratory.demonstrator import (
    DemonstrationSettings,
    MistakeRates,
    PlayedEpisode,
    bank_of_episode,
    correct,
    demonstrate,
)
from reskill_jax.laboratory.known_proposals import NEUTRAL
from reskill_jax.laboratory.remarks import ACTION, REMARK, WHEN

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
NEVER = MistakeRates(*[0.0] * 7)
PERFECT = DemonstrationSettings(skilled=0.0, slips=0.0, habits=NEVER)
OBEDIENT = replace(PERFECT, skilled=1.0, helpful=1.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    from reskill_jax.environments.alfworld.environment import (
        AlfworldEnvironment,
        find_games,
    )

    patch = pytest.MonkeyPatch()
    patch.setenv("RESKILL_CACHE", str(tmp_path_factory.mktemp("cache")))
    root = cached_houses("small", train=6, held_out=0, seed=0, workers=1)
    patch.undo()
    environment = AlfworldEnvironment()
    yield environment, find_games(str(root), "train")
    environment.close()


def taught(turn):
    """The command to imitate."""
    if turn.response is None:
        return None
    return turn.response.removeprefix("<action>").removesuffix("</action>")


def test_without_mistakes_it_wins_and_teaches_what_it_does(world):
    environment, tasks = world
    for task in tasks:
        shown = demonstrate(environment, task, PERFECT, seed=3)
        assert shown.success, task.id
        assert all(taught(turn) == turn.action for turn in shown.turns)
        assert all(turn.action in turn.observation.actions for turn in shown.turns)


def test_slips_are_impossible_commands_that_are_not_taught(world):
    environment, tasks = world
    clumsy = replace(PERFECT, slips=0.4, max_turns=30)
    turns = [
        m for t in tasks for m in demonstrate(environment, t, clumsy, seed=1).turns
    ]
    slips = [turn for turn in turns if taught(turn) is None]
    assert 0.2 < len(slips) / len(turns) < 0.6
    assert all(turn.action not in turn.observation.actions for turn in slips)


def test_its_own_play_is_corrected_to_itself(world):
    environment, tasks = world
    for task in tasks:
        shown = demonstrate(environment, task, OBEDIENT, seed=5)
        actions = tuple(turn.action for turn in shown.turns)
        assert correct(environment, PlayedEpisode(task, 5, actions), OBEDIENT) == shown


def test_a_bad_episode_is_kept_as_played_and_taught_the_way_on(world):
    """Corrections win from wherever the episode has led."""
    environment, tasks = world
    for task in tasks:
        bad = ("look", "go to nowhere 9", "look", "inventory")
        corrected = correct(environment, PlayedEpisode(task, 0, bad), PERFECT)
        assert tuple(turn.action for turn in corrected.turns) == bad
        assert not corrected.success
        assert corrected.turns[2].observation.text == "Nothing happens."
        actions = list(bad)
        for _ in range(20):  # follow the corrections to the goal
            ahead = correct(
                environment, PlayedEpisode(task, 0, (*actions, "look")), PERFECT
            )
            actions.append(taught(ahead.turns[-1]))
            if correct(
                environment, PlayedEpisode(task, 0, tuple(actions)), PERFECT
            ).success:
                break
        else:
            pytest.fail(f"{task.id}: {actions}")


def test_skills_of_an_episode_follow_from_its_seed_and_are_shown(world):
    environment, tasks = world
    task = tasks[0]
    bank = bank_of_episode(task, OBEDIENT, 7)
    assert bank == bank_of_episode(task, OBEDIENT, 7)
    corrected = correct(environment, PlayedEpisode(task, 7, ("look",)), OBEDIENT)
    assert corrected.turns[0].skills == bank.active(None)
    drawn = {bank_of_episode(task, OBEDIENT, seed).hash for seed in range(20)}
    assert len(drawn) > 5


def test_remarks_stand_beside_skills_and_beside_none_and_change_nothing(world):
    environment, tasks = world
    task = tasks[0]
    remarked = replace(OBEDIENT, skilled=0.5, remarked=0.5)
    banks = [bank_of_episode(task, remarked, seed) for seed in range(400)]
    names = [{skill.name for skill in bank.skills} for bank in banks]
    for kept in (lambda x: x == {REMARK}, lambda x: REMARK in x and len(x) > 1,
                 lambda x: not x, lambda x: x and REMARK not in x):  # fmt: skip
        assert 60 < sum(map(bool, map(kept, names))) < 140  # a quarter of 400, +-4.6 sd
    places = {bank.skills[0].name == REMARK for bank in banks if len(bank.skills) > 1}
    assert places == {False, True}
    assert not any(
        skill.name == REMARK
        for seed in range(100)
        for skill in bank_of_episode(task, OBEDIENT, seed).skills
    )
    always = replace(PERFECT, remarked=1.0)
    with_remark = demonstrate(environment, task, always, 0)
    assert all(turn.skills[0].name == REMARK for turn in with_remark.turns)
    assert list(map(taught, with_remark.turns)) == list(
        map(taught, demonstrate(environment, task, PERFECT, 0).turns)
    )


def test_remarks_are_not_those_that_policies_are_measured_with():
    taught_texts, measured = {*WHEN, *ACTION}, set()
    for rule in NEUTRAL:
        measured |= set(rule.wordings[0])
    assert len(measured) == 12
    assert not taught_texts & measured


def test_an_episode_on_harmful_skills_ends_when_patience_does(world):
    environment, tasks = world
    harmful = DemonstrationSettings(
        skilled=1.0, max_skills=3, helpful=0.0, patience=2, habits=NEVER, slips=0.0
    )
    lengths = [
        len(
            correct(
                environment, PlayedEpisode(task, seed, ("look",) * 30), harmful
            ).turns
        )
        for task in tasks
        for seed in range(4)
    ]
    assert min(lengths) <= 3
