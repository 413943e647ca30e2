"""Assertions: checks with a scope, and how often episodes pass them.

An `Assertion` names a check and says which episodes it is about. `profile` grades many
episodes without a language model: a low pass rate among failures beside a high one
among successes is a failure mode. What is not applicable enters no rate.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reskill_jax.skills.checks import Check, name_of, parameters, require_pattern
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import matches


@dataclass(frozen=True)
class Assertion:
    """A check and the episodes that it is about.

    Attributes:
        check: the question.
        id: kebab-case, stable over a run; made from the content when empty.
        goal: pattern of the goals that it applies to, all when empty.
        given: applies only to episodes that pass this check ("something was taken").
    """

    check: Check
    id: str = ""
    goal: str = ""
    given: Check | None = None

    def __post_init__(self) -> None:
        """Check the goal pattern and the id; make an id where there is none."""
        if self.goal:
            require_pattern("assertion.goal", self.goal)
        if not self.id:
            given = None if self.given is None else _content(self.given)
            content = {**_content(self.check), "goal": self.goal, "given": given}
            digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
            name = name_of(self.check).replace("_", "-")
            object.__setattr__(self, "id", f"{name}-{digest.hexdigest()[:8]}")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.id):
            raise ValueError(f"assertion id {self.id!r} must be kebab-case")

    def grade(self, record: EpisodeRecord) -> bool | None:
        """Tell whether the episode passes; None where the assertion does not apply."""
        if self.goal and not matches(self.goal, record.goal):
            return None
        if self.given is not None and not self.given.grade(record):
            return None
        return self.check.grade(record)


@dataclass(frozen=True)
class AssertionSet:
    """Assertions in order, without duplicates, at most `cap` of them.

    Raises:
        ValueError: too many, or two with the same id or the same content.
    """

    assertions: tuple[Assertion, ...] = ()
    cap: int = 15

    def __post_init__(self) -> None:
        """Check for duplicates and for more than `cap`."""
        if len(self.assertions) > self.cap:
            raise ValueError(
                f"{len(self.assertions)} assertions, at most {self.cap} are allowed:"
                " delete those that always pass"
            )
        ids: set[str] = set()
        contents: dict[tuple[Check, str, Check | None], str] = {}
        for assertion in self.assertions:
            if assertion.id in ids:
                raise ValueError(f"assertion id {assertion.id!r} occurs twice")
            ids.add(assertion.id)
            content = (assertion.check, assertion.goal, assertion.given)
            if content in contents:
                raise ValueError(
                    f"assertion {assertion.id!r} asks the same as {contents[content]!r}"
                )
            contents[content] = assertion.id


@dataclass(frozen=True)
class Rate:
    """How many of the applicable episodes passed."""

    passed: int = 0
    applicable: int = 0

    @property
    def rate(self) -> float | None:
        """Share that passed; None where no episode was applicable."""
        return self.passed / self.applicable if self.applicable else None

    @property
    def failed(self) -> int:
        """How many of the applicable episodes did not pass."""
        return self.applicable - self.passed

    def plus(self, passed: bool) -> "Rate":
        """Return the rate with one more applicable episode."""
        return Rate(self.passed + passed, self.applicable + 1)


@dataclass(frozen=True)
class AssertionStats:
    """Pass rates of one assertion.

    Attributes:
        success: over episodes that reached their goal.
        failure: over episodes that did not.
        banks: over all episodes of each bank, by its hash.
    """

    success: Rate = Rate()
    failure: Rate = Rate()
    banks: Mapping[str, Rate] = field(default_factory=dict)


def profile(
    assertions: Iterable[Assertion], records: Sequence[EpisodeRecord]
) -> list[AssertionStats]:
    """Grade every record with every assertion; needs no language model."""
    return [_stats(assertion, records) for assertion in assertions]


def _content(check: Check) -> dict[str, Any]:
    return {"check": name_of(check), "params": parameters(check)}


def _stats(assertion: Assertion, records: Sequence[EpisodeRecord]) -> AssertionStats:
    outcomes = {True: Rate(), False: Rate()}
    banks: dict[str, Rate] = {}
    for record in records:
        passed = assertion.grade(record)
        if passed is not None:
            outcomes[record.success] = outcomes[record.success].plus(passed)
            banks[record.bank] = banks.get(record.bank, Rate()).plus(passed)
    return AssertionStats(outcomes[True], outcomes[False], banks)
