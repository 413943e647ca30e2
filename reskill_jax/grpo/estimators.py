"""Estimators: how much better an episode, or a turn, was than its group.

With the outcomes R of G episodes of one task, their mean and standard deviation s
(ddof 1), and the mean of the others' outcomes LOO_i,

    grpo          (R_i - mean) / s                           ReSkill, section 3.1
    dr_grpo       R_i - mean                                 arXiv 2503.20783
    rloo          R_i - LOO_i                                arXiv 2402.14740
    maxrl         (R_i - mean) / mean                        arXiv 2602.02710
    passk         pass@k instead of the mean outcome         arXiv 2508.10751
    gigpo         grpo, and a turn against turns at the same observation
                                                             arXiv 2505.10978
    arm_adjusted  (R_i - LOO_i) / s, with what each arm is known to add taken off

Where a group's outcomes are all equal, but for rounding, its part is exactly 0; so is
that of a group of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from reskill_jax.grpo.outcomes import Outcomes, statistics
from reskill_jax.rollout.metrics import equal

StepMode = Literal["mean_norm", "mean_std_norm"]

_STD_EPS = 1e-6


@dataclass(frozen=True)
class Estimator:
    """An estimator with the constants of those that have some.

    Attributes:
        name: a key of `ESTIMATORS`.
        pass_k: of `passk`: attempts of which the best counts.
        omega: of `gigpo`: weight of the part that compares turns.
        gamma: of `gigpo`: discount per turn.
        mode: of `gigpo`: `mean_std_norm` divides both parts by the standard deviation,
            `mean_norm` does not.

    Raises:
        ValueError: a value is not possible.
    """

    name: str = "grpo"
    pass_k: int = 4
    omega: float = 1.0
    gamma: float = 0.95
    mode: StepMode = "mean_norm"

    def __post_init__(self) -> None:
        """Check the values."""
        if self.name not in ESTIMATORS:
            raise ValueError(
                f"estimator={self.name!r}: choose from {', '.join(ESTIMATORS)}"
            )
        if self.pass_k < 1:
            raise ValueError(f"pass_k={self.pass_k}: must be 1 or more")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma={self.gamma}: must be from 0 to 1")
        if self.mode not in ("mean_norm", "mean_std_norm"):
            raise ValueError(
                f"mode={self.mode!r}: choose 'mean_norm' or 'mean_std_norm'"
            )

    @property
    def scale_free(self) -> bool:
        """Whether advantages stay the same when all rewards are multiplied."""
        if self.name == "gigpo":
            return self.mode == "mean_std_norm"
        return self.name in ("grpo", "maxrl", "passk", "arm_adjusted")

    def __call__(self, table: Outcomes) -> np.ndarray:
        """Return the advantages without any penalty, float64 [E, K] or [E, 1]."""
        return ESTIMATORS[self.name](table, self)


def grpo(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare with the group's mean, in standard deviations."""
    mean, std, tied, _ = statistics(table.reward, table.group)
    return np.where(tied, 0.0, (table.reward - mean) / (std + _STD_EPS))[:, None]


