"""Settings of a trial, and the decision that it ends with."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from reskill_jax.skills.contrast import Contrast
from reskill_jax.trials.paired import Bounds
from reskill_jax.trials.thompson import Discount

Reason = Literal["clear", "limit", "mean"]


@dataclass(frozen=True)
class TrialConfig:
    """How a trial runs; `TrialConfig.paper()` has the published settings.

    The paired defaults were chosen with `python -m reskill_jax.benchmarks.trials`, on
    the trade-off between three aims: at most 30% of the bundles without effect
    accepted, those worth +5 points as often as in paper mode where tasks are alike
    (there pairing cannot help), and decisions fast enough that whole runs fare better.
    None of them has much room: stricter thresholds cost +5 points, later ones success.
    At 16 tasks x 8 rollouts, task sd .4, no drift, they accept 28% of bundles without
    effect, 95% of those worth +5 points and 0.8% of those worth -5, after 3.7 steps on
    average (the paper's rule: 50%, 84%, 16%, 5 steps). What they give up are gains of 2
    points where tasks are alike: 55% accepted instead of 73%. The cost of a skill, half
    a point, matters where there are many episodes, which tell nothing from little.

    Attributes:
        mode: ``paired`` or ``paper``.
        assignment: ``stratified`` splits every group, ``per_rollout`` draws each
            rollout by itself.
        uniform: ablation, equal probabilities at every step.
        epsilon: least probability of each of two arms; of K arms it is 2 epsilon / K.
        discount: what the posterior and the effect forget.
        constant_weight: weight of the ``constant`` discount.
        frozen_policy: the policy does not learn, so nothing drifts and nothing is
            discounted.
        min_steps: no decision before.
        max_steps: K_e in paper mode; in paired mode the trial is decided here at last.
        min_episodes: no decision before, counted over all arms.
        early_accept: end with acceptance when P(effect > cost) reaches a bound that
            begins here.
        early_reject: end with rejection when it falls to a bound that begins here.
        accept_probability: accept at `max_steps` if it is at least this; both bounds
            move here evenly.
        effect_sd: standard deviation of effects that is expected beforehand; shrinks
            early estimates.
        cost_per_skill: gain in success rate that a bundle must bring for each skill
            that it adds or rewrites; the more episodes there are, the more this keeps
            out bundles that do nothing.
        carry_over: at most so many episodes of the incumbent's evidence go over into
            the next trial.
    """

    mode: Literal["paired", "paper"] = "paired"
    assignment: Literal["stratified", "per_rollout"] = "stratified"
    uniform: bool = False
    epsilon: float = 0.45
    discount: Discount = "adaptive"
    constant_weight: float = 0.9
    frozen_policy: bool = False
    min_steps: int = 1
    max_steps: int = 16
    min_episodes: int = 50
    early_accept: float = 0.87
    early_reject: float = 0.08
    accept_probability: float = 0.7
    effect_sd: float = 0.05
    cost_per_skill: float = 0.005
    carry_over: float = 32.0

    def __post_init__(self):
        """Refuse values that no trial can run with."""
        choices = {
            "mode": ("paired", "paper"),
            "assignment": ("stratified", "per_rollout"),
            "discount": ("adaptive", "constant", "last_step", "none"),
        }
        for key, allowed in choices.items():
            if getattr(self, key) not in allowed:
                shown = ", ".join(map(repr, allowed))
                raise ValueError(f"{key}={getattr(self, key)!r}: choose one of {shown}")
        ranges = {
            "epsilon": (0, 0.5),
            "constant_weight": (0, 1),
            "early_accept": (0, 1),
            "accept_probability": (0, self.early_accept),
            "early_reject": (0, self.accept_probability),
            "max_steps": (1, 10_000),  # arrays have a row for each
            "min_steps": (1, self.max_steps),
            "min_episodes": (0, math.inf),
            "effect_sd": (1e-6, 1),
            "cost_per_skill": (0, 1),
            "carry_over": (0, 1e9),
        }
        for key, (low, high) in ranges.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(
                    f"{key}={getattr(self, key)}: must be within [{low}, {high}]"
                )

    def bounds(self) -> Bounds:
        """Return when a trial ends, for `paired.verdict`."""
        return Bounds(*(getattr(self, name) for name in Bounds._fields))

    @classmethod
    def paper(cls, **changes: Any) -> "TrialConfig":
        """Return the published settings (arXiv 2606.01619), with `changes`."""
        published: dict[str, Any] = {
            "mode": "paper",
            "assignment": "per_rollout",
            "epsilon": 0.2,
            "min_steps": 5,
            "max_steps": 5,
            "carry_over": 0.0,
        }
        return cls(**(published | changes))


@dataclass(frozen=True)
class Decision:
    """The end of a trial.

    Attributes:
        accepted: whether a candidate becomes the incumbent.
        arm: the arm that goes on: 0, or the accepted candidate.
        candidate: the best candidate's arm.
        contrasts: per candidate.
        reason: ``clear`` (ended early), ``limit`` (at `max_steps`) or ``mean`` (paper).
        rates: raw success rate per arm; None for an arm without episodes.
        episodes: per arm.
        steps: how many the trial took.
        memory: M that discounted it; None is infinite.
    """

    accepted: bool
    arm: int
    candidate: int
    contrasts: tuple[Contrast, ...]
    reason: Reason
    rates: tuple[float | None, ...]
    episodes: tuple[int, ...]
    steps: int
    memory: float | None

    @property
    def contrast(self) -> Contrast:
        """The best candidate's."""
        return self.contrasts[self.candidate - 1]
