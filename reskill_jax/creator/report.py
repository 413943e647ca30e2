"""A proposal with its diagnosis, as Markdown for people."""

from collections.abc import Iterable, Mapping

from reskill_jax.creator import digest
from reskill_jax.creator.llm import Cycle
from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.untrusted import clean


def markdown(
    evidence: Evidence,
    proposal: Proposal | None,
    cycle: Cycle,
    spent: Mapping[str, float],
) -> str:
    """Write the report.

    Args:
        evidence: what was looked at.
        proposal: what came of it; None if nothing did.
        cycle: what was found on the way.
        spent: metrics of the creator.
    """
    sections: dict[str, Iterable[str]] = {
        "Episodes": digest.outcomes(evidence).splitlines(),
        "Diagnosis": [cycle.diagnosis.summary] if cycle.diagnosis else [],
        "Failure modes": [
            f"{cluster.label}: {cluster.insight}"
            for cluster in (cycle.diagnosis.clusters if cycle.diagnosis else [])
        ],
        "Assertions": cycle.assertions.splitlines(),
        "Insights": cycle.insights,
        "Plan": [f"{p.op} {p.target}: {p.intent} ({p.evidence})" for p in cycle.plan],
        "Refused on the way": [
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
        f"{digest.operation(operation)} Reason: {reason}"
        for operation, reason in zip(proposal.operations, proposal.reasons, strict=True)
    ]


def _plain(line: str) -> str:
    """Keep what others wrote from becoming a link or an image."""
    return clean(line, 1500).replace("](", "] (")
