"""Simulated trials: a closed form, the rule of `Trial`, tasks of a given difficulty."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.trials import simulation, thompson
from reskill_jax.trials.paired import Bounds
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.trial import Trial
from reskill_jax.trials.trial_config import TrialConfig

SKILLS = [Skill(name, "b", "c", name) for name in "abcd"]


def test_one_look_agrees_with_the_normal_formula():
    """Many alike tasks, one step: the effect is normal, its error known."""
    shape, true, final = Shape(64, 8), 0.03, 0.7
    config = TrialConfig(max_steps=1, accept_probability=final)
    paths = simulation.play(
        shape, np.full((4000, 1), true), steps=1, seed=5, worlds=[(0.5, 0.0)]
    )
    error = np.sqrt(0.25 * 2 / 256)
    assert paths.effects.std() == pytest.approx(error, rel=0.05)
    share = config.effect_sd**2 / (config.effect_sd**2 + error**2)
    sd = config.effect_sd * np.sqrt(1 - share)
    least = (stats.norm.ppf(final) * sd + config.cost(1)) / share
    chance = simulation.chances(paths, config.effect_sd, config.cost(1))
    decided = simulation.decide(chance, config.bounds(), shape.episodes)
    expected = stats.norm.sf((least - true) / error)
    assert (decided.accepted == 0).mean() == pytest.approx(expected, abs=0.025)
    assert (decided.steps == 1).all()


@pytest.mark.parametrize("deletes", [False, True])
@pytest.mark.parametrize("candidates", [1, 3])
def test_decisions_are_those_of_trials(candidates, deletes):
    """The same counts: accepted arm and steps, for additions and deletes."""
    rng, steps, runs = np.random.default_rng(candidates), 6, 25
    config = TrialConfig(
        max_steps=steps, early_accept=0.85, early_reject=0.2, min_episodes=100
    )
    incumbent = SkillBank(tuple(SKILLS[:candidates])) if deletes else SkillBank()
    banks = [incumbent]
    for k in range(candidates):
        skills = set(range(candidates)) - {k} if deletes else {k}
        banks.append(SkillBank(tuple(SKILLS[i] for i in sorted(skills))))
    episodes = np.full((runs, steps, 12, candidates + 1), 3)
    rates = rng.uniform(0.1, 0.9, (runs, 1, 12, 1))
    rates = rates + rng.normal(0, 0.05, (runs, 1, 1, candidates + 1))
    wins = rng.binomial(episodes, rates.clip(0, 1))
    sums = simulation._sums(wins, episodes).cumsum(1)
    paths = simulation.Paths(np.zeros(0), *simulation._effect(sums))
    chance = simulation.chances(
        paths, config.effect_sd, config.cost(0 if deletes else 1)
    )
    found = simulation.decide(
        chance, config.bounds(deletes=deletes), 36 * (candidates + 1)
    )
    for run in range(runs):
        trial = Trial.start(config, banks)
        decision = None
        while decision is None:
            step = len(trial.counts)
            trial.counts.append(np.stack([wins[run, step], episodes[run, step]], -1))
            decision = trial.decide()
        assert decision.steps == found.steps[run]
        assert decision.arm == found.accepted[run] + 1
    assert len(set(found.accepted)) > 1


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(2, 9), st.integers(1, 3), st.integers(0, 2**31))
def test_equal_shares_are_those_of_the_assignment(tasks, group_size, candidates, seed):
    shape = Shape(tasks, group_size, candidates)
    counts = simulation.equal_shares(shape, np.random.default_rng(seed))
    assert counts.shape == (tasks, candidates + 1)
    assert (counts.sum(1) == group_size).all()
    assert (abs(counts - group_size / (candidates + 1)) < 1).all()
    even = tasks * group_size / (candidates + 1)
    assert (abs(counts.sum(0) - even) < 1 + 1e-9).all()


def test_equal_shares_have_the_frequencies_of_the_assignment():
    shape = Shape(3, 5, 1)
    draw = thompson.on_host(thompson.assign_stratified, tasks=3, group_size=5)
    ours, theirs = [], []
    rng = np.random.default_rng(0)
    for seed in range(200):
        arms = draw(jax.random.key(seed), np.full(2, 0.5))
        theirs.append(sorted((arms == 1).sum(1)))
        ours.append(sorted(simulation.equal_shares(shape, rng)[:, 1]))
    assert np.mean(ours, 0) == pytest.approx(np.mean(theirs, 0), abs=0.15)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(Bounds._fields[3:]), st.floats(0, 0.1))
def test_stricter_bounds_never_accept_more_of_one_candidate(seed, field, more):
    """What `calibration.choose` relies on: with the last bound, acceptance falls."""
    chance = np.random.default_rng(seed).uniform(size=(200, 6, 1))
    lax = Bounds(1, 6, 0, 0.85, 0.1, 0.6)
    strict = lax._replace(**{field: getattr(lax, field) + more})
    accepted = [
        (simulation.decide(chance, b, 9).accepted >= 0).mean() for b in (lax, strict)
    ]
    assert accepted[1] <= accepted[0]


@pytest.mark.parametrize("sd", [0.0, 0.2, 0.4])
def test_tasks_of_a_difficulty_have_its_mean_success(sd):
    means = np.array([0.2, 0.5, 0.9])
    z = np.random.default_rng(0).normal(size=(400_000, 1))
    drawn = np.clip(simulation.difficulty(means, sd) + sd * z, 0.02, 0.98).mean(0)
    assert drawn == pytest.approx(means, abs=3e-3)
