"""The simulated rule is the rule of `Trial`; the simulated world is what it says."""

from functools import partial

import jax
import numpy as np
import pytest

from reskill_jax.benchmarks import trial_simulation as simulation
from reskill_jax.benchmarks import trials
from reskill_jax.benchmarks.trial_simulation import Rule, Scenario
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.trials import thompson
from reskill_jax.trials.discount import MemoryEstimate
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig

TASKS, GROUP = 6, 8
BANKS = (SkillBank(), SkillBank((Skill("a", "b", "c", "d"),)))


@pytest.mark.parametrize(
    "config", [TrialConfig(min_steps=2, epsilon=0.3), TrialConfig.preset("paper")]
)
def test_simulation_and_trial_agree_over_many_trials(config, monkeypatch):
    """Assignment, decision, carry-over and memory; the policy's rate jumps about."""
    grid = np.append(thompson.MEMORY_GRID, np.inf)
    monkeypatch.setattr(simulation, "MEMORIES", grid)
    paper = config.mode == "paper"
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        rule = jax.tree.map(float, Rule.of(config))
        fixed = {"rule": rule, "paper": paper}
        assign = jax.jit(partial(simulation.assign, shape=(TASKS, GROUP), **fixed))
        judge = jax.jit(partial(simulation.judge, **fixed))
        memory_of = jax.jit(partial(simulation.memory_of, paper=paper))
        following = jax.jit(partial(simulation.next_trial, **fixed))
        state, trial, memory = (
            simulation.start(TASKS, config.max_steps),
            start(config),
            MemoryEstimate(),
        )
        lengths = []
        for step in range(60):
            key = jax.random.key(step)
            arms = trial.assign(key, TASKS, GROUP)
            np.testing.assert_array_equal(assign(key, state), arms)
            rate = rng.uniform(0.1, 0.6, (TASKS, 1)) + 0.1 * (arms == 1) * rng.normal()
            wins = rng.random(arms.shape) < rate
            trial.observe(arms.ravel(), wins.ravel(), np.arange(TASKS).repeat(GROUP))
            at = len(trial.counts) - 1
            state = state._replace(
                wins=state.wins.at[at].set(trial.counts[-1][..., 0]),
                episodes=state.episodes.at[at].set(trial.counts[-1][..., 1]),
                length=state.length + 1,
            )
            known = memory_of(state)
            assert known == (np.inf if trial.memory is None else trial.memory)
            outcome = judge(state.wins, state.episodes, state.length, known)
            decision = trial.decide()
            assert (outcome != 0) == (decision is not None)
            if decision is not None:
                assert (outcome > 0) == decision.accepted
                lengths.append(decision.steps)
                state = following(state, accepted=outcome > 0, candidate=state.bank)
                memory.add(trial)
                evidence = trial.evidence(decision.arm)
                trial = start(config, memory.value(config), evidence)
                np.testing.assert_allclose(np.transpose(state.prior), trial.prior)
    assert len(lengths) >= 8
    assert trial.memory is not None or not paper  # so that discounting was compared too


def start(config, memory=np.inf, evidence=None):
    return Trial.start(config, BANKS, memory=memory, evidence=evidence)


@pytest.mark.slow
def test_runs_are_reproducible_and_below_the_oracle():
    scenario = Scenario(4, 8, 0.2, True)
    first, again = (simulation.simulate(scenario, TrialConfig(), 4) for _ in range(2))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    outcome = trials.measure(first)
    assert outcome.regret.value > 0
    assert outcome.success.value > simulation.START
    lengths = first.length[first.ended]
    assert outcome.steps.value == pytest.approx(lengths.mean())
    assert lengths.max() <= TrialConfig().max_steps


def test_errors_of_ratios_treat_runs_as_the_units():
    where = np.ones((2, 3), bool)
    estimate = trials._ratio(np.array([[0, 0, 0], [1, 1, 1]]), where)
    assert (estimate.value, estimate.error) == pytest.approx((0.5, 0.5))
    assert np.isnan(trials._ratio(np.ones((2, 3)), ~where).value)
