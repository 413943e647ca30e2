"""Simulated trials: what they find out step by step, and what bounds make of it.

Trials are played in six worlds, where mean success is 20, 50 or 80% and tasks are alike
or differ in difficulty (success on a task is a clipped normal with standard deviation
.4). Arms have equal shares, evidence is not discounted. Every figure is a function of
the shape and of seeds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr

from reskill_jax.trials import paired, thompson
from reskill_jax.trials.paired import Bounds
from reskill_jax.trials.shape import Shape

WORLDS = tuple((level, sd) for level in (0.2, 0.5, 0.8) for sd in (0.0, 0.4))
LOW, HIGH = 0.02, 0.98  # success on any task
SEED = 20

_sums = thompson.on_host(paired.paired_sums)
_effect = thompson.on_host(paired.effect_of_sums)


class Paths(NamedTuple):
    """What simulated trials find out, step by step.

    Attributes:
        true: [W, R, C] effects of the candidates.
        effects: [W, R, T, C] estimates after each step.
        errors: [W, R, T, C] their standard errors.
    """

    true: np.ndarray
    effects: np.ndarray
    errors: np.ndarray


def play(
    shape: Shape,
    true: np.ndarray,
    *,
    steps: int,
    seed: int,
    worlds: Sequence[tuple[float, float]] = WORLDS,
) -> Paths:
    """Play trials whose arms have equal shares of every group.

    Args:
        shape: of the batch.
        true: [R, C] effects of the candidates of each trial.
        steps: T.
        seed: of all randomness.
        worlds: (mean success of the incumbent, spread of tasks) each.
    """
    runs = len(true)
    found = []
    for number, (level, sd) in enumerate(worlds):
        rng = np.random.default_rng((SEED, seed, number))
        means = level + np.concatenate([np.zeros((runs, 1)), true], 1)  # [R, K]
        mu = difficulty(np.clip(means, LOW, HIGH), sd)[:, None]
        totals = []
        for _ in range(steps):
            episodes = equal_shares(shape, rng)  # [B, K]
            z = rng.normal(size=(runs, shape.tasks, 1))
            rates = np.clip(mu + sd * z, LOW, HIGH)  # [R, B, K]
            wins = rng.binomial(episodes, rates)
            totals.append(_sums(wins, np.broadcast_to(episodes, wins.shape)))
        found.append(_effect(np.cumsum(totals, 0).swapaxes(0, 1)))
    effects, errors = np.moveaxis(np.array(found), 1, 0)
    return Paths(np.broadcast_to(true, (len(worlds), *true.shape)), effects, errors)


def equal_shares(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Return how many rollouts of each group each arm gets, [B, K].

    As `thompson.assign_stratified` does for equal probabilities.
    """
    arms = shape.candidates + 1
    offsets = (np.arange(shape.tasks) + rng.random()) / shape.tasks
    ends = shape.group_size * np.arange(1, arms + 1) / arms
    upto = np.ceil(ends - offsets[:, None] - 1e-9).clip(0)
    upto[:, -1] = shape.group_size
    return np.diff(upto, prepend=0).astype(int)


def chances(paths: Paths, effect_sd: float, cost: float) -> np.ndarray:
    """Return `paired.probability_above` for every step and candidate."""
    variance = effect_sd**2
    share = variance / (variance + paths.errors**2)
    sd = np.sqrt(variance * (1 - share))
    return ndtr((paths.effects * share - cost) / sd)


class Decisions(NamedTuple):
    """What simulated trials decided.

    Attributes:
        accepted: the number of the candidate; -1: none.
        steps: of the trial.
    """

    accepted: np.ndarray
    steps: np.ndarray


def decide(chance: np.ndarray, bounds: Bounds, episodes: int) -> Decisions:
    """Decide simulated trials as `Trial.decide` does.

    Args:
        chance: [..., T, C] from `chances`.
        bounds: when a trial ends, at `max_steps` of at most T.
        episodes: of a step.

    Returns:
        Of each trial, [...].
    """
    first, last, least, early_accept, early_reject, final = map(
        float, map(np.asarray, bounds)
    )
    shape = chance.shape[:-2]
    accepted, steps = np.full(shape, -1), np.zeros(shape, int)
    live = np.ones((*shape, chance.shape[-1]), bool)
    for step in range(1, int(last) + 1):
        if step < first or step * episodes < least:
            continue
        now = np.where(live, chance[..., step - 1, :], -1)
        progress = step / last
        accept = (1 - progress) * early_accept + progress * final
        reject = (1 - progress) * early_reject + progress * final
        best = now.argmax(-1)
        top = now.max(-1)
        ended = (steps == 0) & ((top >= accept) | (top <= reject))
        accepted[ended & (top >= accept)] = best[ended & (top >= accept)]
        steps[ended] = step
        live &= (now > reject) | (steps > 0)[..., None]
    steps[steps == 0] = last  # too few episodes: undecided for now
    return Decisions(accepted, steps)


def difficulty(means: np.ndarray, sd: float) -> np.ndarray:
    """Return mu such that clip(mu + sd z, .02, .98) has these means for normal z."""
    return means if sd == 0 else np.interp(means, *success_table(sd))


def success_table(sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Return means of clip(mu + sd z, .02, .98) for normal z, and their mu, to look up.

    Both [2001] and rising; means are closed forms.
    """
    mu = np.linspace(-3, 4, 2001)
    if sd == 0:
        return mu.clip(LOW, HIGH), mu
    a, b = (LOW - mu) / sd, (HIGH - mu) / sd
    pdf = [np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) for x in (a, b)]
    inside = mu * (ndtr(b) - ndtr(a)) + sd * (pdf[0] - pdf[1])
    return LOW * ndtr(a) + HIGH * ndtr(-b) + inside, mu
