"""A trial of candidate banks against the incumbent: assignment and decision.

`paper` mode is the published procedure: independent assignment, Beta posteriors from
(1, 1), K_e steps, accept iff the candidate's posterior mean is strictly greater.

`paired` mode, the default, uses that all rollouts of a GRPO group share one task: every
group is split over the arms, and the decision rests on the within-group difference,
which the mix of tasks cannot disturb. A trial ends as soon as the answer is clear and
goes on, up to `max_steps`, while it is not.

A trial is plain data: counts per step, group and arm; all else follows.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.skill import SkillBank
from reskill_jax.trials import by_type, paired, thompson
from reskill_jax.trials.trial_config import Decision, Reason, TrialConfig

_best = thompson.on_host(thompson.probability_best)
_clip = thompson.on_host(thompson.clip_probabilities)
_sums = thompson.on_host(paired.paired_sums)
_effect = thompson.on_host(paired.paired_effect)
_expected_effect = thompson.on_host(paired.expected_effect)
_probability_above = thompson.on_host(paired.probability_above)
_verdict = thompson.on_host(paired.verdict)
_shrunk = thompson.on_host(by_type.shrunk)
_harmed = thompson.on_host(by_type.harmed)


@dataclass
class Trial:
    """A running trial; arm 0 is the incumbent.

    Attributes:
        config: how it runs.
        banks: content hash per arm.
        new_skills: per arm, how many skills the incumbent has not, or not so.
        memory: M during this trial; None without an estimate, or where it is infinite.
        prior: Beta (alpha, beta) per arm.
        counts: per step int64 [B, K, 2], successes and episodes by group and arm.
        exposed: the same for episodes where a changed skill could have fired.
        kinds: per step, each group's type of task; empty where they are not compared.
        dropped: candidates that have already lost; they get no rollouts any more.
    """

    config: TrialConfig
    banks: tuple[str, ...]
    new_skills: tuple[int, ...]
    memory: float | None
    prior: tuple[tuple[float, float], ...]
    counts: list[NDArray[np.int64]] = field(default_factory=list)
    exposed: list[NDArray[np.int64]] = field(default_factory=list)
    kinds: list[tuple[str, ...]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)

    @classmethod
    def start(
        cls,
        config: TrialConfig,
        banks: Sequence[SkillBank],
        *,
        memory: float = math.inf,
        evidence: tuple[float, float] | None = None,
    ) -> "Trial":
        """Begin a trial.

        Args:
            config: how it runs.
            banks: incumbent, then the candidates.
            memory: M estimated from completed trials (`MemoryEstimate.value`).
            evidence: Beta (alpha, beta) of the incumbent from `Trial.evidence`.

        Raises:
            ValueError: too many arms for the mode, or equal banks.
        """
        arms = len(banks)
        if arms < 2 or (config.mode == "paper" and arms != 2):
            raise ValueError(
                f"{arms} banks in a trial of mode {config.mode!r}: give the incumbent"
                " and one candidate (mode 'paired' takes more)"
            )
        hashes = tuple(bank.hash for bank in banks)
        if len(set(hashes)) != arms:
            raise ValueError(f"banks of a trial must differ, their hashes are {hashes}")
        prior = [(1.0, 1.0)] * arms
        if evidence is not None and config.carry_over > 0:
            carry_over = thompson.on_host(thompson.carry_over, arms=arms)
            shapes = np.transpose(carry_over(*evidence, config.carry_over))
            prior = [(float(alpha), float(beta)) for alpha, beta in shapes]
        return cls(
            config=config,
            banks=hashes,
            new_skills=tuple(len(set(b.skills) - set(banks[0].skills)) for b in banks),
            memory=None if config.frozen_policy else _finite(memory),
            prior=tuple(prior),
        )

    def probabilities(self) -> np.ndarray:
        """Probability [K] with which a rollout of the next step runs on each arm."""
        live = [k for k in range(len(self.banks)) if k not in self.dropped]
        result = np.zeros(len(self.banks))
        if self.config.uniform:
            result[live] = 1 / len(live)
        else:
            alpha, beta = self._posterior()
            epsilon = 2 * self.config.epsilon / len(live)
            result[live] = _clip(_best(alpha[live], beta[live]), epsilon)
        return result

    def assign(self, key: Any, tasks: int, group_size: int) -> np.ndarray:
        """Draw arms for the next step: int32 [tasks, group_size].

        Args:
            key: a jax key; the assignment is a function of it and of the trial's state.
            tasks: groups in the step.
            group_size: rollouts per group.
        """
        rule = (
            thompson.assign_stratified
            if self.config.assignment == "stratified"
            else thompson.assign_independent
        )
        draw = thompson.on_host(rule, tasks=tasks, group_size=group_size)
        return draw(key, self.probabilities())

    def observe(
        self,
        arms: ArrayLike,
        successes: ArrayLike,
        groups: ArrayLike,
        exposed: ArrayLike | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        """Record the episodes of one step.

        Args:
            arms: int [N].
            successes: bool [N].
            groups: int [N], index of the task in the step.
            exposed: bool [N], whether a changed skill could have fired (`could_fire`).
            kinds: [N], types of tasks, where they shall be compared.
        """
        arms, groups = np.asarray(arms, int), np.asarray(groups, int)
        outcomes = np.asarray(successes, bool)
        self.counts.append(_count(arms, outcomes, groups, len(self.banks)))
        if self.config.harm_errors:
            own = dict(zip(groups.tolist(), kinds, strict=True))
            self.kinds.append(
                tuple(own.get(k, "") for k in range(len(self.counts[-1])))
            )
        if exposed is not None:
            kept = np.asarray(exposed, bool)
            self.exposed.append(
                _count(arms[kept], outcomes[kept], groups[kept], len(self.banks))
            )

    def decide(self) -> Decision | None:
        """Return the decision, or None while the trial goes on; drops clear losers."""
        config, steps = self.config, len(self.counts)
        episodes = sum(int(step[..., 1].sum()) for step in self.counts)
        found = self._found()
        chances = found[2]
        if config.mode == "paper":
            over = steps >= config.max_steps and episodes >= config.min_episodes
            # Accept iff the candidate's posterior mean is strictly greater.
            accepted = bool(found[0][0] > 0)
            rejected = () if accepted else (1,)
            return (
                self._decision(1, found, accepted, "mean", rejected) if over else None
            )
        verdict = _verdict(chances, steps, episodes, self._bounds())
        live = [k for k in range(1, len(self.banks)) if k not in self.dropped]
        good = [k for k in live if verdict[k - 1] > 0]
        bad = [k for k in live if verdict[k - 1] < 0]
        harmful = [k for k in good if self._harms(k)]
        good, bad = [k for k in good if k not in harmful], sorted({*bad, *harmful})
        if not good and len(bad) < len(live):
            self.dropped.extend(bad)
            return None
        reason: Reason = "limit" if steps >= config.max_steps else "clear"
        if harmful and not good:
            reason = "harm"
        return self._decision(
            max(good or live, key=lambda k: chances[k - 1]),
            found,
            bool(good),
            reason,
            rejected=(*self.dropped, *bad),
        )

    def contrasts(self) -> tuple[Contrast, ...]:
        """What has been found out so far, per candidate."""
        return _contrasts(*self._found(), *self._paired(self.exposed))

    def types(self) -> tuple[dict[str, dict[str, Any]], ...]:
        """Return what each candidate does to each type of task.

        Returns:
            Per candidate, by type: effect, its standard error, both shrunk, and whether
            the type is clearly harmed; nothing where types are not compared.
        """
        if not self.kinds:
            return ()
        names = sorted({kind for step in self.kinds for kind in step})
        found = [self._paired(self._of_type(name)) for name in names]
        effects, errors = np.moveaxis(np.array(found), 0, -1)  # [K-1, C]
        shrunk, deviations = _shrunk(effects, errors)
        harmed = _harmed(effects, errors, self.config.harm_errors)
        return tuple(
            {
                name: {
                    "effect": float(effects[k, c]),
                    "standard_error": _finite(float(errors[k, c])),
                    "shrunk": float(shrunk[k, c]),
                    "shrunk_standard_error": _finite(float(deviations[k, c])),
                    "harmed": bool(harmed[k, c]),
                }
                for c, name in enumerate(names)
            }
            for k in range(len(self.banks) - 1)
        )

    def _harms(self, arm: int) -> bool:
        """Tell whether a candidate clearly harms a type of task."""
        return any(
            found["harmed"]
            for types in self.types()[arm - 1 : arm]
            for found in types.values()
        )

    def _of_type(self, kind: str) -> list[np.ndarray]:
        """Return the counts of the groups of one type, zeros for the others."""
        return [
            np.where(np.array([k == kind for k in kinds], bool)[:, None, None], step, 0)
            for step, kinds in zip(self.counts, self.kinds, strict=True)
        ]

    def expected_effects(self) -> tuple[float, ...]:
        """What each arm is expected to add to the incumbent's success rate, [K].

        The posterior mean: shrunk as the trial's decision shrinks it, in paper mode the
        difference of the Beta means. 0 before anything was played.
        """
        if not self.counts:
            return (0.0,) * len(self.banks)
        effects, errors, _ = self._found()
        if self.config.mode != "paper":  # Beta means are shrunk already
            effects = _expected_effect(effects, errors, self.config.effect_sd)
        return (0.0, *effects.tolist())

    def evidence(self, arm: int) -> tuple[float, float]:
        """Beta (alpha, beta) of an arm, to carry over when it is the next incumbent."""
        alpha, beta = self._posterior()
        return float(alpha[arm]), float(beta[arm])

    def metrics(self) -> dict[str, float]:
        """Metrics: steps; per arm episodes, success rate and assignment probability."""
        result: dict[str, float] = {"trial/steps": len(self.counts)}
        rates, episodes = self._rates()
        for k, probability in enumerate(self.probabilities()):
            result[f"trial/assignment_probability_{k}"] = float(probability)
            result[f"trial/episodes_{k}"] = episodes[k]
            rate = rates[k]
            if rate is not None:
                result[f"trial/success_rate_{k}"] = rate
        return result

    def padded_counts(self) -> np.ndarray:
        """Successes and episodes of all steps, with zeros up to `max_steps`.

        Returns:
            int64 [T, B, K, 2].
        """
        return _padded(self.counts, self.config.max_steps, len(self.banks))

    def _bounds(self) -> paired.Bounds:
        """Return when the trial ends; each field is of the candidates, [K-1]."""
        each = [self.config.bounds(deletes=new == 0) for new in self.new_skills[1:]]
        return paired.Bounds(*np.array(each).T)

    def _weights(self, trials: np.ndarray) -> np.ndarray:
        """Discount of each step, for episodes [T, ...]."""
        rule = "none" if self.config.frozen_policy else self.config.discount
        weigh = thompson.on_host(
            thompson.step_weights, discount=rule, constant=self.config.constant_weight
        )
        return weigh(trials, math.inf if self.memory is None else self.memory)

    def _posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Beta (alpha [K], beta [K])."""
        totals = self.padded_counts().sum(1)  # [T, K, 2]
        trials = totals[..., 1]
        keep = self.config.mode == "paired" or self.config.discount == "last_step"
        update = thompson.on_host(thompson.posterior, keep_prior=keep)
        prior = np.array(self.prior)
        return update(
            (prior[:, 0], prior[:, 1]), totals[..., 0], trials, self._weights(trials)
        )

    def _paired(self, steps: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Within-group effect [K-1] of each candidate and its standard error [K-1]."""
        counts = _padded(steps, self.config.max_steps, len(self.banks))
        trials = counts[..., 1].sum(1)  # [T, K]
        weights = self._weights((trials[:, :1] + trials[:, 1:]) / 2)
        return _effect(_sums(counts[..., 0], counts[..., 1]), weights)

    def _found(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Effect, its standard error and P(effect > cost) of each candidate: [K-1].

        In paper mode the difference of posterior means, and P(best).
        """
        if self.config.mode == "paper":
            alpha, beta = self._posterior()
            total = alpha + beta
            mean, variance = alpha / total, alpha * beta / (total**2 * (total + 1))
            errors = np.sqrt(variance[1:] + variance[0])
            return mean[1:] - mean[0], errors, _best(alpha, beta)[1:]
        effects, errors = self._paired(self.counts)
        costs = np.array([self.config.cost(new) for new in self.new_skills[1:]])
        chances = _probability_above(effects, errors, self.config.effect_sd, costs)
        return effects, errors, chances

    def _decision(
        self,
        candidate: int,
        found: tuple[np.ndarray, np.ndarray, np.ndarray],
        accepted: bool,
        reason: Reason,
        rejected: tuple[int, ...],
    ) -> Decision:
        """Put a decision together; `found` are effects, errors and chances [K-1]."""
        rates, episodes = self._rates()
        return Decision(
            accepted=accepted,
            arm=candidate if accepted else 0,
            candidate=candidate,
            rejected=tuple(sorted(rejected)),
            contrasts=_contrasts(*found, *self._paired(self.exposed)),
            reason=reason,
            rates=rates,
            episodes=episodes,
            steps=len(self.counts),
            memory=self.memory,
        )

    def _rates(self) -> tuple[tuple[float | None, ...], tuple[int, ...]]:
        """Raw success rate and number of episodes per arm."""
        total = self.padded_counts().sum((0, 1))  # [K, 2]
        rates = tuple(float(m / n) if n else None for m, n in total)
        return rates, tuple(int(n) for _, n in total)


def _count(
    arms: np.ndarray, successes: np.ndarray, groups: np.ndarray, num_arms: int
) -> np.ndarray:
    """Count successes and episodes by group and arm: int64 [B, K, 2]."""
    num_groups = int(groups.max()) + 1 if len(groups) else 0
    counts = np.zeros((num_groups, num_arms, 2), int)
    np.add.at(counts[..., 0], (groups, arms), successes)
    np.add.at(counts[..., 1], (groups, arms), 1)
    return counts


def _padded(steps: list[np.ndarray], length: int, num_arms: int) -> np.ndarray:
    """Stack steps, zeros up to `length` so that jit sees one shape: [T, B, K, 2]."""
    groups = max((len(step) for step in steps), default=0)
    result = np.zeros((max(length, len(steps)), groups, num_arms, 2), int)
    for t, step in enumerate(steps):
        result[t, : len(step)] = step
    return result


def _contrasts(*columns: np.ndarray) -> tuple[Contrast, ...]:
    """Take apart arrays [K-1]: effect, its error, chance, exposed effect, its error."""
    return tuple(
        Contrast(
            effect=effect,
            standard_error=_finite(error),
            probability=chance,
            exposed_effect=exposed if math.isfinite(exposed_error) else None,
            exposed_standard_error=_finite(exposed_error),
        )
        for effect, error, chance, exposed, exposed_error in np.transpose(
            columns
        ).tolist()
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
