"""The course of a trial for the log, from its start to its verdict."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from reskill_jax.creator.proposal import Proposal
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.operations import describe
from reskill_jax.trials.trial_config import Decision

Figures = dict[str, float | None]


@dataclass
class Course:
    """What a trial has found so far.

    Attributes:
        start: step after which it began.
        path: its steps, each with the figures of every candidate.
    """

    start: int = 0
    path: list[tuple[int, list[Figures]]] = field(default_factory=list)

    def add(self, step: int, contrasts: Sequence[Contrast]) -> None:
        """Add what is known after a step."""
        self.path.append((step, [figures(contrast) for contrast in contrasts]))

    def describe(self, arm: int, decision: Decision | None) -> dict[str, Any]:
        """Describe the trial of a candidate; without a decision it was untested."""
        path = [{"step": step, **found[arm - 1]} for step, found in self.path]
        return {
            "start": self.start,
            "episodes": decision and [decision.episodes[0], decision.episodes[arm]],
            "rates": decision and [decision.rates[0], decision.rates[arm]],
            "stop_reason": decision.reason if decision else "untested",
            "path": path,
        }


def figures(contrast: Contrast) -> Figures:
    """Return what a trial has found out at a step."""
    return {
        "effect": contrast.effect,
        "standard_error": contrast.standard_error,
        "probability": contrast.probability,
    }


def summary(proposal: Proposal) -> str:
    """Name the operations of a bundle."""
    return ", ".join(map(describe, proposal.operations))
