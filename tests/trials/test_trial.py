import json
import math
from dataclasses import replace

import jax
import numpy as np
import pytest
from scipy import stats

from reskill_jax.codec import decode, encode
from reskill_jax.skills.skill import (
    Skill,
    SkillBank,
    Trigger,
    changed_triggers,
    could_fire,
)
from reskill_jax.trials.discount import MemoryEstimate
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig

SKILLS = [
    Skill(name, "d", "w", "a", Trigger("action_pattern", f"^{name}"))
    for name in ("take", "open", "go")
]
OLD, NEW, OTHER = (SkillBank(tuple(SKILLS[:n])) for n in (1, 2, 3))
GROUPS = np.repeat(np.arange(16), 8)


def play(trial: Trial, seed: int, effects=(0.0, 0.1), drift=0.0, sd=0.25) -> None:
    """One step of 16 tasks x 8 rollouts whose difficulty differs between tasks."""
    rng = np.random.default_rng(seed)
    arms = trial.assign(jax.random.key(seed), 16, 8)
    rate = np.clip(0.4 + drift + sd * rng.normal(size=(16, 1)), 0.02, 0.98)
    rate = rate + np.array(effects)[arms]
    trial.observe(arms.ravel(), (rng.random((16, 8)) < rate).ravel(), GROUPS)


def run(trial: Trial, seed: int, **kwargs):
    decision = None
    while decision is None:
        play(trial, 100 * seed + len(trial.counts), **kwargs)
        decision = trial.decide()
    return decision


def observe(trial: Trial, *arms: tuple[int, int]) -> None:
    """One step given as (successes, episodes) of each arm, all in one group."""
    arm = np.repeat(np.arange(len(arms)), [n for _, n in arms])
    success = np.concatenate([np.arange(n) < m for m, n in arms])
    trial.observe(arm, success, np.zeros(len(arm), int))


# Paper mode.


def test_paper_mode_follows_the_published_procedure_number_for_number():
    steps = [((20, 64), (25, 64)), ((30, 50), (40, 78)), ((0, 0), (60, 128))]
    steps += [((26, 40), (50, 88)), ((25, 30), (60, 98))]
    trial = Trial.start(TrialConfig.preset("paper"), (OLD, NEW), memory=76.0)
    alpha, beta = np.ones(2), np.ones(2)
    for step, counts in enumerate(steps):
        better = stats.beta(alpha[1], beta[1])
        x = np.linspace(0, 1, 20_001)
        p = np.trapezoid(better.pdf(x) * stats.beta(alpha[0], beta[0]).cdf(x), x)
        assert trial.probabilities()[1] == pytest.approx(np.clip(p, 0.2, 0.8), abs=1e-5)
        assert trial.decide() is None, step
        observe(trial, *counts)
        m, n = np.array(counts).T
        w = 76 / (76 + n)
        alpha, beta = w * alpha + m, w * beta + n - m
    decision = trial.decide()
    mean = alpha / (alpha + beta)
    assert decision is not None
    assert decision.contrast.effect == pytest.approx(mean[1] - mean[0])
    assert decision.accepted == (mean[1] > mean[0])
    assert (decision.reason, decision.steps) == ("mean", 5)
    # Pooled, the candidate is better; the recent steps say otherwise.
    assert decision.rates[1] > decision.rates[0] or not decision.accepted


def test_paper_mode_needs_a_strictly_greater_mean_and_fifty_episodes():
    config = TrialConfig.preset("official", discount="none")
    trial = Trial.start(config, (OLD, NEW))
    for _ in range(5):
        observe(trial, (2, 5), (2, 4))
    assert trial.decide() is None  # 45 episodes
    observe(trial, (2, 5), (2, 10))
    assert trial.decide() is not None
    tied = Trial.start(config, (OLD, NEW))
    for _ in range(5):
        observe(tied, (3, 8), (3, 8))
    decision = tied.decide()
    assert decision is not None
    assert decision.contrast.effect == 0
    assert not decision.accepted


