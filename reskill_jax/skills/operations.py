"""Operations on a skill bank: add, modify, delete; a bundle applies whole or not.

A creator proposes a bundle of operations (paper, section 3.4). `apply` makes the
candidate bank, or raises `OperationError` with a typed reason for the author.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from typing import Any

import msgspec
import re2

from reskill_jax.skills.skill import Skill, SkillBank, Trigger

# The public Agent Skills specification: kebab-case names and short plain descriptions.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_MAX_NAME = 64
_MAX_DESCRIPTION = 1024
_CHANGEABLE = ("description", "when_to_use", "action", "trigger", "example")


class Rejection(StrEnum):
    """Why a proposal is refused; closed, so that metrics can count on it."""

    TRIGGER_RATE = "trigger_rate"
    INVALID_PATTERN = "invalid_pattern"
    INVALID_FIELD = "invalid_field"
    OVER_BUDGET = "over_budget"
    DUPLICATE = "duplicate"
    UNKNOWN_TARGET = "unknown_target"
    OVER_CAPACITY = "over_capacity"
    EMPTY_CHANGE = "empty_change"
    UNSAFE_TEXT = "unsafe_text"


class OperationError(ValueError):
    """A refused proposal: `rejection` for programs, `detail` for the author."""

    def __init__(self, rejection: Rejection, detail: str):
        super().__init__(f"{rejection}: {detail}")
        self.rejection = rejection
        self.detail = detail


# Operations are structs, not dataclasses: as JSON they carry their tag, as `type`.


class Add(msgspec.Struct, frozen=True, tag="add"):
    """Append a skill."""

    skill: Skill

    @property
    def name(self) -> str:
        """Name of the new skill."""
        return self.skill.name


class Modify(msgspec.Struct, frozen=True, tag="modify"):
    """Change the given fields of a skill; the others stay and its version counts up.

    Attributes:
        name: the skill to change.
        changes: new values of any of description, when_to_use, action, example
            and trigger.
    """

    name: str
    changes: Mapping[str, str | Trigger]


class Delete(msgspec.Struct, frozen=True, tag="delete"):
    """Remove a skill."""

    name: str


Operation = Add | Modify | Delete


def describe(operation: Operation) -> str:
    """Name an operation in two words, e.g. ``add look-around``."""
    return f"{type(operation).__name__.lower()} {operation.name}"


def apply(
    bank: SkillBank, operations: Sequence[Operation], *, max_skills: int
) -> SkillBank:
    """Make the bank that a bundle asks for; `bank` itself never changes.

    Deletes make room for adds, whatever their order in the bundle. Survivors keep their
    order and added skills follow them.

    Args:
        bank: the bank to start from.
        operations: the bundle; a name may occur in one operation only.
        max_skills: most skills that the new bank may hold, unless `bank` has more;
            then it must not grow.

    Returns:
        A bank whose content differs from `bank`.

    Raises:
        OperationError: an operation is refused; then none is applied.
    """
    if not operations:
        raise OperationError(Rejection.EMPTY_CHANGE, "the bundle has no operation")
    modified, deleted, added = _sort_out(bank, operations)
    survivors = [
        _modify(skill, modified[skill.name]) if skill.name in modified else skill
        for skill in bank.skills
        if skill.name not in deleted
    ]
    for skill in added:
        validate(skill)
    skills = (*survivors, *added)
    if len(skills) > max(max_skills, len(bank.skills)):
        raise OperationError(
            Rejection.OVER_CAPACITY,
            f"the bank would hold {len(skills)} skills, at most {max_skills} are"
            " allowed: delete some in the same bundle",
        )
    return SkillBank(skills)


def validate(skill: Skill) -> None:
    """Check one skill by itself.

    Raises:
        OperationError: invalid_field, over_budget, unsafe_text or invalid_pattern.
    """
    if len(skill.name) > _MAX_NAME or not _NAME.fullmatch(skill.name):
        raise OperationError(
            Rejection.INVALID_FIELD,
            f"name {skill.name!r} must be kebab-case (a-z, 0-9, single hyphens"
            f" between), at most {_MAX_NAME} characters",
        )
    for field in ("description", "when_to_use", "action", "example"):
        _validate_text(skill, field)
    if len(skill.description) > _MAX_DESCRIPTION:
        raise OperationError(
            Rejection.OVER_BUDGET,
            f"{skill.name}.description has {len(skill.description)} characters,"
            f" at most {_MAX_DESCRIPTION} are allowed",
        )
    if "<" in skill.description or ">" in skill.description:
        raise OperationError(
            Rejection.UNSAFE_TEXT,
            f"{skill.name}.description must not contain < or >: {skill.description!r}",
        )
    if skill.version < 1:
        raise OperationError(
            Rejection.INVALID_FIELD,
            f"{skill.name}.version is {skill.version}, it counts from 1",
        )
    _validate_trigger(skill)


def _sort_out(
    bank: SkillBank, operations: Sequence[Operation]
) -> tuple[dict[str, Mapping[str, Any]], set[str], list[Skill]]:
    """Split a bundle into changes by name, deleted names and added skills."""
    known = set(bank.names())
    modified: dict[str, Mapping[str, Any]] = {}
    deleted: set[str] = set()
    added: list[Skill] = []
    seen: set[str] = set()
    for operation in operations:
        name = operation.name
        if name in seen:
            raise OperationError(
                Rejection.DUPLICATE, f"{name!r} occurs in two operations of the bundle"
            )
        seen.add(name)
        if isinstance(operation, Add):
            if name in known:
                raise OperationError(
                    Rejection.DUPLICATE, f"the bank already has {name!r}: modify it"
                )
            added.append(operation.skill)
        elif name not in known:
            raise OperationError(
                Rejection.UNKNOWN_TARGET,
                f"the bank has no {name!r}; it has {sorted(known)}",
            )
        elif isinstance(operation, Delete):
            deleted.add(name)
        else:
            modified[name] = operation.changes
    return modified, deleted, added


def _modify(skill: Skill, changes: Mapping[str, Any]) -> Skill:
    unknown = sorted(set(changes) - set(_CHANGEABLE))
    if unknown:
        raise OperationError(
            Rejection.INVALID_FIELD,
            f"{skill.name}: cannot change {unknown}, only {list(_CHANGEABLE)}",
        )
    changed = replace(skill, **changes)
    if changed == skill:
        raise OperationError(
            Rejection.EMPTY_CHANGE, f"the change of {skill.name!r} changes nothing"
        )
    changed = replace(changed, version=skill.version + 1)
    validate(changed)
    return changed


def _validate_text(skill: Skill, field: str) -> None:
    text = getattr(skill, field)
    if field != "example" and not text.strip():
        raise OperationError(Rejection.INVALID_FIELD, f"{skill.name}.{field} is empty")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise OperationError(
            Rejection.UNSAFE_TEXT,
            f"{skill.name}.{field} is not valid Unicode: {text!r}",
        )


def _validate_trigger(skill: Skill) -> None:
    kind, pattern = skill.trigger.kind, skill.trigger.pattern
    if skill.trigger.goal:
        _validate_pattern(skill, "goal", skill.trigger.goal)
    if kind not in ("general", "beginning", "action_pattern"):
        raise OperationError(
            Rejection.INVALID_FIELD,
            f"{skill.name}.trigger.kind is {kind!r}: use general, beginning or"
            " action_pattern",
        )
    if kind != "action_pattern":
        if pattern:
            raise OperationError(
                Rejection.INVALID_PATTERN,
                f"{skill.name}: a {kind} trigger has no pattern, got {pattern!r}:"
                " make the kind action_pattern or drop the pattern",
            )
        return
    if not pattern.strip():
        raise OperationError(
            Rejection.INVALID_PATTERN, f"{skill.name}: the trigger's pattern is empty"
        )
    _validate_pattern(skill, "pattern", pattern)


def _validate_pattern(skill: Skill, field: str, pattern: str) -> None:
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile("(?i)" + pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise OperationError(
            Rejection.INVALID_PATTERN,
            f"{skill.name}: {field} {pattern!r} is not valid RE2: {error}",
        ) from error
