"""The strategy: proposals become trials, trials banks; state survives a restart."""

import json

import numpy as np
import pytest

from configs.alfworld import get_config
from reskill_jax.creator.proposal import PENDING
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.environments.protocol import Task
from reskill_jax.laboratory.known_proposals import ScriptedCreator, addition
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies import STRATEGIES, make_strategy
from reskill_jax.strategies.base import Static
from reskill_jax.strategies.reskill import ReSkill
from reskill_jax.strategies.staged import Staged
from reskill_jax.trials.trial_config import TrialConfig
from reskill_jax.validate import validate

EMPTY = np.zeros(1, np.int32)
TASKS, GROUP = 16, 8


def make(
    rules=HELPFUL[:3], *, auto_accept=False, reservoir_min=10, candidates=1, **trial
):
    return ReSkill(
        ScriptedCreator([addition(rule) for rule in rules]),
        TrialConfig(**trial),
        bank=SkillBank(),
        max_skills=4,
        reservoir=Reservoir(200),
        reservoir_min=reservoir_min,
        seed=0,
        candidates=candidates,
        auto_accept=auto_accept,
    )


class Slow(ScriptedCreator):
    """Has a proposal at every second call only."""

    calls = 0

    def propose(self, evidence):
        self.seen = evidence
        self.calls += 1
        return PENDING if self.calls % 2 else super().propose(evidence)


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
                active_skills = tuple(skill.name for skill in bank.active(action))
                episode.turns.append(
                    Turn(
                        0,
                        0,
                        EMPTY,
                        EMPTY,
                        EMPTY,
                        0,
                        "room",
                        "",
                        action,
                        True,
                        active_skills,
                    )
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
    assert [trial["contrast"] for trial in strategy.history()] == [None, None]
    assert len(strategy.banks) == 1
    assert len(strategy.banks[0].skills) == 2


def test_several_candidates_are_tried_at_once_and_the_best_is_accepted():
    strategy = make(candidates=2)
    run(strategy, 10, (0.2, 0.2, 0.6))
    first, second = strategy.history()[:2]
    assert (first["accepted"], second["accepted"]) == (False, True)
    assert first["step"] == second["step"]
    assert first["contrast"]["effect"] < 0.2 < second["contrast"]["effect"]
    assert next(iter(strategy.banks[0].names())) == HELPFUL[1].name
    # The list is at its end: the last one is on trial alone.
    assert len(strategy.banks) == 2 or len(strategy.history()) == 3


def test_candidates_that_take_time_are_waited_for():
    creator = Slow([addition(rule) for rule in HELPFUL[:3]])
    first, second = make(candidates=2), make(candidates=2)
    first._creator = second._creator = creator
    run(first, 2, (0.3,))
    assert len(first.banks) == 1  # one candidate is there, the other is not
    second.restore(json.loads(json.dumps(first.state())))
    play(second, 2, (0.3,))
    assert len(second.banks) == 3
    assert [past.candidate for past in creator.seen.history] == [second.banks[1].hash]


def test_no_trial_before_the_reservoir_holds_enough():
    strategy = make(reservoir_min=10_000)
    run(strategy, 3, (0.3, 0.3))
    assert len(strategy.banks) == 1


@pytest.mark.parametrize("candidates", [1, 2])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_restored_strategy_goes_on_as_if_never_stopped(stop, candidates):
    chance = (0.35, 0.45, 0.4)
    straight = make(candidates=candidates)
    run(straight, 10, chance)
    first = make(candidates=candidates)
    run(first, stop, chance)
    state = json.loads(json.dumps(first.state()))
    second = make(candidates=candidates)
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
    assert TrialConfig(**get_config().trial.to_dict()) == TrialConfig()
    for name in ("skill_first", "policy_first"):
        assert made[name].strategy._trial_config.frozen_policy
        assert made[name].skills_first == (name == "skill_first")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strategy.candidates": 0},
            "strategy.candidates=0: must be an integer, 1 or more",
        ),
        (
            {"strategy.candidates": 4},
            "strategy.candidates=4: a trial divides a group of 4",
        ),
        (
            {"strategy.candidates": 2, "trial.mode": "paper"},
            "strategy.candidates=2: a trial of mode='paper' has one",
        ),
    ],
)
def test_impossible_numbers_of_candidates_are_named(changes, message):
    config = get_config("smoke")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        validate(config)
