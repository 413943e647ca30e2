"""Settings of a trial, and the decision that it ends with."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from reskill_jax.skills.contrast import Contrast
from reskill_jax.trials.paired import Bounds
from reskill_jax.trials.thompson import Discount

Reason = Literal["clear", "limit", "mean", "harm"]


PRESETS: dict[str, dict[str, Any]] = {
    "ours": {},
    # arXiv 2606.01619, Algorithm 1 and section 3.3; constants of its public draft.
    "paper": {
        "mode": "paper",
        "assignment": "per_rollout",
        "epsilon": 0.2,
        "min_steps": 5,
        "max_steps": 5,
        "min_episodes": 0,
        "carry_over": 0.0,
    },
}
# amazon-science/reskill at 51cca0d, where it departs from that.
PRESETS["official"] = PRESETS["paper"] | {"epsilon": 0.15, "min_episodes": 50}


@dataclass(frozen=True)
class TrialConfig:
    """How a trial runs; `TrialConfig.preset` has the published settings.

    The defaults are ours for 16 tasks x 8 rollouts and one candidate; for other batches
    `bounds.py` has the bounds that keep the same promises (`calibration.py`): 30% at
    most of what has no effect accepted, and 3% of what is worth -5 points.

    Rollouts are divided evenly (epsilon .5), because that was measured to be best, with
    `python -m reskill_jax.benchmarks.trials`: trials end after about four steps, and
    what a better arm wins by more rollouts meanwhile is less than what is lost because
    unequal arms take longer to tell apart. In the paper's rule, whose trials have a
    fixed length, it may gain half a point.

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
        delete_margin: loss in success rate that a bundle which only drops skills may
            bring: its cost is minus this.
        delete_early_accept: as `early_accept`, of such a bundle.
        delete_accept_probability: as `accept_probability`, of such a bundle.
        carry_over: at most so many episodes of the incumbent's evidence go over into
            the next trial.
        harm_errors: reject what would be accepted where the effect on a type of task,
            shrunk (`by_type`), is more than so many standard errors below 0; 0: never.
    """

    mode: Literal["paired", "paper"] = "paired"
    assignment: Literal["stratified", "per_rollout"] = "stratified"
    uniform: bool = False
    epsilon: float = 0.5
    discount: Discount = "adaptive"
    constant_weight: float = 0.9
    frozen_policy: bool = False
    min_steps: int = 1
    max_steps: int = 8
    min_episodes: int = 50
    early_accept: float = 0.96
    early_reject: float = 0.1
    accept_probability: float = 0.66
    effect_sd: float = 0.05
    cost_per_skill: float = 0.005
    delete_margin: float = 0.02
    delete_early_accept: float = 0.99
    delete_accept_probability: float = 0.9
    carry_over: float = 32.0
    harm_errors: float = 0.0

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
            "delete_early_accept": (0, 1),
            "delete_accept_probability": (self.early_reject, self.delete_early_accept),
            "max_steps": (1, 10_000),  # arrays have a row for each
            "min_steps": (1, self.max_steps),
            "min_episodes": (0, math.inf),
            "effect_sd": (1e-6, 1),
            "cost_per_skill": (0, 1),
            "delete_margin": (0, 1),
            "carry_over": (0, 1e9),
            "harm_errors": (0, 100),
        }
        for key, (low, high) in ranges.items():
            if not low <= getattr(self, key) <= high:
                raise ValueError(
                    f"{key}={getattr(self, key)}: must be within [{low}, {high}]"
                )

    def cost(self, new_skills: int) -> float:
        """Return the least effect that a candidate with so many new skills must have.

        One without any only drops skills, which is worth a small loss.
        """
        return self.cost_per_skill * new_skills if new_skills else -self.delete_margin

    def bounds(self, *, deletes: bool = False) -> Bounds:
        """Return when a trial ends, for candidates that only drop skills or others."""
        values = {name: getattr(self, name) for name in Bounds._fields}
        if deletes:
            values["early_accept"] = self.delete_early_accept
            values["accept_probability"] = self.delete_accept_probability
        return Bounds(**values)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "TrialConfig":
        """Return the settings of one of `PRESETS`, with `changes`."""
        return cls(**(PRESETS[name] | changes))


@dataclass(frozen=True)
class Decision:
    """The end of a trial.

    Attributes:
        accepted: whether a candidate becomes the incumbent.
        arm: the arm that goes on: 0, or the accepted candidate.
        candidate: the best candidate's arm.
        rejected: arms of the candidates that were found wanting; one that is neither
            rejected nor accepted was good too, but another one was chosen.
        contrasts: per candidate.
        reason: ``clear`` (ended early), ``limit`` (at `max_steps`), ``harm`` (good, but
            for a type of task) or ``mean`` (paper).
        rates: raw success rate per arm; None for an arm without episodes.
        episodes: per arm.
        steps: how many the trial took.
        memory: M that discounted it; None is infinite.
    """

    accepted: bool
    arm: int
    candidate: int
    rejected: tuple[int, ...]
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
