"""Whole runs of trials, simulated: a stream of proposals, a bank, a policy that learns.

One run is a `lax.scan` over training steps, and many runs a `lax.map`, with the pure
functions that `trials.trial.Trial` uses, so that the rule simulated is the rule that
decides in training.

The world: every proposal adds one skill, whose worth is drawn from
`calibration.EFFECTS`; once the bank is full it replaces a random one. Success rates add
up: policy level + worth of the bank. Tasks differ: success on a task is
clip(mu + sd z, .02, .98) with z normal and mu such that the mean over tasks is that
sum, so that an effect of five points is five points on average, most of it on tasks
that are neither always nor never solved.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from reskill_jax.trials import paired, thompson
from reskill_jax.trials.calibration import EFFECTS, SHARES
from reskill_jax.trials.simulation import HIGH, LOW, success_table
from reskill_jax.trials.trial_config import TrialConfig

CAPACITY = 8  # skills in a bank
STEPS = 150
START, CEILING = 0.2, 0.95  # success without skills at first; the most there can be
# A drifting policy gains half a point per step until it has gained twenty.
SLOPE, GAIN = 0.005, 0.2
# Memories M of the likelihood: every 12th percent of the full grid's range.
MEMORIES = np.append(np.unique(np.geomspace(1, 2000, 48).round()), np.inf)


@dataclass(frozen=True)
class Scenario:
    """One world to run in.

    Attributes:
        tasks: groups per step.
        group_size: rollouts per group.
        task_sd: how much tasks differ in difficulty.
        drift: whether the policy learns while trials run.
    """

    tasks: int
    group_size: int
    task_sd: float
    drift: bool

    def __str__(self) -> str:
        """Name the scenario in figures."""
        drift = "drift" if self.drift else "still"
        return f"{self.tasks}x{self.group_size} sd{self.task_sd:g} {drift}"


class Rule(NamedTuple):
    """The settings of a trial that may vary without compiling anew."""

    bounds: paired.Bounds
    epsilon: Any
    effect_sd: Any
    cost: Any
    carry_over: Any

    @classmethod
    def of(cls, config: TrialConfig) -> "Rule":
        """Take them from a trial's configuration."""
        return cls(
            config.bounds(),
            config.epsilon,
            config.effect_sd,
            config.cost(1),
            config.carry_over,
        )


class Steps(NamedTuple):
    """What happened at every step of every run, [runs, STEPS].

    Attributes:
        success: mean success rate that the rollouts were due, given their arms.
        oracle: the same for the one who knows all effects.
        ended: whether a trial was decided after the step.
        accepted: with what verdict.
        effect: true effect of the candidate on trial.
        length: steps of the trial so far.
    """

    success: Array
    oracle: Array
    ended: Array
    accepted: Array
    effect: Array
    length: Array


class State(NamedTuple):
    """A run between two steps."""

    bank: Array  # [CAPACITY], worth of its skills
    size: Array
    proposals: Array  # how many there were
    best_bank: Array  # the oracle's
    best_size: Array
    wins: Array  # [T, B, 2], T the longest that a trial may take
    episodes: Array
    length: Array
    prior: tuple[Array, Array]
    scores: Array  # [S], log-likelihood of each memory
    trials: Array


def simulate(
    scenario: Scenario, config: TrialConfig, runs: int, seed: int = 0
) -> Steps:
    """Run a rule many times; equal seeds see equal streams of proposals.

    Args:
        scenario: the world.
        config: the rule.
        runs: how many.
        seed: of all randomness.
    """
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), runs)
        world = (
            scenario.task_sd,
            SLOPE * scenario.drift,
            success_table(scenario.task_sd),
        )
        rule = jax.tree.map(float, Rule.of(config))
        steps = _simulate(
            keys,
            world,
            rule,
            shape=(scenario.tasks, scenario.group_size),
            steps=config.max_steps,
            paper=config.mode == "paper",
            uniform=config.uniform or config.epsilon >= 0.5,
        )
        return jax.tree.map(np.asarray, steps)


@partial(jax.jit, static_argnames=("shape", "steps", "paper", "uniform"))
def _simulate(keys, world, rule, *, shape, steps, paper, uniform):
    step = partial(
        _step, world=world, rule=rule, shape=shape, paper=paper, uniform=uniform
    )

    def run(key):
        first = start(shape[0], steps)
        return jax.lax.scan(partial(step, key), first, jnp.arange(STEPS))[1]

    return Steps(*jax.lax.map(run, keys))


def start(tasks: int, steps: int) -> State:
    """Begin a run with an empty bank and the first proposal on trial.

    Args:
        tasks: of a step.
        steps: that a trial may take at most.
    """
    return State(
        bank=jnp.zeros(CAPACITY),
        size=jnp.int32(0),
        proposals=jnp.int32(0),
        best_bank=jnp.zeros(CAPACITY),
        best_size=jnp.int32(0),
        wins=jnp.zeros((steps, tasks, 2)),
        episodes=jnp.zeros((steps, tasks, 2)),
        length=jnp.int32(0),
        prior=(jnp.ones(2), jnp.ones(2)),
        scores=jnp.zeros(len(MEMORIES)),
        trials=jnp.int32(0),
    )


