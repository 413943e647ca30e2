"""Group-relative advantages, one per turn, from episodes' outcomes.

`corrected` (default) compares outcomes by an estimator, see `estimators`, so that arms
of a trial share a baseline and no turn leaks into it; then it penalises invalid turns.
`reference` keeps the numbers of the official code: statistics from the first turn of
each episode, every turn normalised with a score that holds its own invalid-action
penalty, then whitening over the batch. Where the first turns of a group tie, its
standard deviation is 0 and one later invalid turn gets -penalty / 1e-6; whitening then
shrinks everything else to nothing.
"""

from typing import Literal, NamedTuple

import numpy as np

from reskill_jax.grpo.estimators import GRPO, Estimator, anchor_metrics
from reskill_jax.grpo.outcomes import Outcomes, statistics

Rule = Literal["corrected", "reference"]

_STD_EPS = 1e-6
_WHITEN_EPS = 1e-8


class Advantages(NamedTuple):
    """What `advantages` returns.

    Attributes:
        values: float32 [E, K], of every turn.
        metrics: `adv/abs_max` (before whitening, so that a blow-up shows), `adv/mean`
            and `adv/std` over response tokens, `adv/zero_std_groups`, and with
            `gigpo` those of `anchor_metrics`.
        has_signal: bool [E], whether any turn of the episode's group has an advantage
            other than a penalty. Without one the group teaches nothing.
    """

    values: np.ndarray
    metrics: dict[str, float]
    has_signal: np.ndarray


def advantages(
    table: Outcomes,
    *,
    rule: Rule = "corrected",
    estimator: Estimator = GRPO,
    penalty: float = 0.1,
    reward_scale: float = 1.0,
) -> Advantages:
    """Compute the advantage of every turn, on the whole batch of episodes.

    With `rule="reference"`, `reward_scale=10` and `penalty=0.1`, outcomes of 0 and 1
    give the released code's numbers. `corrected` depends with most estimators on the
    ratio of the two only, and grows with both where they are not divided by a
    statistic of the rewards (`Estimator.scale_free`).

    Args:
        table: the outcomes.
        rule: see the module's docstring.
        estimator: see `estimators`; `reference` takes `grpo`, and `dr_grpo` to leave
            out the division by the standard deviation.
        penalty: subtracted on invalid turns, on the scale of the scaled rewards: from
            the turn's score if `reference`; if `corrected`, from the advantage, and
            divided by `reward_scale` where that is normalised, so that it is the same
            share of a reward of 1.
        reward_scale: outcomes are multiplied by it first; above 0.

    Raises:
        ValueError: on an unknown rule, or an estimator that it has not.
    """
    if rule not in ("corrected", "reference"):
        raise ValueError(f"rule={rule!r}: choose 'corrected' or 'reference'")
    if rule == "reference" and estimator.name not in ("grpo", "dr_grpo"):
        raise ValueError(
            f"estimator={estimator.name!r} is not of the released code: rule="
            "'reference' takes 'grpo' or 'dr_grpo'; choose rule='corrected'"
        )
    table = table.scaled(reward_scale)
    if rule == "corrected":
        outcome = np.broadcast_to(estimator(table), table.valid.shape)
        penalty = penalty / reward_scale if estimator.scale_free else penalty
        values = outcome - penalty * ~table.valid
        tied = statistics(table.reward, table.group).tied
        has_signal = _any_in_group((outcome != 0) & (table.tokens > 0), table.group)
    else:
        values, tied = reference_advantages(
            table, std=estimator.name == "grpo", penalty=penalty
        )
        has_signal = np.ones(len(values), bool)  # whitening moves all of them
    abs_max = np.abs(values[table.tokens > 0]).max(initial=0.0)
    if rule == "reference":
        values = whiten(values, table.tokens)
    mean, std = _token_moments(values, table.tokens)
    metrics = {
        "adv/abs_max": float(abs_max),
        "adv/mean": mean,
        "adv/std": std,
        "adv/zero_std_groups": float(len(np.unique(table.group[tied]))),
    }
    if estimator.name == "gigpo":
        metrics |= anchor_metrics(table)
    return Advantages(values.astype(np.float32), metrics, has_signal)


def reference_advantages(
    table: Outcomes, *, std: bool, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Normalise every turn's own score with its group's first turns, as officially.

    A group of one episode has mean 0 and standard deviation 1.

    Returns:
        float64 [E, K] before whitening, and which episodes' groups tied, bool [E].
    """
    scores = table.reward[:, None] - penalty * ~table.valid  # [E, K]
    mean, spread, tied, size = statistics(scores[:, 0], table.group)
    mean, spread = np.where(size == 1, 0.0, mean), np.where(size == 1, 1.0, spread)
    divisor = spread + _STD_EPS if std else np.ones_like(spread)
    return (scores - mean[:, None]) / divisor[:, None], tied


def whiten(values: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Whiten turns [E, K] by population moments over all their response tokens."""
    mean, std = _token_moments(values, tokens)
    return (values - mean) / np.sqrt(std**2 + _WHITEN_EPS)


def _any_in_group(chosen: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Tell of each episode [E] whether its group has a chosen turn, of [E, K]."""
    return np.isin(group, group[chosen.any(1)])


def _token_moments(values: np.ndarray, tokens: np.ndarray) -> tuple[float, float]:
    """Return mean and population standard deviation, every turn weighted by tokens."""
    if tokens.sum() == 0:
        return 0.0, 0.0
    mean = np.average(values, weights=tokens)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=tokens)))
