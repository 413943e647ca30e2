"""What a proposal came from, and all of it as Markdown for people."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reskill_jax.creator import render
from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.verify import Problem
from reskill_jax.llm.sanitize import clean

if TYPE_CHECKING:  # pydantic comes with an extra, and no model needs no extra
    from reskill_jax.creator.schemas import Diagnosis, Recommendation


@dataclass
class Cycle:
    """What one proposal came from, for reports.

    Attributes:
        insights: one line per analysed group.
        diagnosis: of the batch; None where there was no answer.
        assertions: their pass rates, one line each, as edited.
        advice: what was to be changed.
        rejections: problems of each rejected bundle, in order.
        error: why the cycle ended early; empty if it did not.
    """

    insights: list[str] = field(default_factory=list)
    diagnosis: "Diagnosis | None" = None
    assertions: str = ""
    advice: "list[Recommendation]" = field(default_factory=list)
    rejections: list[tuple[Problem, ...]] = field(default_factory=list)
    error: str = ""


def markdown(
    evidence: Evidence,
    proposal: Proposal | None,
    cycle: Cycle,
    spent: Mapping[str, float],
) -> str:
    """Write the report.

    Args:
        evidence: what was looked at.
        proposal: the result; None if there is none.
        cycle: the results of the stages.
        spent: metrics of the creator.
    """
    sections: dict[str, Iterable[str]] = {
        "Episodes": render.outcomes(evidence).splitlines(),
        "Diagnosis": [cycle.diagnosis.summary] if cycle.diagnosis else [],
        "Failure modes": [
            f"{cluster.label}: {cluster.insight}"
            for cluster in (cycle.diagnosis.clusters if cycle.diagnosis else [])
        ],
        "Assertions": cycle.assertions.splitlines(),
        "Insights": cycle.insights,
        "Advice": [
            f"{p.op} {p.target}: {p.intent} ({p.evidence})" for p in cycle.advice
        ],
        "Rejected attempts": [
            f"attempt {i}: {problem.reason}: {problem.detail}"
            for i, problems in enumerate(cycle.rejections, 1)
            for problem in problems
        ],
        "Proposal": _changes(proposal),
        "What went wrong": [cycle.error] if cycle.error else [],
        "Spent": [f"{key.removeprefix('creator/')}: {spent[key]:g}" for key in spent],
    }
    parts = ["# Proposal for the skill library"]
    for title, lines in sections.items():
        if shown := [f"- {_plain(line)}" for line in lines]:
            parts.append(f"## {title}\n\n" + "\n".join(shown))
    return "\n\n".join(parts) + "\n"


def _changes(proposal: Proposal | None) -> list[str]:
    if proposal is None:
        return ["nothing is proposed"]
    return [
        f"{render.operation(operation)} Reason: {reason}"
        for operation, reason in zip(proposal.operations, proposal.reasons, strict=True)
    ]


def _plain(line: str) -> str:
    """Clean text, so that it becomes neither a link nor an image."""
    return clean(line, 1500).replace("](", "] (")
