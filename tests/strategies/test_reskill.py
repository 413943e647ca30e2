"""The strategy: proposals become trials, trials banks; state survives a restart."""

import json

import numpy as np
import pytest

from configs.alfworld import get_config
from reskill_jax.config import validate
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.creator.rules import HARMFUL, HELPFUL
from reskill_jax.creator.scripted import ScriptedCreator, addition
from reskill_jax.environments.base import Task
from reskill_jax.rollout.types import Episode, Turn
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.trial import TrialConfig
from reskill_jax.strategies import STRATEGIES, make_strategy
from reskill_jax.strategies.base import Static
from reskill_jax.strategies.reskill import ReSkill
from reskill_jax.strategies.staged import Staged

EMPTY = np.zeros(1, np.int32)
TASKS, GROUP = 16, 8


def make(rules=HELPFUL[:3], *, auto_accept=False, reservoir_min=10, **trial):
    return ReSkill(
        ScriptedCreator([addition(rule) for rule in rules]),
        TrialConfig(**trial),
        bank=SkillBank(),
        capacity=4,
        reservoir=Reservoir(200),
        reservoir_min=reservoir_min,
        seed=0,
        auto_accept=auto_accept,
    )


def play(strategy, step, chance):
    """Play a step in which arm k wins with probability chance[k]."""
    arms = strategy.assign(step, TASKS, GROUP)
    rng = np.random.default_rng(step)
    episodes = []
    for group in range(TASKS):
        for index in range(GROUP):
            arm = int(arms[group, index])
            bank = strategy.banks[arm]
            episode = Episode(
                Task(f"train/t{group}/x", "kind", "train", ""),
                group,
                index,
                arm,
                bank.hash,
                goal="put a hot mug in shelf",
                final_observation="end",
                success=bool(rng.random() < chance[arm]),
            )
            for action in ("go to shelf 1", "open shelf 1", "take mug 1 from shelf 1"):
                fired = tuple(skill.name for skill in bank.active(action))
                episode.turns.append(
                    Turn(0, 0, EMPTY, EMPTY, EMPTY, 0, "room", "", action, True, fired)
                )
            episodes.append(episode)
    return strategy.observe(step, episodes), episodes


def run(strategy, steps, chance, start=0):
    return [play(strategy, step, chance)[0] for step in range(start, start + steps)]


def test_a_helpful_bundle_is_tried_accepted_and_the_next_one_follows():
    strategy = make()
    metrics = run(strategy, 12, (0.2, 0.6))
    decided = [m for m in metrics if "trial/accepted" in m]
    assert decided[0]["trial/accepted"] == 1
    assert decided[0]["trial/effect"] > 0.2
    assert strategy.history()[0]["accepted"]
    assert strategy.banks[0].skills[0].name == HELPFUL[0].name
    assert len(strategy.history()) >= 2


def test_a_harmful_bundle_is_rejected_and_the_very_bank_comes_back():
    strategy = make(HARMFUL[:1])
    before = strategy.banks[0]
    run(strategy, 8, (0.6, 0.2))
    assert [trial["accepted"] for trial in strategy.history()] == [False]
    assert strategy.banks == (before,)
    assert strategy.banks[0] is before


def test_every_group_contrasts_both_arms_during_a_trial_and_none_outside():
    strategy = make()
    assert (strategy.assign(0, TASKS, GROUP) == 0).all()
    play(strategy, 0, (0.3, 0.3))
    assert len(strategy.banks) == 2
    arms = strategy.assign(1, TASKS, GROUP)
    assert ((arms == 0).any(1) & (arms == 1).any(1)).all()


def test_auto_accept_takes_everything_untested():
    strategy = make(HARMFUL[:2], auto_accept=True)
    run(strategy, 8, (0.5, 0.1))
    assert all(trial["accepted"] for trial in strategy.history())
    assert [trial["effect"] for trial in strategy.history()] == [None, None]
    assert len(strategy.banks) == 1
    assert len(strategy.banks[0].skills) == 2


def test_no_trial_before_the_reservoir_holds_enough():
    strategy = make(reservoir_min=10_000)
    run(strategy, 3, (0.3, 0.3))
    assert len(strategy.banks) == 1


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_restored_strategy_goes_on_as_if_never_stopped(stop):
    chance = (0.35, 0.45)
    straight = make()
    run(straight, 10, chance)
    first = make()
    run(first, stop, chance)
    state = json.loads(json.dumps(first.state()))
    second = make()
    second.restore(state)
    assert second.banks == first.banks
    run(second, 10 - stop, chance, start=stop)
    assert second.state() == straight.state()


def test_a_static_bank_never_changes():
    bank = SkillBank((HELPFUL[0].skill(),))
    strategy = Static(bank)
    metrics, episodes = play(strategy, 0, (0.5,))
    assert metrics == {}
    assert strategy.banks == (bank,)
    assert {episode.arm for episode in episodes} == {0}


def test_skills_evolve_in_their_stage_only():
    for skills_first in (True, False):
        staged = Staged(make(), 6, skills_first=skills_first)
        decided = []
        for step in range(1, 13):
            assert len(staged.banks) == 1 or not staged.trains_policy(step)
            metrics, _ = play(staged, step, (0.2, 0.6))
            decided.append("trial/accepted" in metrics)
            assert staged.trains_policy(step) == ((step > 6) == skills_first)
        assert any(decided[:6]) == skills_first
        assert any(decided[6:]) != skills_first
        again = Staged(make(), 6, skills_first=skills_first)
        again.restore(json.loads(json.dumps(staged.state())))
        assert again.banks == staged.banks
        assert again.state() == staged.state()


def test_every_strategy_can_be_named_and_differs_where_it_should(tmp_path):
    config = get_config("smoke")
    made = {}
    for name in STRATEGIES:
        if name != "static":
            config.strategy.name = name
            validate(config)
            made[name] = make_strategy(config, tmp_path / "calls.jsonl")
    assert made["no_discount"]._trial_config.discount == "none"
    assert made["uniform"]._trial_config.uniform
    assert not made["no_analyzer"]._creator.analyse
    assert made["reskill"]._creator.analyse
    assert made["reskill"]._trial_config == TrialConfig(**config.trial.to_dict())
    assert TrialConfig(**get_config("paper").trial.to_dict()) == TrialConfig()
    for name in ("skill_first", "policy_first"):
        assert made[name].strategy._trial_config.frozen_policy
        assert made[name].skills_first == (name == "skill_first")
