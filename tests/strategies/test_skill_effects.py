"""What the meter finds reaches creator, log and checkpoint, and is a skill's own."""

import json
from dataclasses import replace

import pytest
from strategy_cases import banks, play

from reskill_jax.creator import render
from reskill_jax.creator.proposal import Proposal
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.alfworld.rules import HARMFUL
from reskill_jax.laboratory.known_proposals import ScriptedCreator, addition
from reskill_jax.skills.operations import Delete
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.strategies.reskill import ReSkill
from reskill_jax.strategies.skill_effects import SkillEffects
from reskill_jax.trials.trial_config import TrialConfig

OLD = Skill("old", "d", "Always.", "Look around.")
NARROW = Skill("narrow", "d", "w", "a", Trigger("action_pattern", "^fly "))
BANK = SkillBank((OLD, NARROW))
FOLLOWED, GONE = {"old": 0.3}, {"old": 0.001}


class Watched(ScriptedCreator):
    """Keeps what it was shown."""

    def propose(self, evidence):
        self.seen = evidence
        return super().propose(evidence)


def make(operations=()):
    creator = Watched(list(operations))
    strategy = ReSkill(
        creator,
        TrialConfig(),
        bank=BANK,
        max_skills=4,
        tasks_per_step=4,
        group_size=4,
        reservoir=Reservoir(200),
        reservoir_min=4,
        seed=0,
    )
    return strategy, creator


def test_the_creator_is_shown_what_was_measured():
    strategy, creator = make()
    events = [play(strategy, step, (0.5,), effects=FOLLOWED).events for step in (1, 2)]
    [effect] = creator.seen.effects  # nothing was measured of the other one
    assert (effect.name, effect.verdict, effect.turns) == ("old", "followed", 96)
    assert effect.mean == pytest.approx(0.3)
    shown = render.skills(creator.seen)
    assert "[fired in 32 of 32 recent episodes; followed: responses are 0.300" in shown
    assert "narrow (action_pattern '^fly ', version 1): When: w Do: a [fired in 0" in (
        shown
    )
    assert events[0][0].startswith("step 1: old is followed: responses are 0.300")
    assert events[1] == ()  # it is told once


def test_a_skill_that_is_not_needed_any_more_is_told():
    strategy, creator = make()
    for step in range(1, 5):
        events = play(strategy, step, (0.5,), effects=FOLLOWED if step < 3 else GONE)
    [effect] = creator.seen.effects
    assert (effect.verdict, effect.first) == ("internalised", pytest.approx(0.3))
    assert not events.events  # was told at step 3
    assert "at first (192 turns)" in str(effect)


def test_without_a_meter_nothing_is_kept_or_shown():
    strategy, creator = make()
    play(strategy, 1, (0.5,))
    assert creator.seen.effects == ()
    assert strategy.state()["effects"] == {"courses": {}}
    assert "likelier" not in render.skills(creator.seen)


def test_a_trial_is_logged_with_the_effects_of_what_it_changes():
    new = addition(HARMFUL[0])
    strategy, _ = make([new])
    name = HARMFUL[0].name
    decisions = []
    for step in range(1, 15):
        learned = play(strategy, step, (0.9, 0.1), effects={**FOLLOWED, name: 0.6})
        decisions += learned.decisions
    [decision] = decisions
    [entry] = decision["meter"]  # the other skills are the same in both banks
    assert (entry["name"], entry["arm"], entry["verdict"]) == (name, 1, "followed")
    assert not decision["accepted"]
    plain, _ = make([new])
    for step in range(1, 15):
        for decision in play(plain, step, (0.9, 0.1)).decisions:
            assert "meter" not in decision


def test_effects_survive_a_restart():
    straight, _ = make()
    stopped, _ = make()
    for step in (1, 2):
        play(straight, step, (0.5,), effects=FOLLOWED)
        play(stopped, step, (0.5,), effects=FOLLOWED)
    resumed, _ = make()
    resumed.restore(json.loads(json.dumps(stopped.state())))
    play(straight, 3, (0.5,), effects=GONE)
    play(resumed, 3, (0.5,), effects=GONE)
    assert resumed.state() == straight.state()
    assert resumed._effects.of(BANK.skills)[0].turns == 3 * 48


def test_another_wording_starts_anew_and_what_left_the_banks_is_forgotten():
    strategy, _ = make()
    play(strategy, 1, (0.5,), effects=FOLLOWED)
    effects = strategy._effects
    assert [effect.name for effect in effects.of(BANK.skills)] == ["old"]
    reworded = replace(OLD, action="Look twice.", version=2)
    assert effects.of([reworded]) == ()
    assert effects.add(2, [], [SkillBank((reworded,))]) == []
    assert effects == SkillEffects()


def test_a_skill_that_is_ignored_is_dropped_by_a_trial_only():
    delete = Proposal((Delete("old"),), ("old is ignored",), (), bank="")
    strategy, creator = make([delete])
    for step in range(1, 60):
        learned = play(strategy, step, (0.5, 0.5), effects=GONE)
        assert creator.seen.effects[0].verdict == "ignored"
        if learned.decisions:
            break
        assert [[*bank.names()] for bank in banks(strategy, step)] == [
            ["old", "narrow"],
            ["narrow"],
        ]
    [decision] = learned.decisions
    [entry] = decision["meter"]
    assert (entry["name"], entry["arm"], entry["verdict"]) == ("old", 0, "ignored")
