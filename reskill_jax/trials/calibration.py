"""What a trial's bounds lead to, and which of them keep promises: by simulation.

How much a step tells follows from the batch's shape: 48 episodes tell less than 1,280,
and rollouts that are shared out among four arms less than those of two. So bounds are
chosen by shape (`bounds.py` keeps those of shipped shapes):

- of candidates that add or rewrite skills, at most 30% of the trials where none has an
  effect accept one, and at most 3% of those where all are worth -5 points;
- of candidates that only drop skills, at most 3% of the trials where all are worth -5
  points accept one; a skill that does nothing may go.

Trials are played in six worlds, where mean success is 20, 50 or 80% and tasks are alike
or differ in difficulty (success on a task is a clipped normal with standard deviation
.4); promises hold in the worst of them. Arms have equal shares, evidence is not
discounted. Every figure is a function of the shape and of the seed in this file.
"""

import itertools
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from scipy.special import ndtr

from reskill_jax.trials import by_type, paired, thompson
from reskill_jax.trials.paired import Bounds
from reskill_jax.trials.trial_config import TrialConfig

NULL_LIMIT, HARMFUL_LIMIT = 0.30, 0.03
LEAST_POWER = 0.60  # below, a group must not be divided among several candidates
# Steps that a proposal is worth beside those of its trial: for so long a rejected one
# is not tried again (`creator.verify.Limits.cooldown_steps`).
PROPOSAL_STEPS = 20.0
WORLDS = tuple((level, sd) for level in (0.2, 0.5, 0.8) for sd in (0.0, 0.4))
# Of what creators propose: worth in success rate, and how often.
EFFECTS, SHARES = (0.10, 0.05, 0.02, 0.0, -0.05), (0.1, 0.2, 0.2, 0.3, 0.2)
LOW, HIGH = 0.02, 0.98  # success on any task
_SEED = 20

_sums = thompson.on_host(paired.paired_sums)
_effect = thompson.on_host(paired.effect_of_sums)
_harmed = thompson.on_host(by_type.harmed)


class Shape(NamedTuple):
    """What a step tells about a candidate follows from these.

    Attributes:
        tasks: groups of a step.
        group_size: rollouts of a group.
        candidates: on trial at once.
    """

    tasks: int
    group_size: int
    candidates: int = 1

    @property
    def episodes(self) -> int:
        """Of a step."""
        return self.tasks * self.group_size

    def __str__(self) -> str:
        """Name it in messages."""
        several = f", {self.candidates} candidates" if self.candidates > 1 else ""
        return f"{self.tasks} x {self.group_size}{several}"


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
        rng = np.random.default_rng((_SEED, seed, number))
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
    mixed = np.random.default_rng(_SEED).choice(EFFECTS, others.shape, p=SHARES)
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
    rng = np.random.default_rng(_SEED)
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
                _paper_accepted(shape, config, true, world, runs, (_SEED, seed, k))
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


def difficulty(means: np.ndarray, sd: float) -> np.ndarray:
    """Return mu such that clip(mu + sd z, .02, .98) has these means for normal z."""
    if sd == 0:
        return means
    mu = np.linspace(-3, 4, 2001)
    return np.interp(means, mean_success(mu, sd), mu)


def mean_success(mu: np.ndarray, sd: float) -> np.ndarray:
    """Mean over tasks of clip(mu + sd z, .02, .98) for normal z, closed form."""
    a, b = (LOW - mu) / sd, (HIGH - mu) / sd
    pdf = [np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) for x in (a, b)]
    inside = mu * (ndtr(b) - ndtr(a)) + sd * (pdf[0] - pdf[1])
    return LOW * ndtr(a) + HIGH * ndtr(-b) + inside
