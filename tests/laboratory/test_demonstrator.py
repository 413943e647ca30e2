"""Demonstrating, and correcting what another player does, in the real engine."""

import importlib.util
from dataclasses import replace

import pytest

from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.laboratory.demonstrator import (
    Attempt,
    Habits,
    Teaching,
    attempted_bank,
    correct,
    demonstrate,
)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
NEVER = Habits(*[0.0] * 7)
PERFECT = Teaching(skilled=0.0, slips=0.0, habits=NEVER)
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


def test_without_bad_habits_it_wins_and_teaches_what_it_does(world):
    environment, tasks = world
    for task in tasks:
        shown = demonstrate(environment, task, PERFECT, seed=3)
        assert shown.success, task.id
        assert all(moment.taught == moment.action for moment in shown.moments)
        assert all(moment.action in moment.admissible for moment in shown.moments)


def test_slips_are_impossible_commands_that_are_not_taught(world):
    environment, tasks = world
    clumsy = replace(PERFECT, slips=0.4, max_turns=30)
    moments = [
        m for t in tasks for m in demonstrate(environment, t, clumsy, seed=1).moments
    ]
    slips = [moment for moment in moments if moment.taught is None]
    assert 0.2 < len(slips) / len(moments) < 0.6
    assert all(moment.action not in moment.admissible for moment in slips)


def test_its_own_play_is_corrected_to_itself(world):
    environment, tasks = world
    for task in tasks:
        shown = demonstrate(environment, task, OBEDIENT, seed=5)
        actions = tuple(moment.action for moment in shown.moments)
        assert correct(environment, Attempt(task, 5, actions), OBEDIENT) == shown


def test_a_bad_attempt_is_kept_as_played_and_taught_the_way_on(world):
    """Corrections win from wherever the attempt has led."""
    environment, tasks = world
    for task in tasks:
        bad = ("look", "go to nowhere 9", "look", "inventory")
        taught = correct(environment, Attempt(task, 0, bad), PERFECT)
        assert tuple(moment.action for moment in taught.moments) == bad
        assert not taught.success
        assert taught.moments[2].observation == "Nothing happens."
        actions = list(bad)
        for _ in range(20):  # follow the corrections to the goal
            ahead = correct(environment, Attempt(task, 0, (*actions, "look")), PERFECT)
            actions.append(ahead.moments[-1].taught)
            if correct(environment, Attempt(task, 0, tuple(actions)), PERFECT).success:
                break
        else:
            pytest.fail(f"{task.id}: {actions}")


def test_skills_of_an_attempt_follow_from_its_seed_and_are_shown(world):
    environment, tasks = world
    task = tasks[0]
    bank = attempted_bank(task, OBEDIENT, 7)
    assert bank == attempted_bank(task, OBEDIENT, 7)
    taught = correct(environment, Attempt(task, 7, ("look",)), OBEDIENT)
    assert taught.moments[0].skills == bank.active(None)
    drawn = {attempted_bank(task, OBEDIENT, seed).hash for seed in range(20)}
    assert len(drawn) > 5


def test_an_attempt_on_harmful_skills_ends_when_patience_does(world):
    environment, tasks = world
    harmful = Teaching(
        skilled=1.0, max_skills=3, helpful=0.0, patience=2, habits=NEVER, slips=0.0
    )
    lengths = [
        len(correct(environment, Attempt(task, seed, ("look",) * 30), harmful).moments)
        for task in tasks
        for seed in range(4)
    ]
    assert min(lengths) <= 3