def _step(key, state, step, *, world, rule, shape, paper, uniform):
    """Play one step and, when the trial is over, begin the next one."""
    task_sd, slope, table = world
    keys = jax.random.split(jax.random.fold_in(key, step), 3)
    level = START + jnp.minimum(slope * step, GAIN)
    worth, place = _proposal(key, state.proposals, state.size)
    candidate = state.bank.at[place].set(worth)
    means = jnp.stack([state.bank.sum(), candidate.sum()])
    means = jnp.clip(level + means, 0.02, CEILING)  # [2]

    arms = assign(keys[0], state, rule, shape, paper, uniform)  # [B, G]
    z = jax.random.normal(keys[1], (shape[0], 1))
    rates = jnp.clip(jnp.interp(means, *table) + task_sd * z, LOW, HIGH)  # [B, 2]
    wins = jax.random.uniform(keys[2], shape) < jnp.take_along_axis(rates, arms, 1)
    of_arm = arms[..., None] == jnp.arange(2)
    state = state._replace(
        wins=state.wins.at[state.length].set((of_arm & wins[..., None]).sum(1)),
        episodes=state.episodes.at[state.length].set(of_arm.sum(1)),
        length=state.length + 1,
    )
    outcome = judge(
        state.wins, state.episodes, state.length, memory_of(state, paper), rule, paper
    )
    ended, accepted = outcome != 0, outcome > 0

    best_worth, best_place = _proposal(key, step, state.best_size)
    best_gain = best_worth - state.best_bank[best_place] > 0
    record = Steps(
        success=means[arms].mean(),
        oracle=jnp.clip(level + state.best_bank.sum(), 0.02, CEILING),
        ended=ended,
        accepted=accepted,
        effect=means[1] - means[0],
        length=state.length,
    )
    state = state._replace(
        best_bank=jnp.where(
            best_gain, state.best_bank.at[best_place].set(best_worth), state.best_bank
        ),
        best_size=jnp.minimum(state.best_size + best_gain, CAPACITY),
    )
    following = partial(
        next_trial, accepted=accepted, candidate=candidate, rule=rule, paper=paper
    )
    return jax.lax.cond(ended, following, lambda state: state, state), record


def next_trial(state, *, accepted, candidate, rule, paper):
    """Carry out a decision, learn what is carried over, clear the buffers."""
    alpha, beta = _posterior(state, paper)
    arm = accepted.astype(int)
    shapes = thompson.carry_over(alpha[arm], beta[arm], rule.carry_over, arms=2)
    prior = tuple(jnp.where(rule.carry_over > 0, shape, 1.0) for shape in shapes)
    # At the end of the buffers stand steps without episodes, which count nothing.
    effect = 1.0 if paper else thompson.design_effect(state.wins, state.episodes)
    scores = thompson.log_likelihood(
        state.wins.sum(1),
        state.episodes.sum(1),
        MEMORIES,
        effect,
        paper=paper,
    )
    return state._replace(
        bank=jnp.where(accepted, candidate, state.bank),
        size=jnp.minimum(state.size + accepted, CAPACITY),
        proposals=state.proposals + 1,
        wins=jnp.zeros_like(state.wins),
        episodes=jnp.zeros_like(state.episodes),
        length=jnp.int32(0),
        prior=prior,
        scores=state.scores + scores,
        trials=state.trials + 1,
    )


def _proposal(key, number, size):
    """Draw the worth of a proposed skill and its place in a bank of `size`."""
    worth, place = jax.random.split(jax.random.fold_in(key, 1_000_000 + number))
    drawn = jax.random.choice(worth, np.array(EFFECTS), p=np.array(SHARES))
    return drawn, jnp.where(
        size < CAPACITY, size, jax.random.randint(place, (), 0, CAPACITY)
    )


def assign(key, state, rule, shape, paper, uniform=False):
    """Draw the arms of a step as `Trial.assign` does: [B, G].

    `uniform` says that `rule.epsilon` leaves nothing to adapt, which saves much time.
    """
    probabilities = jnp.full(2, 0.5)
    if not uniform:
        best = thompson.probability_best(*_posterior(state, paper))
        probabilities = thompson.clip_probabilities(best, rule.epsilon)
    draw = thompson.assign_independent if paper else thompson.assign_stratified
    return draw(key, probabilities, tasks=shape[0], group_size=shape[1])


def _posterior(state, paper):
    wins, episodes = state.wins.sum(1), state.episodes.sum(1)
    weights = thompson.step_weights(
        episodes, memory_of(state, paper), discount="adaptive"
    )
    return thompson.posterior(
        state.prior, wins, episodes, weights, keep_prior=not paper
    )


def memory_of(state, paper):
    """Return M for the trial that runs, as `Memory.value` does."""
    if paper:
        known = jnp.asarray(MEMORIES)[jnp.argmax(state.scores[:-1])]
    else:
        known = thompson.largest_plausible(state.scores, MEMORIES)
    return jnp.where(state.trials < 2, jnp.inf, known)


def judge(wins, episodes, length, memory, rule, paper):
    """Decide about one candidate as `Trial.decide` does.

    Args:
        wins: [T, B, 2].
        episodes: [T, B, 2]; zeros from `length` on.
        length: steps so far.
        memory: M.
        rule: a `Rule`.
        paper: whether by the published procedure.

    Returns:
        1 accept, -1 reject, 0 go on.
    """
    totals = episodes.sum(1)
    if paper:
        weights = thompson.step_weights(totals, memory, discount="adaptive")
        ones = (jnp.ones(2), jnp.ones(2))
        alpha, beta = thompson.posterior(
            ones, wins.sum(1), totals, weights, keep_prior=False
        )
        mean = alpha / (alpha + beta)
        enough = (length >= rule.bounds.max_steps) & (
            totals.sum() >= rule.bounds.min_episodes
        )
        return jnp.where(enough, jnp.where(mean[1] > mean[0], 1, -1), 0)
    weights = thompson.step_weights(
        totals.mean(1, keepdims=True), memory, discount="adaptive"
    )
    effect, error = paired.paired_effect(paired.paired_sums(wins, episodes), weights)
    chance = paired.probability_above(effect, error, rule.effect_sd, rule.cost)
    return paired.verdict(chance, length, totals.sum(), rule.bounds)[0]