def test_paper_memory_is_infinite_until_two_trials_then_the_smallest_maximum():
    config, memory = TrialConfig.preset("paper"), MemoryEstimate()
    trial = Trial.start(config, (OLD, NEW))
    rng = np.random.default_rng(0)
    counts = []
    for step in range(5):
        arms = [(int(rng.binomial(64, 0.2 + 0.12 * step)), 64) for _ in range(2)]
        counts.append(arms)
        observe(trial, *arms)
    assert memory.value(config) == math.inf
    memory.add(trial)
    assert memory.value(config) == math.inf
    memory.add(trial)
    likelihood = []
    for m_hat in range(1, 301):
        total, w = 0.0, m_hat / (m_hat + 64)
        for k in range(2):
            a = b = 1.0
            for step in counts:
                a, b = w * a, w * b
                total += stats.betabinom.logpmf(step[k][0], 64, a, b)
                a, b = a + step[k][0], b + 64 - step[k][0]
        likelihood.append(total)
    assert memory.value(config) == 1 + np.argmax(likelihood)
    again = decode(MemoryEstimate, json.loads(json.dumps(encode(memory))))
    assert again.value(config) == memory.value(config)
    empty = MemoryEstimate()
    for _ in range(2):  # nothing observed: all memories are alike
        empty.add(Trial.start(config, (OLD, NEW)))
    assert empty.value(config) == 1


# Paired mode.


def test_a_clear_effect_ends_early_either_way():
    helpful = run(Trial.start(TrialConfig(), (OLD, NEW)), 1, effects=(0, 0.3))
    assert (helpful.accepted, helpful.arm, helpful.reason) == (True, 1, "clear")
    assert helpful.steps <= 2
    harmful = run(Trial.start(TrialConfig(), (OLD, NEW)), 2, effects=(0, -0.3))
    assert (harmful.accepted, harmful.arm, harmful.reason) == (False, 0, "clear")
    assert harmful.steps <= 2
    assert sum(harmful.episodes) == 128 * harmful.steps


def test_an_unclear_trial_goes_on_to_the_limit():
    config = TrialConfig(min_steps=4, max_steps=4)
    for effects, accepted in (((0, 0.3), True), ((0, -0.3), False)):
        decision = run(Trial.start(config, (OLD, NEW)), 3, effects=effects)
        assert decision.steps == 4
        assert (decision.reason, decision.accepted) == ("limit", accepted)


def test_error_rates_of_the_defaults():
    def accepted(effect):
        trials = [Trial.start(TrialConfig(), (OLD, NEW)) for _ in range(25)]
        decisions = [run(t, i, effects=(0, effect)) for i, t in enumerate(trials)]
        return sum(decision.accepted for decision in decisions)

    assert accepted(0.1) >= 21
    assert accepted(-0.1) <= 1


def test_the_mix_of_tasks_does_not_enter_the_paired_effect():
    config = TrialConfig(min_steps=1, max_steps=1)
    trial = Trial.start(config, (OLD, NEW))
    # Simpson's paradox: the candidate is better in both groups, worse pooled.
    wins = np.array([[27, 10], [1, 6]])
    episodes = np.array([[30, 10], [10, 30]])
    trial.counts.append(np.stack([wins, episodes], -1))
    decision = trial.decide()
    assert decision is not None
    assert decision.contrast.effect == pytest.approx(0.1)
    assert decision.rates == (0.7, 0.4)


def test_losers_are_dropped_and_the_best_candidate_wins():
    trial = Trial.start(TrialConfig(min_episodes=200, epsilon=0.3), (OLD, NEW, OTHER))
    for seed in range(10):
        play(trial, seed, effects=(0.0, 0.14, -0.35))
        decision = trial.decide()
        if trial.dropped or decision:
            break
    assert trial.dropped == [2]
    assert decision is None
    assert trial.probabilities()[2] == 0
    assert trial.probabilities().min(where=[1, 1, 0], initial=1) >= 0.3
    decision = run(trial, 9, effects=(0.0, 0.14, -0.35))
    assert decision.arm == decision.candidate == 1
    assert trial.counts[-1][:, 2].sum() == 0


def test_a_skill_must_bring_its_cost():
    def decide(cost):
        config = TrialConfig(cost_per_skill=cost, early_accept=0.8)
        trial = Trial.start(config, (OLD, OTHER))  # two skills more
        for _ in range(2):
            observe(trial, (26, 64), (32, 64))
        return trial.decide()

    assert decide(0.0).accepted
    assert not decide(0.08).accepted
    reworded = SkillBank((replace(SKILLS[0], action="Do."),))
    trial = Trial.start(TrialConfig(), (NEW, OLD, reworded, OTHER))
    assert trial.new_skills == (0, 0, 1, 1)  # to drop skills costs nothing
    assert decide(0.0).contrast.probability > decide(0.08).contrast.probability


