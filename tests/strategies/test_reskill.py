"""The strategy: proposals become trials, trials banks; state survives a restart."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
from strategy_cases import banks, draw, history, play

from configs.alfworld import get_config
from reskill_jax import build, build_strategy
from reskill_jax.creator.proposal import PENDING, Proposal
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.laboratory.known_proposals import (
    ScriptedCreator,
    addition,
    known_proposals,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.skills.operations import Add, Delete
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.strategies import NEED_BANK, STRATEGIES
from reskill_jax.strategies.reskill import ReSkill
from reskill_jax.strategies.staged import Staged
from reskill_jax.trials.bounds import make_config
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial_config import TrialConfig
from reskill_jax.validate import validate

TASKS, GROUP = 16, 8


def make(
    rules=HELPFUL[:3],
    *,
    auto_accept=False,
    reservoir_min=10,
    candidates=1,
    bank_problem=lambda bank: "",
    **trial,
):
    return ReSkill(
        ScriptedCreator([addition(rule) for rule in rules]),
        TrialConfig(**trial),
        bank=SkillBank(),
        bank_problem=bank_problem,
        max_skills=4,
        tasks_per_step=TASKS,
        group_size=GROUP,
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


def run(strategy, steps, chance, start=0):
    """Play steps; what was learnt at each."""
    return [play(strategy, step, chance) for step in range(start, start + steps)]


def test_a_plan_tells_what_arms_add_by_the_steps_before_it():
    strategy = make(early_accept=1.0, early_reject=0.0)
    seen = []
    for step in range(6):
        plan = strategy.plan(step, draw)
        assert strategy.plan(step, draw).effects == plan.effects
        twin = make(early_accept=1.0, early_reject=0.0)
        twin.restore(json.loads(json.dumps(strategy.state())))
        assert twin.plan(step, draw).effects == plan.effects
        seen.append(plan.effects)
        play(strategy, step, (0.2, 0.35))
    begun = next(i for i, effects in enumerate(seen) if effects)
    assert seen[begun] == (0.0, 0.0)  # nothing was played on the new arm yet
    assert seen[begun + 1][0] == 0
    assert 0 < seen[begun + 1][1] < 0.4


def test_a_helpful_bundle_is_tried_accepted_and_the_next_one_follows():
    strategy = make()
    learned = run(strategy, 12, (0.2, 0.6))
    decided = [x for x in learned if "trial/accepted" in x.metrics]
    assert decided[0].metrics["trial/accepted"] == 1
    assert decided[0].metrics["trial/effect"] > 0.2
    assert history(strategy)[0]["accepted"]
    assert banks(strategy)[0].skills[0].name == HELPFUL[0].name
    assert len(history(strategy)) >= 2
    # What is told once, at its step, is all of the history, and the trial's course.
    told = [trial for x in learned for trial in x.decisions]
    for trial, past in zip(told, history(strategy), strict=True):
        assert past.items() <= trial.items()
    first = told[0]
    assert first["stop_reason"] in ("clear", "limit")
    assert first["start"] == 0
    assert [at["step"] for at in first["path"]] == list(range(1, first["step"] + 1))
    assert first["path"][-1]["effect"] == first["contrast"]["effect"]
    assert sum(first["episodes"]) == TASKS * GROUP * first["step"]
    assert first["rates"][1] > first["rates"][0]
    assert all(len(x.decisions) == 1 for x in decided)
    assert f"on trial add {HELPFUL[0].name}" in learned[0].events[0]
    assert "accepted" in decided[0].events[0]
    for x in decided:
        unsure = [x.decisions[0]["stop_reason"], x.decisions[0]["accepted"]]
        told_why = "not sure enough at the last step" in x.events[0]
        assert told_why == (unsure == ["limit", False])
    assert learned[0].status == f"0 skills, trial of add {HELPFUL[0].name}"
    (candidate,) = learned[0].on_trial
    assert candidate["proposal"]["operations"][0]["skill"]["name"] == HELPFUL[0].name
    assert candidate["start"] == 0


def test_a_harmful_bundle_is_rejected_and_the_very_bank_comes_back():
    strategy = make(HARMFUL[:1])
    before = strategy.incumbent.bank
    run(strategy, 8, (0.6, 0.2))
    assert [trial["accepted"] for trial in history(strategy)] == [False]
    assert banks(strategy) == (before,)
    assert strategy.incumbent.bank is before


def test_in_the_a_a_control_what_is_accepted_is_a_false_acceptance():
    """Both arms win alike: settings promise that at most 30% are accepted."""
    strategy = make()
    strategy._creator = ScriptedCreator(known_proposals("neutral", 0))
    strategy._max_skills = 36
    run(strategy, 60, (0.3, 0.3))
    found = history(strategy)
    tried = [op["skill"]["name"] for t in found for op in t["proposal"]["operations"]]
    assert tried == [f"remark-{number}" for number in range(1, len(found) + 1)]
    accepted = sum(trial["accepted"] for trial in found)
    assert len(strategy.incumbent.bank.skills) == accepted
    assert len(found) >= 10
    assert accepted <= 0.5 * len(found)  # 30%, and two standard errors


def test_a_trial_counts_whole_groups_only_and_a_step_without_any_is_none_of_it():
    strategy, other = make(), make()
    for step in range(2):
        play(strategy, step, (0.3, 0.3))
        play(other, step, (0.3, 0.3))
    learned = play(strategy, 2, (0.3, 0.3), dropped=range(TASKS))
    assert not any(key.startswith("trial/effect") for key in learned.metrics)
    assert "skills/active_per_turn" not in learned.metrics
    assert strategy.state() == other.state()  # nothing was learnt
    before = strategy.state()["trial"]["counts"]
    learned = play(strategy, 3, (0.3, 0.3), dropped=(0, 5))
    episodes = [learned.metrics[f"trial/episodes_{arm}"] for arm in range(2)]
    assert len(strategy.state()["trial"]["counts"]) == len(before) + 1
    assert sum(episodes) == TASKS * GROUP + (TASKS - 2) * GROUP


def made(panel, tmp_path, **settings):
    """The strategy of a run with so many tasks."""
    config = get_config("smoke")
    config.update_from_flattened_dict(settings)
    environment = build.load_environment(config)
    tasks = environment.panel("train", None).tasks[:1]
    tasks = tuple(replace(tasks[0], id=str(number)) for number in range(panel))
    environment = replace(environment, panel=lambda split, limit: TaskPanel(tasks))
    tokenizer = Tokenizer.load(build.policy_directory(config))
    prompts = build.make_prompts(config, environment, tokenizer)
    return build_strategy.make_strategy(config, environment, prompts, tmp_path / "c")


def test_a_reservoir_that_can_never_fill_is_refused_and_a_doubtful_one_told(
    tmp_path, caplog
):
    run = {
        "strategy.reservoir_min": 100,
        "rollout.tasks_per_step": 16,
        "num_steps": 150,
    }
    with pytest.raises(
        ValueError,
        match=r"config\.strategy\.reservoir_min=100: .* 30 tasks in 20 steps give at "
        r"most 60, .* never be asked: lower it to 30 or less",
    ):
        made(30, tmp_path, **run)
    few = run | {"rollout.tasks_per_step": 2}  # 40 in the window of 20 steps
    with pytest.raises(ValueError, match="40 tasks in 20 steps give at most 80"):
        made(3553, tmp_path, **few)
    assert not caplog.records
    made(60, tmp_path, **run)  # 60 to 120 records
    assert "reservoir_min=100: 60 tasks are played" in caplog.text
    caplog.clear()
    made(3553, tmp_path, **run | {"num_steps": 5})  # 80 to 160
    assert "80 tasks are played" in caplog.text
    caplog.clear()
    made(3553, tmp_path, **run)
    made(30, tmp_path, **run | {"strategy.reservoir_min": 30})
    assert not caplog.records


def test_the_size_of_the_reservoir_is_told_at_every_step():
    strategy = make(reservoir_min=20)
    learned = run(strategy, 3, (0.0,))
    assert [x.metrics["reservoir/records"] for x in learned] == [16, 16, 16]
    assert learned[-1].status == "0 skills, 16 of 20 records"


def test_a_bank_above_its_limit_may_be_changed_but_does_not_grow():
    rules = HELPFUL[:3]
    strategy = make(rules[2:], auto_accept=True)
    strategy._bank = SkillBank(tuple(rule.skill(general=True) for rule in rules[:2]))
    strategy._max_skills = 1
    learned = run(strategy, 1, (0.3,))
    assert learned[0].metrics["creator/rejected/over_capacity"] == 1
    delete = Proposal((Delete(rules[0].name),), ("",), (), "")
    strategy._creator = ScriptedCreator([delete])
    run(strategy, 4, (0.3,), start=1)
    assert list(strategy.incumbent.bank.names()) == [rules[1].name]


def test_every_group_contrasts_both_arms_during_a_trial_and_none_outside():
    strategy = make()
    plan = strategy.plan(0, draw)
    assert (plan.arms == 0).all()
    assert plan.tasks == tuple(draw(TASKS))
    play(strategy, 0, (0.3, 0.3))
    plan = strategy.plan(1, draw)
    assert len(plan.contexts) == 2
    assert plan.contexts[0] == strategy.incumbent
    assert plan.training_groups == tuple(range(TASKS))
    arms = plan.arms
    assert arms.shape == (TASKS, GROUP)
    assert (arms == strategy.plan(1, draw).arms).all()
    assert (arms != strategy.plan(2, draw).arms).any()
    assert ((arms == 0).any(1) & (arms == 1).any(1)).all()


def test_auto_accept_takes_everything_untested():
    strategy = make(HARMFUL[:2], auto_accept=True)
    run(strategy, 8, (0.5, 0.1))
    assert all(trial["accepted"] for trial in history(strategy))
    assert [trial["contrast"] for trial in history(strategy)] == [None, None]
    assert len(banks(strategy)) == 1
    assert len(strategy.incumbent.bank.skills) == 2


def test_several_candidates_are_tried_at_once_and_the_best_is_accepted():
    strategy = make(candidates=2)
    run(strategy, 10, (0.2, 0.2, 0.6))
    first, second = history(strategy)[:2]
    assert (first["accepted"], second["accepted"]) == (False, True)
    assert first["step"] == second["step"]
    assert first["contrast"]["effect"] < 0.2 < second["contrast"]["effect"]
    assert next(iter(banks(strategy)[0].names())) == HELPFUL[1].name
    # The list is at its end: the last one is on trial alone.
    assert len(banks(strategy)) == 2 or len(history(strategy)) == 3


def test_a_good_runner_up_is_not_chosen_and_may_be_tried_again():
    strategy = make(candidates=2)
    seen = []
    propose = strategy._creator.propose
    strategy._creator.propose = lambda e: seen.append(e) or propose(e)
    learned = run(strategy, 10, (0.1, 0.8, 0.7))
    pair = history(strategy)[:2]
    assert sorted(past["accepted"] for past in pair) == [False, True]
    assert all(past["not_chosen"] != past["accepted"] for past in pair)
    events = [event for x in learned for event in x.events]
    assert any("not chosen (effect +" in event for event in events)
    later = next(e for e in seen if any(past.accepted for past in e.history))
    verdicts = {past.verdict for past in later.history[:2]}
    assert verdicts == {"accepted", "not chosen"}
    assert not later.rejected(within=100)


def test_a_runner_up_that_was_found_wanting_is_rejected():
    strategy = make(candidates=2)
    run(strategy, 10, (0.4, 0.8, 0.1))
    first, second = history(strategy)[:2]
    assert first["accepted"]
    assert (second["accepted"], second["not_chosen"]) == (False, False)


NEVER = Skill("fly", "d", "w", "a", Trigger("action_pattern", "^fly "))


def scripted(*operations):
    return [Proposal((operation,), ("why",), (), bank="") for operation in operations]


def test_a_skill_that_never_fires_is_dropped_without_a_trial():
    strategy = make()
    strategy._creator = ScriptedCreator(
        [*scripted(Delete("fly")), addition(HELPFUL[0])]
    )
    strategy._bank = SkillBank((NEVER,))
    learned = play(strategy, 0, (0.3,))
    (past,) = history(strategy)
    assert past["accepted"]
    assert past["contrast"] is None
    assert learned.decisions[0]["stop_reason"] == "untested"
    assert "accepted (shown in none of 128 episodes)" in learned.events[0]
    # It is no trial: M and the carried evidence know nothing of it, and the next
    # proposal is on trial at once, against the smaller bank.
    assert strategy._memory.trials == 0
    assert strategy._evidence is None
    assert [[*bank.names()] for bank in banks(strategy, 1)] == [
        [],
        [HELPFUL[0].name],
    ]
    again = make()
    again.restore(json.loads(json.dumps(strategy.state())))
    assert again.state() == strategy.state()


def test_a_skill_that_fires_is_dropped_by_a_trial_only():
    strategy = make()
    strategy._creator = ScriptedCreator(scripted(Delete("open")))
    shown = replace(NEVER, name="open", trigger=Trigger("action_pattern", "^open "))
    strategy._bank = SkillBank((shown,))
    play(strategy, 0, (0.3,))
    assert not history(strategy)
    assert len(banks(strategy, 1)) == 2


def test_few_episodes_do_not_show_that_a_skill_never_fires():
    strategy = make()
    strategy._creator = ScriptedCreator(scripted(Delete("fly")))
    strategy._bank, strategy._tasks_per_step = SkillBank((NEVER,)), 4  # 32 episodes
    strategy._reservoir_min = 1
    play(strategy, 0, (0.3,))
    assert not history(strategy)
    assert len(banks(strategy, 1)) == 2


def test_an_addition_that_cannot_fire_is_refused_without_a_trial():
    strategy = make()
    strategy._creator = ScriptedCreator(scripted(Add(NEVER)))
    learned = play(strategy, 0, (0.3,))
    assert learned.metrics["creator/rejected/trigger_rate"] == 1
    assert not history(strategy)
    assert len(banks(strategy, 1)) == 1
    assert strategy._memory.trials == 0


def test_candidates_that_take_time_are_waited_for():
    creator = Slow([addition(rule) for rule in HELPFUL[:3]])
    first, second = make(candidates=2), make(candidates=2)
    first._creator = second._creator = creator
    run(first, 2, (0.3,))
    assert len(banks(first)) == 1  # one candidate is there, the other is not
    second.restore(json.loads(json.dumps(first.state())))
    play(second, 2, (0.3,))
    assert len(banks(second)) == 3
    assert [past.candidate for past in creator.seen.history] == [banks(second)[1].hash]


def test_no_trial_before_the_reservoir_holds_enough():
    strategy = make(reservoir_min=10_000)
    run(strategy, 3, (0.3, 0.3))
    assert len(banks(strategy)) == 1


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
    assert banks(second) == banks(first)
    run(second, 10 - stop, chance, start=stop)
    assert second.state() == straight.state()


@pytest.mark.parametrize("order", ["skill_first", "policy_first"])
def test_skills_evolve_in_their_stage_only(order):
    setup = SimpleNamespace(tasks_per_step=TASKS, group_size=GROUP)
    skill_first = order == "skill_first"
    staged = Staged(make(), setup, 6, order)
    decided = []
    for step in range(1, 13):
        plan = staged.plan(step, draw)
        trains = bool(plan.training_groups)
        assert trains == ((step > 6) == skill_first)
        assert plan.training_groups == (tuple(range(TASKS)) if trains else ())
        assert len(plan.contexts) == 1 or not trains
        learned = play(staged, step, (0.2, 0.6))
        decided.append("trial/accepted" in learned.metrics)
        # Skills are told of in both stages, once there are any.
        has = bool(staged.strategy._bank.skills) and bool(plan.contexts[0].bank.skills)
        assert ("skills/named" in learned.metrics) or not has
    assert staged.incumbent.bank.skills
    assert any(decided[:6]) == skill_first
    assert any(decided[6:]) != skill_first
    again = Staged(make(), setup, 99, order)  # as if the run were made longer
    again.restore(json.loads(json.dumps(staged.state())))
    assert banks(again, 1) == banks(staged, 1)
    assert banks(again, 7) == banks(staged, 7)
    assert again.state() == staged.state()


def test_every_strategy_can_be_named_and_differs_where_it_should(tmp_path):
    config = get_config("smoke")
    tokenizer = Tokenizer.load(build.policy_directory(config))
    made = {}
    for name in STRATEGIES:
        if name not in NEED_BANK:
            config.strategy.name = name
            config.trial.preset = "paper" if name == "uniform" else "ours"
            validate(config)
            environment = build.load_environment(config)
            prompts = build.make_prompts(config, environment, tokenizer)
            made[name] = build_strategy.make_strategy(
                config, environment, prompts, tmp_path / "calls"
            )
    assert made["no_discount"]._trial_config.discount == "none"
    assert made["last_step"]._trial_config.discount == "last_step"
    assert made["uniform"]._trial_config.uniform
    assert not made["no_analyzer"]._creator.analyse
    assert made["reskill"]._creator.analyse
    assert made["reskill"]._trial_config == make_config(config.trial, Shape(2, 4))
    for name in ("skill_first", "policy_first"):
        assert made[name].strategy._trial_config.frozen_policy
        assert made[name].order == name


def test_a_bank_that_has_no_room_is_no_candidate_and_no_start(tmp_path):
    too_long = "it would not fit"
    strategy = make(HELPFUL[:1], bank_problem=lambda bank: too_long)
    learned = run(strategy, 3, (0.2, 0.6))
    assert learned[0].metrics["creator/rejected/over_budget"] == 1
    assert too_long in learned[0].events[0]
    assert len(banks(strategy, 4)) == 1
    # With the run's own prompts: 640 tokens hold some of the rules, not all at once.
    config = get_config("smoke")
    config.strategy.name, config.strategy.bank = "static", str(tmp_path / "bank")
    rules = [replace(rule.skill(), trigger=Trigger()) for rule in HELPFUL]
    tokenizer = Tokenizer.load(build.policy_directory(config))
    environment = build.load_environment(config)
    prompts = build.make_prompts(config, environment, tokenizer)
    for copies, refused in ((1, False), (4, True)):
        skills = [
            replace(skill, name=f"{skill.name}-{copy}")
            for copy in range(copies)
            for skill in rules
        ]
        save_bank(SkillBank(tuple(skills)), tmp_path / "bank")
        started = partial(
            build_strategy.make_strategy,
            config,
            environment,
            prompts,
            tmp_path / "calls",
        )
        if refused:
            with pytest.raises(
                ValueError, match=r"bank='.*': skills that may be shown"
            ):
                started()
        else:
            started()


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
            {"strategy.candidates": 2, "trial.preset": "paper"},
            "strategy.candidates=2: a trial of preset='paper' has one",
        ),
        (
            {"strategy.candidates": 2, "rollout.tasks_per_step": 6},
            "strategy.candidates=2: with 6 tasks x 4 rollouts per step, a bundle",
        ),
        (
            {"strategy.name": "uniform"},
            "strategy.name='uniform' is the same as 'reskill'",
        ),
    ],
)
def test_impossible_numbers_of_candidates_are_named(changes, message):
    config = get_config("smoke")
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        validate(config)
