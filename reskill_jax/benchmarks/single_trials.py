"""Trials of bundles whose worth is known, one by one, with any number of candidates.

Whole runs (`trial_simulation`) seldom have two bundles of the same worth on trial at
once. Here all candidates of a trial have known effects, and add or drop a skill. The
functions are those that `Trial` uses, clear losers are dropped, and the policy may
learn meanwhile; worlds are as in `trials.simulation`, but others than those in which
the bounds were chosen.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from reskill_jax.trials import paired, simulation, thompson
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.simulation import HIGH, LOW
from reskill_jax.trials.trial_config import TrialConfig


class World(NamedTuple):
    """What a trial is held in.

    Attributes:
        level: mean success of the incumbent at the first step.
        task_sd: how much tasks differ in difficulty.
        drift: gain of every arm per step.
        memory: M that discounts the evidence, episodes.
    """

    level: float
    task_sd: float
    drift: float = 0.0
    memory: float = np.inf


def simulate(
    config: TrialConfig,
    effects: Sequence[float],
    world: World,
    shape: Shape,
    *,
    runs: int,
    seed: int,
    deletes: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold trials of the same kind many times, with equal shares of the arms.

    Args:
        config: the rule, of mode ``paired``.
        effects: [C] of the candidates.
        world: the world.
        shape: of the batch.
        runs: how many trials, R.
        seed: of all randomness.
        deletes: whether candidates drop a skill; else they add one.

    Returns:
        The arm that was accepted, 0 for none, and the steps that it took, each [R].
    """
    play = thompson.on_host(
        _play, shape=shape, steps=config.max_steps, discount=config.discount
    )
    rule = (
        paired.Bounds(*map(np.asarray, config.bounds(deletes=deletes))),
        config.effect_sd,
        config.cost(0 if deletes else 1),
    )
    keys = jax.random.split(jax.random.key(seed), runs)
    table = simulation.success_table(world.task_sd)
    return play(keys, np.array(effects), rule, tuple(world), table)


def _play(keys, effects, rule, world, table, **static):
    trial = partial(_trial, effects, rule, world, table, **static)
    return jax.lax.map(trial, keys, batch_size=100)


def _trial(effects, rule, world, table, key, *, shape, steps, discount):
    bounds, effect_sd, cost = rule
    level, task_sd, drift, memory = world
    arms = jnp.arange(shape.candidates + 1)

    def step(state, t):
        sums, episodes, live, accepted, length = state
        share_key, task_key, win_key = jax.random.split(jax.random.fold_in(key, t), 3)
        drawn = thompson.assign_stratified(
            share_key,
            live / live.sum(),
            tasks=shape.tasks,
            group_size=shape.group_size,
        )
        means = level + drift * t + jnp.append(jnp.zeros(1), effects)
        mu = jnp.interp(jnp.clip(means, LOW, HIGH), *table)
        z = jax.random.normal(task_key, (shape.tasks, 1))
        rates = jnp.take_along_axis(jnp.clip(mu + task_sd * z, LOW, HIGH), drawn, 1)
        wins = jax.random.uniform(win_key, drawn.shape) < rates
        of_arm = drawn[..., None] == arms
        n = of_arm.sum(1)
        sums = sums.at[t].set(paired.paired_sums((of_arm & wins[..., None]).sum(1), n))
        episodes = episodes.at[t].set(n.sum(0))
        weights = thompson.step_weights(
            (episodes[:, :1] + episodes[:, 1:]) / 2, memory, discount=discount
        )
        effect, error = paired.paired_effect(sums, weights)
        chance = paired.probability_above(effect, error, effect_sd, cost)
        verdict = paired.verdict(chance, t + 1, episodes.sum(), bounds)
        alive = live[1:]
        best = jnp.argmax(jnp.where(alive, chance, -1))
        ended = (length == 0) & (verdict[best] != 0)
        accepted = jnp.where(ended & (verdict[best] > 0), best + 1, accepted)
        length = jnp.where(ended, t + 1, length)
        live = live.at[1:].set(alive & ((verdict >= 0) | (length > 0)))
        return (sums, episodes, live, accepted, length), None

    start = (
        jnp.zeros((steps, len(arms) - 1, 4)),
        jnp.zeros((steps, len(arms))),
        jnp.ones(len(arms), bool),
        jnp.zeros((), int),
        jnp.zeros((), int),
    )
    (_, _, _, accepted, length), _ = jax.lax.scan(step, start, jnp.arange(steps))
    return accepted, length
