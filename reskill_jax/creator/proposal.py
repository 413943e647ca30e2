"""What a creator sees and what it hands over.

A `Creator` turns `Evidence` into a `Proposal`: a bundle of operations on the bank, with
reasons. It never touches a bank itself; a trial judges the bundle as a whole.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from numbers import Real
from typing import Any, Protocol

from reskill_jax.creator.reservoir import Tally
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.effects import SkillEffect
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.operations import Operation
from reskill_jax.skills.skill import Skill, SkillBank


@dataclass(frozen=True)
class Proposal:
    """A bundle of operations, to be tried and judged as one.

    Attributes:
        operations: what to change.
        reasons: one sentence per operation.
        evidence: the figures that it rests on, one line each.
        bank: content hash of the bank that it was written for, the only one it fits.
    """

    operations: tuple[Operation, ...]
    reasons: tuple[str, ...]
    evidence: tuple[str, ...]
    bank: str


def content_hash(skill: Skill) -> str:
    """Hash what a skill tells the agent and when, 12 hex digits.

    Name, description and version are left out, case and blanks do not count: the same
    advice under another name is the same advice.
    """
    words = (skill.when_to_use, skill.action, skill.example)
    text = [" ".join(field.casefold().split()) for field in words]
    trigger = [skill.trigger.kind, skill.trigger.pattern]
    trigger += [skill.trigger.goal] if skill.trigger.goal else []
    return hashlib.sha256(json.dumps([*text, *trigger]).encode()).hexdigest()[:12]


def new_skills(bank: SkillBank, candidate: SkillBank) -> tuple[Skill, ...]:
    """Return the skills of `candidate` that `bank` does not hold as they are."""
    return tuple(skill for skill in candidate.skills if skill not in bank.skills)


@dataclass(frozen=True)
class PastTrial:
    """A proposal that has been judged.

    Attributes:
        step: step of the decision.
        proposal: what was tried.
        candidate: content hash of the bank that it made.
        skills: content hashes of the skills that were new or changed in it.
        accepted: the verdict.
        contrast: what the trial found out; None where nothing was measured.
        not_chosen: not accepted although it was not found wanting, because another
            candidate of the same trial was accepted.
    """

    step: int
    proposal: Proposal
    candidate: str
    skills: tuple[str, ...]
    accepted: bool
    contrast: Contrast | None = None
    not_chosen: bool = False

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.not_chosen:
            return "not chosen"
        return "accepted" if self.accepted else "rejected"

    @property
    def effect(self) -> float | None:
        """Success rate of the candidate minus the incumbent's, as far as measured."""
        return self.contrast.effect if self.contrast else None

    @classmethod
    def judged(
        cls,
        step: int,
        proposal: Proposal,
        banks: tuple[SkillBank, SkillBank],
        accepted: bool,
        contrast: Contrast | None = None,
        *,
        not_chosen: bool = False,
    ) -> "PastTrial":
        """Record a verdict on a proposal; `banks` are incumbent and candidate."""
        return cls(
            step=step,
            proposal=proposal,
            candidate=banks[1].hash,
            skills=tuple(content_hash(skill) for skill in new_skills(*banks)),
            accepted=accepted,
            contrast=contrast,
            not_chosen=not_chosen,
        )


@dataclass(frozen=True)
class Evidence:
    """All that a creator may use; frozen, so that it can travel to a worker.

    Attributes:
        bank: the accepted bank.
        records: recent episodes, oldest first.
        tallies: counts of all recent episodes per bank and step, for success rates.
        history: all judged proposals, oldest first.
        max_skills: most skills that a bank may hold.
        step: the current training step.
        seed: for creators that sample; same evidence, same proposal.
        effects: what was measured of the bank's skills; those without are missing.
    """

    bank: SkillBank
    records: tuple[EpisodeRecord, ...]
    tallies: tuple[Tally, ...] = ()
    history: tuple[PastTrial, ...] = ()
    max_skills: int = 8
    step: int = 0
    seed: int = 0
    effects: tuple[SkillEffect, ...] = ()

    def rejected(self, within: int) -> list[PastTrial]:
        """Return the trials that were rejected in the last `within` steps."""
        return [
            trial
            for trial in self.history
            if trial.verdict == "rejected" and trial.step > self.step - within
        ]


class Pending(Enum):
    """The answer of a creator that has not finished."""

    PENDING = "pending"


PENDING = Pending.PENDING


def check_metrics(name: str, metrics: Any) -> None:
    """Refuse metrics that are no numbers by name.

    Args:
        name: theirs, for messages.
        metrics: of a module that may be somebody's own.

    Raises:
        TypeError: they are something else.
    """
    if not isinstance(metrics, Mapping):
        raise TypeError(f"{name}={metrics!r:.80}: needs a dict of numbers")
    for key, value in metrics.items():
        if not isinstance(key, str):
            raise TypeError(f"{name}: the key {key!r:.80} is no str")
        # Scalars of numpy and jax count as numbers, arrays of one number do not.
        if not isinstance(value, Real) and getattr(value, "ndim", None) != 0:
            raise TypeError(f"{name}[{key!r}]={value!r:.80}: needs a number")


def check_proposal(proposal: Any) -> None:
    """Refuse what a creator must not return.

    Raises:
        TypeError: it is no proposal, or has a part of another type.
    """
    if proposal is None or isinstance(proposal, Pending):
        return
    if not isinstance(proposal, Proposal):
        raise TypeError(
            f"propose returned {proposal!r:.80}: needs a Proposal, PENDING or None"
        )
    kinds: dict[str, Any] = {"operations": Operation, "reasons": str, "evidence": str}
    for name, kind in kinds.items():
        part = getattr(proposal, name)
        if not isinstance(part, list | tuple) or not all(
            isinstance(item, kind) for item in part
        ):
            raise TypeError(f"a proposal's {name}={part!r:.80}: see Proposal")
    if not isinstance(proposal.bank, str):
        raise TypeError(f"a proposal's bank={proposal.bank!r:.80}: needs its hash")


class Creator(Protocol):
    """A source of proposals."""

    def propose(self, evidence: Evidence) -> Proposal | Pending | None:
        """Return a proposal for `evidence.bank`, None if there is nothing to try.

        `PENDING` asks to be asked again at the next step.
        """
        ...

    def take_metrics(self) -> dict[str, float]:
        """Return, once, what was counted since the last call, by metric."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON types for the checkpoint."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...