def dr_grpo(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare with the group's mean; division by s would favour one-sided groups."""
    mean, _, tied, _ = statistics(table.reward, table.group)
    return np.where(tied, 0.0, table.reward - mean)[:, None]


def rloo(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare with the mean of the others, so that the baseline is unbiased."""
    return _leave_one_out(table.reward, table)[:, None]


def maxrl(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare with the group's mean, as a share of it: hard tasks weigh more.

    Unbiased for the logarithm of the success rate, truncated at the order of the
    group's size. 0 where the mean is 0.

    Raises:
        ValueError: a reward is negative; the mean is no success rate then.
    """
    if (table.reward < 0).any():
        raise ValueError(
            f"reward={table.reward.min():g}: estimator='maxrl' divides by the group's "
            "mean reward and needs rewards of 0 or more: choose another estimator"
        )
    mean, _, tied, _ = statistics(table.reward, table.group)
    share = (table.reward - mean) / np.where(tied, 1.0, mean)
    return np.where(tied, 0.0, share)[:, None]


def passk(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare the best of `pass_k` attempts with and without an episode.

    Over all subsets S of the group with k episodes: the mean of max(R) over those that
    hold the episode, less the mean over all, in standard deviations over all. With
    outcomes of 0 and 1 it is the analytic form of arXiv 2508.10751; graded outcomes
    have the best of k in place of pass@k. 0 for a group in which the best of any k is
    the same, e.g. one with fewer than k failures. k is at most the group's size.
    """
    values = np.zeros(len(table.reward))
    for group in np.unique(table.group):
        members = np.flatnonzero(table.group == group)
        values[members] = _best_of(
            table.reward[members], min(options.pass_k, len(members))
        )
    return values[:, None]


def gigpo(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare episodes, and turns with turns of the group at the same observation.

    A turn's value is the discounted sum of what was paid from it on. Turns whose
    observation nobody else of the group saw, and no other turn of the episode, have no
    second part. Statistics of the first part are over episodes (the paper's equation;
    the released code has them over turns).
    """
    by_episode = grpo if options.mode == "mean_std_norm" else dr_grpo
    return by_episode(table, options) + options.omega * _step_advantages(table, options)


def arm_adjusted(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare with the mean of the others as if they had played on the same arm.

    b_i = mean over j != i of R_j + d_i - d_j, with d an episode's `arm_effect`, known
    before the batch: then b_i does not depend on R_i, and the gradient stays unbiased.
    Ties get 0 before anything is adjusted. Divided by s of the whole group, whose arms
    would otherwise take steps of different sizes.
    """
    _, std, _, _ = statistics(table.reward, table.group)
    adjusted = _leave_one_out(table.reward - table.arm_effect, table)
    return (adjusted / (std + _STD_EPS))[:, None]


ESTIMATORS: dict[str, Callable[[Outcomes, Estimator], np.ndarray]] = {
    "grpo": grpo,
    "dr_grpo": dr_grpo,
    "rloo": rloo,
    "maxrl": maxrl,
    "passk": passk,
    "gigpo": gigpo,
    "arm_adjusted": arm_adjusted,
}

GRPO = Estimator()


def anchor_metrics(table: Outcomes) -> dict[str, float]:
    """Tell how many turns an anchor has: `gigpo` learns nothing from single ones."""
    anchor = table.anchor[table.anchor >= 0]
    _, count = np.unique(anchor, return_counts=True)
    return {
        "adv/anchor_size": float(count.mean()) if len(count) else 0.0,
        "adv/anchor_singletons": float((count == 1).sum() / max(len(anchor), 1)),
    }


def _leave_one_out(value: np.ndarray, table: Outcomes) -> np.ndarray:
    """Return value [E] less the mean of the group's others; 0 where outcomes tie."""
    mean, _, _, size = statistics(value, table.group)
    tied = statistics(table.reward, table.group).tied
    return np.where(tied, 0.0, (value - mean) * size / np.maximum(size - 1, 1))


def _best_of(reward: np.ndarray, k: int) -> np.ndarray:
    """Return `passk` for one group [G]."""
    order = np.argsort(reward, kind="stable")
    ranked = reward[order]
    if equal(ranked[k - 1], ranked[-1]):  # the best of any k is the same
        return np.zeros(len(reward))
    # Of subsets, the share whose best has rank n (0 is the worst), all or with i in it.
    size = len(reward)
    best = _share_of_subsets(size, k)
    mean = best @ ranked
    std = np.sqrt(best @ (ranked - mean) ** 2)
    # With rank n in it: the others are a subset of k - 1 of G - 1. It is the best where
    # they are all below it; else the best is the highest of them.
    others = _share_of_subsets(size - 1, k - 1)
    below = np.append(0.0, np.cumsum(others)) if k > 1 else np.ones(size)
    above = np.append(np.cumsum((others * ranked[1:])[::-1])[::-1], 0.0)
    with_it = ranked * below + above
    values = np.empty(size)
    values[order] = (with_it - mean) / std
    return values


def _share_of_subsets(size: int, k: int) -> np.ndarray:
    """Return the share of subsets of k whose highest rank is n: float64 [size]."""
    shares = np.zeros(size)
    if not 1 <= k <= size:
        return shares
    # C(n, k - 1) / C(size, k) from the top down: k / size, and then ratios.
    share = k / size
    for n in range(size - 1, k - 2, -1):
        shares[n] = share
        share *= (n - k + 1) / n if n else 0.0
    return shares


def _step_advantages(table: Outcomes, options: Estimator) -> np.ndarray:
    """Compare the values of turns within their anchors: float64 [E, K]."""
    episodes, turns = table.rewards.shape
    value, ahead = np.zeros((episodes, turns)), np.zeros(episodes)
    for k in reversed(range(turns)):
        ahead = table.rewards[:, k] + options.gamma * ahead
        value[:, k] = ahead
    seen = table.anchor >= 0
    mean, std, tied, _ = statistics(value[seen], table.anchor[seen])
    divisor = std + _STD_EPS if options.mode == "mean_std_norm" else 1.0
    result = np.zeros(value.shape)
    result[seen] = np.where(tied, 0.0, (value[seen] - mean) / divisor)
    return result
