"""What a trial's bounds lead to, and which of them keep promises.

How much a step tells follows from the batch's shape: 48 episodes tell less than 1,280,
and rollouts that are shared out among four arms less than those of two. So bounds are
chosen by shape (`bounds.py` keeps those of shipped shapes):

- of candidates that add or rewrite skills, at most 30% of the trials where none has an
  effect accept one, and at most 3% of those where all are worth -5 points;
- of candidates that only drop skills, at most 3% of the trials where all are worth -5
  points accept one; a skill that does nothing may go.

Promises hold in the worst of the worlds of `simulation.py`. Every figure is a function
of the shape and of the seed in that file.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from reskill_jax.trials import by_type, thompson
from reskill_jax.trials.paired import Bounds
from reskill_jax.trials.shape import Shape
from reskill_jax.trials.simulation import (
    HIGH,
    LOW,
    SEED,
    WORLDS,
    Decisions,
    Paths,
    chances,
    decide,
    difficulty,
    play,
)
from reskill_jax.trials.trial_config import TrialConfig

NULL_LIMIT, HARMFUL_LIMIT = 0.30, 0.03
LEAST_POWER = 0.60  # below, a group must not be divided among several candidates
# Steps that a proposal is worth beside those of its trial: for so long a rejected one
# is not tried again (`creator.verify.Limits.cooldown_steps`).
PROPOSAL_STEPS = 20.0
# Of what creators propose: worth in success rate, and how often.
EFFECTS, SHARES = (0.10, 0.05, 0.02, 0.0, -0.05), (0.1, 0.2, 0.2, 0.3, 0.2)
_harmed = thompson.on_host(by_type.harmed)


@dataclass(frozen=True)
class Rates:
    """What to expect of trials; accepted is a share of all trials.

    Attributes:
        null: accepted where no candidate has an effect, in the worst world.
        harmful: accepted where all are worth -5 points, in the worst world.
        helpful: the one worth +5 points accepted, among others without effect; mean
            over the worlds.
        null_delete: as `null`, where candidates only drop skills.
        harmful_delete: as `harmful`, likewise.
        steps: until the decision, mean over the worlds and over what is proposed.
    """

    null: float
    harmful: float
    helpful: float
    null_delete: float
    harmful_delete: float
    steps: float

    @property
    def kept(self) -> bool:
        """Whether they are within the promises."""
        return (
            self.null <= NULL_LIMIT
            and max(self.harmful, self.harmful_delete) <= HARMFUL_LIMIT
        )


_TYPES = 6  # types of tasks, where effects on them are compared


@dataclass(frozen=True)
class Cases:
    """Simulated trials of every kind that a promise or a figure is about."""

    null: Paths
    harmful: Paths
    helpful: Paths
    mixed: Paths


@lru_cache(maxsize=4)
def cases(shape: Shape, steps: int, runs: int) -> Cases:
    """Play them; `runs` of each kind in each world."""
    others = np.zeros((runs, shape.candidates))
    helpful = others.copy()
    helpful[:, 0] = 0.05
    mixed = np.random.default_rng(SEED).choice(EFFECTS, others.shape, p=SHARES)
    kinds = (others, others - 0.05, helpful, mixed)
    return Cases(
        *(play(shape, true, steps=steps, seed=k) for k, true in enumerate(kinds))
    )


def rates(shape: Shape, config: TrialConfig, found: Cases) -> Rates:
    """Return what to expect of a rule."""

    def judge(paths: Paths, *, deletes: bool = False) -> Decisions:
        chance = chances(paths, config.effect_sd, config.cost(0 if deletes else 1))
        found = decide(chance, config.bounds(deletes=deletes), shape.episodes)
        return _vetoed(found, paths, config.harm_errors)

    def worst(paths: Paths, *, deletes: bool = False) -> float:
        return float((judge(paths, deletes=deletes)[0] >= 0).mean(1).max())

    return Rates(
        null=worst(found.null),
        harmful=worst(found.harmful),
        helpful=float((judge(found.helpful)[0] == 0).mean()),
        null_delete=worst(found.null, deletes=True),
        harmful_delete=worst(found.harmful, deletes=True),
        steps=float(judge(found.mixed)[1].mean()),
    )


def _vetoed(found: Decisions, paths: Paths, margin: float) -> Decisions:
    """Reject what harms a type of task, where in truth all `_TYPES` types are alike.

    Given the overall effect, those of types that have equal shares of the episodes are
    normal around it, with an error that is larger by the root of their number.
    """
    if not margin:
        return found
    index = np.maximum(found.steps - 1, 0)[..., None, None]
    chosen = np.maximum(found.accepted, 0)[..., None]

    def at(values: np.ndarray) -> np.ndarray:
        step = np.take_along_axis(values, index, -2)[..., 0, :]
        return np.take_along_axis(step, chosen, -1)  # [..., 1]

    errors = at(paths.errors) * _TYPES**0.5
    rng = np.random.default_rng(SEED)
    noise = rng.normal(size=(*found.steps.shape, _TYPES))
    noise -= noise.mean(-1, keepdims=True)
    effects = at(paths.effects) + errors * noise
    veto = np.asarray(_harmed(effects, np.broadcast_to(errors, effects.shape), margin))
    accepted = np.where(veto.any(-1), -1, found.accepted)
    return Decisions(accepted, found.steps)


def paper_rates(shape: Shape, config: TrialConfig, runs: int) -> Rates:
    """Return what to expect of the published rule, while M is infinite.

    P(best) of two Beta posteriors is taken from normal ones, which is close enough
    where a step has ten episodes and more.
    """

    def accepted(true: float, seed: int) -> np.ndarray:
        return np.array(
            [
                _paper_accepted(shape, config, true, world, runs, (SEED, seed, k))
                for k, world in enumerate(WORLDS)
            ]
        )

    null, harmful = float(accepted(0.0, 0).max()), float(accepted(-0.05, 1).max())
    helpful = float(accepted(0.05, 2).mean())
    steps = max(config.max_steps, -(-config.min_episodes // shape.episodes))
    return Rates(null, harmful, helpful, null, harmful, steps)


def _paper_accepted(
    shape: Shape,
    config: TrialConfig,
    true: float,
    world: tuple[float, float],
    runs: int,
    seed: tuple[int, ...],
) -> float:
    """Return the share of trials of one world that the published rule accepts."""
    rng = np.random.default_rng(seed)
    level, sd = world
    mu = difficulty(np.clip([level, level + true], LOW, HIGH), sd)
    wins, losses = np.ones((2, runs, 2))
    for _ in range(max(config.max_steps, -(-config.min_episodes // shape.episodes))):
        mean, mass = wins / (wins + losses), wins + losses
        variance = mean * (1 - mean) / (mass + 1)
        best = ndtr((mean[:, 1] - mean[:, 0]) / np.sqrt(variance.sum(1)))
        share = np.clip(best, config.epsilon, 1 - config.epsilon)[:, None]
        new = rng.binomial(shape.group_size, share, (runs, shape.tasks))
        episodes = np.stack([shape.group_size - new, new], -1)
        z = rng.normal(size=(runs, shape.tasks, 1))
        won = rng.binomial(episodes, np.clip(mu + sd * z, LOW, HIGH)).sum(1)
        wins, losses = wins + won, losses + episodes.sum(1) - won
    mean = wins / (wins + losses)
    return float((mean[:, 1] > mean[:, 0]).mean())


class Grid(NamedTuple):
    """Values that `choose` tries, of fields of `TrialConfig`."""

    max_steps: tuple[int, ...] = (8, 16, 24)
    early_accept: tuple[float, ...] = (0.85, 0.88, 0.91, 0.94, 0.96, 0.98, 0.99, 0.995)
    early_reject: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25)


_FINALS = tuple(np.round(np.arange(0.5, 0.991, 0.02), 2).tolist())
# Simulated rates must be so far below the promised ones, as other worlds are others.
_CLOSE_NULL, _CLOSE_HARMFUL = 0.9, 0.81


def choose(shape: Shape, grid: Grid, *, runs: int) -> dict[str, Any]:
    """Return bounds that keep the promises, as fields of `TrialConfig`.

    For each longest trial and each pair of bounds to begin with, the bound to end with
    is the least that keeps the promises. Of what is left, additions take what gains
    most, over what creators propose (`EFFECTS`), per step of a trial and
    `PROPOSAL_STEPS`; deletes then take what lets go most skills that do nothing, a step
    being worth one point of that.

    Args:
        shape: of the batch.
        grid: what to try.
        runs: trials of each kind in each world.

    Returns:
        The fields; none where nothing keeps the promises.
    """
    found = cases(shape, max(grid.max_steps), runs)
    true = found.mixed.true

    def gain(decisions: Decisions) -> float:
        arm = np.maximum(decisions.accepted, 0)[..., None]
        worth = np.take_along_axis(true, arm, -1)[..., 0]
        mean = np.where(decisions.accepted >= 0, worth, 0).mean()
        return float(mean / (decisions.steps.mean() + PROPOSAL_STEPS))

    ends = itertools.product(grid.max_steps, grid.early_accept, grid.early_reject)
    added = _best(shape, found, ends, gain, deletes=False)
    if added is None:
        return {}

    def dropped(decisions: Decisions) -> float:
        accepted = (decisions.accepted >= 0).mean()
        return float(accepted - 0.01 * decisions.steps.mean())

    ends = itertools.product(added[:1], grid.early_accept, added[2:3])
    deleted = _best(shape, found, ends, dropped, deletes=True)
    if deleted is None:
        return {}
    return {
        "max_steps": added[0],
        "early_accept": added[1],
        "early_reject": added[2],
        "accept_probability": added[3],
        "delete_early_accept": deleted[1],
        "delete_accept_probability": deleted[3],
    }


def _best(
    shape: Shape,
    found: Cases,
    ends: Iterable[tuple[int, float, float]],
    value: Callable[[Decisions], float],
    *,
    deletes: bool,
) -> tuple[int, float, float, float] | None:
    """Return max_steps, early bounds and the last one of the best rule that keeps.

    `value` judges decisions about mixed candidates, or of deletes that do nothing.
    """
    config = TrialConfig()
    null, harmful, mixed = (
        chances(paths, config.effect_sd, config.cost(0 if deletes else 1))
        for paths in (found.null, found.harmful, found.mixed)
    )

    def accepted(chance: np.ndarray, bounds: Bounds) -> float:
        decisions = decide(chance, bounds, shape.episodes)
        return float((decisions.accepted >= 0).mean(1).max())

    best, top = None, -np.inf
    for length, accept, reject in ends:
        finals = [final for final in _FINALS if reject <= final <= accept]

        def bounds(final: float, ends=(length, accept, reject)) -> Bounds:
            length, accept, reject = ends
            return Bounds(1, length, config.min_episodes, accept, reject, final)

        def kept(final: float, bounds=bounds) -> bool:
            end = bounds(final)
            if accepted(harmful, end) > _CLOSE_HARMFUL * HARMFUL_LIMIT:
                return False
            null_limit = 1 if deletes else _CLOSE_NULL * NULL_LIMIT
            return accepted(null, end) <= null_limit

        at = bisect_left(finals, True, key=kept)
        if at < len(finals):
            chance = null if deletes else mixed
            now = value(decide(chance, bounds(finals[at]), shape.episodes))
            if now > top:
                best, top = (length, accept, reject, finals[at]), now
    return best
