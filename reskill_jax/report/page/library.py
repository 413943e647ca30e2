"""The skill library for the page: who changed what, when, why, and what came of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from difflib import SequenceMatcher
from typing import Any

from reskill_jax.report.page.reading import TrialLine
from reskill_jax.skills.operations import Add, Modify, Operation
from reskill_jax.skills.skill import Skill, Trigger

_FIELDS = ("description", "when_to_use", "action", "example", "trigger")


def library_document(
    trials: Sequence[TrialLine], current: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Return changes of the library, and how it is now.

    Args:
        trials: decided ones, in order.
        current: names and SKILL.md texts of the accepted bank.
    """
    known: dict[str, Skill] = {}  # skills of the accepted bank, as far as known
    changes: list[dict[str, Any]] = []
    for number, trial in enumerate(trials):
        accepted = dict(known)
        for i, operation in enumerate(trial.proposal.operations):
            old = known.get(operation.name)
            new = _applied(old, operation)
            changes.append(
                {
                    "trial": number,
                    "step": trial.step,
                    "start": trial.start,
                    "op": type(operation).__name__.lower(),
                    "name": operation.name,
                    "verdict": trial.verdict,
                    "reason": _at(trial.proposal.reasons, i),
                    "evidence": _at(trial.proposal.evidence, i),
                    "diff": _difference(old, new, operation),
                    "unknown": old is None and not isinstance(operation, Add),
                    "meter": [
                        asdict(m) for m in trial.meter if m.name == operation.name
                    ],
                }
            )
            if new is not None:
                accepted[operation.name] = new
            else:
                accepted.pop(operation.name, None)
        if trial.accepted:
            known = accepted
    return {
        "changes": changes,
        "spans": _spans(changes, [name for name, _ in current]),
        "banks": _banks(trials),
        "current": [{"name": name, "text": text} for name, text in current],
    }


def changed_triggers(trials: Sequence[TrialLine]) -> list[tuple[Trigger, ...] | None]:
    """Return per trial the triggers of the skills that it changes, old and new ones.

    None where a skill is of the first library, whose text the run's files do not hold.
    """
    known: dict[str, Skill] = {}
    found: list[tuple[Trigger, ...] | None] = []
    for trial in trials:
        after = dict(known)
        triggers: list[Trigger] | None = []
        for operation in trial.proposal.operations:
            old = known.get(operation.name)
            new = _applied(old, operation)
            if old is None and not isinstance(operation, Add):
                triggers = None
            elif triggers is not None:
                triggers += [skill.trigger for skill in (old, new) if skill is not None]
            after.pop(operation.name, None)
            if new is not None:
                after[operation.name] = new
        found.append(None if triggers is None else tuple(triggers))
        if trial.accepted:
            known = after
    return found


def words(old: str, new: str) -> list[tuple[str, str]]:
    """Return a word diff: pairs of ``=``, ``-`` or ``+`` and the text."""
    a, b = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (old, new))
    parts: list[tuple[str, str]] = []
    for tag, i, j, k, m in SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        if tag == "equal":
            parts.append(("=", "".join(a[i:j])))
            continue
        parts += [("-", "".join(a[i:j]))] if j > i else []
        parts += [("+", "".join(b[k:m]))] if m > k else []
    return parts


def _applied(old: Skill | None, operation: Operation) -> Skill | None:
    """Return the skill after an operation; None: it is gone, or not known."""
    if isinstance(operation, Add):
        return operation.skill
    if isinstance(operation, Modify) and old is not None:
        changes: dict[str, Any] = {
            key: value for key, value in operation.changes.items() if key in _FIELDS
        }
        return replace(old, **changes, version=old.version + 1)
    return None


def _difference(
    old: Skill | None, new: Skill | None, operation: Operation
) -> list[dict[str, Any]]:
    """Return the word diff of every field that differs."""
    before, after = _texts(old), _texts(new)
    if isinstance(operation, Modify) and old is None:
        after = {key: _text(value) for key, value in operation.changes.items()}
    return [
        {"field": name, "parts": words(before.get(name, ""), after.get(name, ""))}
        for name in _FIELDS
        if before.get(name, "") != after.get(name, "")
    ]


def _texts(skill: Skill | None) -> dict[str, str]:
    if skill is None:
        return {}
    return {name: _text(getattr(skill, name)) for name in _FIELDS}


def _text(value: Any) -> str:
    if isinstance(value, Trigger):
        value = asdict(value)
    if isinstance(value, Mapping):
        return " ".join(filter(None, map(str, value.values())))
    return str(value)


def _spans(
    changes: Sequence[Mapping[str, Any]], current: Sequence[str]
) -> list[dict[str, Any]]:
    """Return per skill when it was in the accepted bank, and what was tried with it.

    A skill of the first bank, that no operation has added, begins at step 0; one that
    is there now ends with the run (None).
    """
    names = list(dict.fromkeys([*(c["name"] for c in changes), *current]))
    spans = []
    for name in names:
        own = [change for change in changes if change["name"] == name]
        lives: list[list[int | None]] = []
        if not own or own[0]["op"] != "add":
            lives.append([0, None])
        for change in own:
            if change["verdict"] != "accepted":
                continue
            if change["op"] == "add":
                lives.append([change["step"], None])
            elif change["op"] == "delete" and lives:
                lives[-1][1] = change["step"]
        events = [[c["step"], c["op"], c["verdict"], c["trial"]] for c in own]
        spans.append({"name": name, "lives": lives, "events": events})
    return spans


def _banks(trials: Sequence[TrialLine]) -> list[dict[str, Any]]:
    """Return the banks that were tried: each grew from another one."""
    return [
        {
            "from": trial.proposal.bank,
            "to": trial.candidate,
            "step": trial.step,
            "verdict": trial.verdict,
        }
        for trial in trials
    ]


def _at(items: Sequence[str], place: int) -> str:
    return items[place] if place < len(items) else ""
