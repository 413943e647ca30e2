"""What a skill does to the policy: ignored, followed, or not needed any more.

At some turns the response is scored with and without a skill that was shown
(`rollout.meter`). Its mean effect, in nats per token, is never much below 0, since the
response was sampled with the skill: it estimates how far the two distributions are
apart. Only a trial can tell whether a skill is good; this tells whether it is read.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

# Nats per token. A policy that cannot read skills has less than half of it, one that
# was taught to obey rules has 0.1 to 0.6 where it would not do so by itself.
ABOUT_ZERO = 0.01
TURNS = 40  # that a judgement needs
_SIGMAS = 1.64  # 5%, one-sided

Verdict = Literal["unclear", "ignored", "followed", "internalised"]


@dataclass
class StepEffects:
    """One skill at one training step.

    Attributes:
        step: which.
        effects: one per scored turn, nats per token.
        episodes: in which the skill was shown.
        successes: how many of these reached the goal.
    """

    step: int
    effects: list[float] = field(default_factory=list)
    episodes: int = 0
    successes: int = 0


@dataclass(frozen=True)
class SkillEffect:
    """What was measured of a skill so far.

    Attributes:
        name: of the skill.
        turns: scored so far.
        mean: effect at the newest turns, nats per token.
        first: effect at the first ones.
        verdict: ignored: about 0 from the start; followed: above; internalised: it was
            followed, the effect is about 0 by now, and episodes succeed as often;
            unclear: anything else, or too few turns.
    """

    name: str
    turns: int
    mean: float
    first: float
    verdict: Verdict

    def __str__(self) -> str:
        """Put it into words."""
        first = f", {self.first:.3f} at first" if self.verdict == "internalised" else ""
        return (
            f"{self.verdict}: responses are {self.mean:.3f} nats per token likelier "
            f"with it{first} ({self.turns} turns)"
        )


def judge(name: str, course: Sequence[StepEffects]) -> SkillEffect | None:
    """Judge a skill by all that was measured of it, oldest first.

    The first and the newest turns are those of as few steps as hold `TURNS` of them.

    Returns:
        None where no turn was scored.
    """
    first, newest = _until(course), _until(course[::-1])
    if not newest.effects:
        return None
    verdict: Verdict = "unclear"
    if len(newest.effects) >= TURNS:
        if _is_read(newest):
            verdict = "followed"
        elif _bound(newest.effects, 1) < ABOUT_ZERO:
            if _bound(first.effects, 1) < ABOUT_ZERO:
                verdict = "ignored"
            elif _is_read(first) and not _fell(first, newest):
                verdict = "internalised"
    turns = sum(len(point.effects) for point in course)
    return SkillEffect(
        name, turns, _mean(newest.effects), _mean(first.effects), verdict
    )


def _is_read(point: StepEffects) -> bool:
    return _mean(point.effects) > ABOUT_ZERO and _bound(point.effects, -1) > 0


def _until(course: Iterable[StepEffects]) -> StepEffects:
    """Add up steps until they hold enough turns."""
    total = StepEffects(0)
    for point in course:
        total.effects.extend(point.effects)
        total.episodes += point.episodes
        total.successes += point.successes
        if len(total.effects) >= TURNS:
            break
    return total


def _fell(first: StepEffects, newest: StepEffects) -> bool:
    """Tell whether episodes with the skill succeed less often than at first."""
    if not first.episodes or not newest.episodes:
        return True
    episodes = first.episodes + newest.episodes
    pooled = (first.successes + newest.successes) / episodes
    error = sqrt(pooled * (1 - pooled) * (1 / first.episodes + 1 / newest.episodes))
    change = newest.successes / newest.episodes - first.successes / first.episodes
    return change < -_SIGMAS * error


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _bound(values: Sequence[float], side: int) -> float:
    """Return the upper (1) or lower (-1) bound of the mean, 95% each."""
    mean = _mean(values)
    spread = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
    return mean + side * _SIGMAS * sqrt(spread / len(values))