@pytest.mark.parametrize("mode", ["ours", "paper"])
def test_expected_effects_are_the_shrunk_ones_of_what_was_played(mode):
    paper = mode == "paper"
    config = TrialConfig.preset("paper") if paper else TrialConfig()
    trial = Trial.start(config, (OLD, NEW))
    assert trial.expected_effects() == (0.0, 0.0)
    play(trial, 0, effects=(0.0, 0.3))
    effects = trial.expected_effects()
    raw = trial.contrasts()[0]
    assert effects[0] == 0
    if paper:
        assert effects[1] == raw.effect
    else:
        error = raw.standard_error
        share = config.effect_sd**2 / (config.effect_sd**2 + error**2)
        assert effects[1] == pytest.approx(raw.effect * share)
        assert 0 < effects[1] < raw.effect
    again = decode(Trial, json.loads(json.dumps(encode(trial))))
    assert again.expected_effects() == effects


def test_evidence_carries_over_but_never_outweighs_the_cap():
    config = TrialConfig(carry_over=20)
    trial = Trial.start(config, (OLD, NEW), evidence=(300.0, 100.0))
    assert trial.prior == ((15.0, 5.0), (1.5, 0.5))
    small = Trial.start(config, (OLD, NEW), evidence=(3.0, 1.0))
    assert small.prior[0] == (3.0, 1.0)
    fresh = Trial.start(
        TrialConfig.preset("paper"), (OLD, NEW), evidence=(300.0, 100.0)
    )
    assert fresh.prior == ((1.0, 1.0), (1.0, 1.0))
    observe(trial, (4, 10), (1, 2))
    assert trial.evidence(0) == pytest.approx((19.0, 11.0))


def test_switches_change_the_assignment():
    for config, expected in (
        (TrialConfig(epsilon=0.3), 0.7),
        (TrialConfig(epsilon=0.1), 0.9),
        (TrialConfig(uniform=True), 0.5),
    ):
        trial = Trial.start(config, (OLD, NEW))
        assert trial.probabilities() == pytest.approx([0.5, 0.5])
        observe(trial, (10, 50), (40, 50))
        assert trial.probabilities()[1] == pytest.approx(expected)
        arms = trial.assign(jax.random.key(0), 10, 10)
        assert arms.sum() == round(100 * expected)


def test_discount_makes_recent_steps_count():
    def effect(**changes):
        config = TrialConfig(early_accept=1.0, early_reject=0.0, max_steps=2, **changes)
        trial = Trial.start(config, (OLD, NEW), memory=10.0)
        observe(trial, (10, 50), (30, 50))
        observe(trial, (25, 50), (25, 50))
        return trial.decide().contrast.effect

    assert effect(discount="none") == pytest.approx(0.2)
    assert effect(discount="last_step") == pytest.approx(0.0)
    assert effect(discount="adaptive") == pytest.approx(0.4 / 6 / (1 + 1 / 6))
    assert effect(discount="constant", constant_weight=0.5) == pytest.approx(0.4 / 3)
    assert effect(discount="adaptive", frozen_policy=True) == pytest.approx(0.2)


def test_task_mix_is_not_mistaken_for_drift():
    def memory(config, drift):
        rng, result = np.random.default_rng(0), MemoryEstimate()
        episodes = np.full((16, 2), 4)
        for _ in range(20):
            trial = Trial.start(config, (OLD, NEW))
            for step in range(5):
                rate = 0.2 + drift * step + 0.3 * rng.normal(size=(16, 1))
                wins = rng.binomial(episodes, np.clip(rate, 0.02, 0.98))
                trial.counts.append(np.stack([wins, episodes], -1))
            result.add(trial)
        return result.value(config)

    assert memory(TrialConfig.preset("paper"), 0.0) < 400
    assert memory(TrialConfig(), 0.0) == math.inf
    assert memory(TrialConfig(), 0.1) < 100
    assert memory(TrialConfig(frozen_policy=True), 0.1) == math.inf


