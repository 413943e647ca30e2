"""From graded episodes to failure modes: what sets failures apart from successes.

`diagnose` blames every failed episode on the first discriminating assertion that it
fails, so their order matters: the cause before its consequences.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from reskill_jax.skills.assertions import Assertion, Rate, profile
from reskill_jax.skills.episode_record import EpisodeRecord


@dataclass(frozen=True)
class Finding:
    """One failure mode.

    Attributes:
        assertion: what failed episodes fail.
        support: share of the failed episodes that fail it.
        lift: rate of failing it among failures over that among successes, each smoothed
            by one pass and one fail more, so that few episodes prove little.
        blamed: how many failed episodes fail it before any other finding.
    """

    assertion: Assertion
    support: float
    lift: float
    blamed: int

    def __str__(self) -> str:
        """Return the figures in one line, for reports and prompts."""
        return (
            f"{self.assertion.id}: failed by {self.support:.0%} of failed episodes,"
            f" {self.lift:.1f} times as often as by successful ones; first thing to go"
            f" wrong in {self.blamed}"
        )


def diagnose(
    assertions: Iterable[Assertion],
    records: Sequence[EpisodeRecord],
    *,
    min_support: float,
    min_lift: float,
) -> list[Finding]:
    """Find the failure modes, the most prevalent first.

    Args:
        assertions: in the order of blame.
        records: episodes of both outcomes.
        min_support: least share of the failed episodes that fail an assertion.
        min_lift: least ratio of failing rates between failures and successes.

    Returns:
        Findings with at least one blamed episode, by falling `blamed`, then `lift`.
    """
    assertions = list(assertions)
    failures = [record for record in records if not record.success]
    discriminating: list[Finding] = []
    for assertion, stats in zip(assertions, profile(assertions, records), strict=True):
        support = stats.failure.failed / len(failures) if failures else 0.0
        lift = _smoothed(stats.failure) / _smoothed(stats.success)
        if stats.failure.failed and support >= min_support and lift >= min_lift:
            discriminating.append(Finding(assertion, support, lift, 0))
    blamed = Counter(_blame(discriminating, record) for record in failures)
    found = [
        Finding(f.assertion, f.support, f.lift, blamed[f.assertion.id])
        for f in discriminating
        if blamed[f.assertion.id]
    ]
    return sorted(found, key=lambda finding: (-finding.blamed, -finding.lift))


def _blame(findings: Sequence[Finding], record: EpisodeRecord) -> str:
    """Return the id of the first finding that the record fails, or nothing."""
    failed = (f.assertion for f in findings if f.assertion.grade(record) is False)
    return next((assertion.id for assertion in failed), "")


def _smoothed(rate: Rate) -> float:
    return (rate.failed + 1) / (rate.applicable + 2)