@pytest.mark.parametrize("rate", [0, 1])
def test_trials_that_all_fail_are_no_sign_of_drift(rate):
    result = MemoryEstimate()
    for _ in range(4):
        trial = Trial.start(TrialConfig(), (OLD, NEW))
        for _ in range(5):
            trial.counts.append(np.full((16, 2, 2), [4 * rate, 4]))
        result.add(trial)
    assert result.value(TrialConfig()) == math.inf


# State.


@pytest.mark.parametrize("config", [TrialConfig(), TrialConfig.preset("paper")])
def test_a_trial_resumed_at_any_step_decides_the_same(config):
    trial = Trial.start(config, (OLD, NEW), memory=200.0, evidence=(30.0, 20.0))
    expected = run(trial, 5, effects=(0, 0.03))
    resumed = Trial.start(config, (OLD, NEW), memory=200.0, evidence=(30.0, 20.0))
    decision = None
    while decision is None:
        resumed = decode(Trial, json.loads(json.dumps(encode(resumed))))
        play(resumed, 500 + len(resumed.counts), effects=(0, 0.03))
        decision = resumed.decide()
    assert decision == expected
    assert encode(resumed) == encode(trial)
    assert json.loads(json.dumps(resumed.metrics(), allow_nan=False))


def test_episodes_may_come_in_any_order():
    trials = []
    for order in (slice(None), slice(None, None, -1)):
        trial = Trial.start(TrialConfig(), (OLD, NEW))
        rng = np.random.default_rng(0)
        arms, wins = rng.integers(0, 2, 128), rng.random(128) < 0.5
        trial.observe(arms[order], wins[order], GROUPS[order])
        trials.append(encode(trial))
    assert trials[0] == trials[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "sober"}, "mode='sober': choose one of 'paired', 'paper'"),
        ({"assignment": "x"}, "assignment='x'"),
        ({"discount": "x"}, "discount='x'"),
        ({"epsilon": 0.6}, r"epsilon=0.6: must be within \[0, 0.5\]"),
        ({"min_steps": 99}, r"min_steps=99: must be within \[1, 8\]"),
        ({"early_reject": 0.8}, "early_reject=0.8"),
        ({"min_episodes": -1}, "min_episodes=-1"),
        ({"early_accept": 1.2}, "early_accept=1.2"),
    ],
)
def test_bad_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        TrialConfig(**changes)


def test_impossible_trials_are_refused():
    with pytest.raises(ValueError, match="1 banks in a trial"):
        Trial.start(TrialConfig(), (OLD,))
    with pytest.raises(ValueError, match="mode 'paired' takes more"):
        Trial.start(TrialConfig.preset("paper"), (OLD, NEW, OTHER))
    with pytest.raises(ValueError, match="must differ"):
        Trial.start(TrialConfig(), (OLD, OLD))


# Exposure.


def test_exposure_counts_triggers_of_what_changed_only():
    assert changed_triggers((OLD, NEW)) == (SKILLS[1].trigger,)
    assert changed_triggers((NEW, OLD)) == (SKILLS[1].trigger,)
    modified = Skill("take", "d", "w", "b", Trigger("beginning"))
    both = changed_triggers((OLD, SkillBank((modified,))))
    assert both == (SKILLS[0].trigger, Trigger("beginning"))
    opens = changed_triggers((OLD, NEW))
    assert could_fire(opens, ["look", "open box", "look"], "")
    assert not could_fire(opens, ["look", "open box"], "")  # nothing follows
    assert not could_fire(opens, [], "")
    assert could_fire(both, ["look"], "")


def test_effect_among_exposed_episodes():
    trial = Trial.start(TrialConfig(min_steps=1), (OLD, NEW))
    arms = np.tile([0, 0, 1, 1], 32)
    exposed = np.tile([0, 1, 0, 1], 32).astype(bool)
    wins = np.tile([1, 0, 1, 1], 32)  # the change helps where it can fire
    trial.observe(arms, wins, GROUPS, exposed)
    decision = trial.decide()
    assert decision is not None
    assert decision.contrast.effect == pytest.approx(0.5)
    assert decision.contrast.exposed_effect == pytest.approx(1.0)
    never = Trial.start(TrialConfig(min_steps=1), (OLD, NEW))
    never.observe(arms, wins, GROUPS, np.zeros(128, bool))
    decision = never.decide()
    assert decision is not None
    assert decision.contrast.exposed_effect is None
    assert decision.contrast.exposed_standard_error is None
