"""The skill library for the page: who changed what, when, why, and what came of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from difflib import SequenceMatcher
from typing import Any

from reskill_jax.creator.proposal import Proposal
from reskill_jax.report.page.figures import short
from reskill_jax.report.page.reading import Candidate, TrialLine
from reskill_jax.skills.operations import Add, Modify, Operation
from reskill_jax.skills.skill import Skill, Trigger

ON_TRIAL = "on trial"  # the verdict before there is one
_FIELDS = ("description", "when_to_use", "action", "example", "trigger")


def library_document(
    trials: Sequence[TrialLine],
    current: Sequence[tuple[str, str]],
    first: Sequence[Skill] | None = None,
    on_trial: Sequence[Candidate] = (),
) -> dict[str, Any]:
    """Return changes of the library, and how it is now.

    Args:
        trials: decided ones, in order.
        current: names and SKILL.md texts of the accepted bank.
        first: the skills that the run began with; None: not known, in files of earlier
            versions.
        on_trial: candidates that are not decided yet.
    """
    known = {skill.name: skill for skill in first or ()}  # those that are accepted
    changes: list[dict[str, Any]] = []
    for number, trial in enumerate(trials):
        accepted = dict(known)
        for i, operation in enumerate(trial.proposal.operations):
            old = known.get(operation.name)
            new = _applied(old, operation)
            changes.append(
                _change(trial.proposal, i, old)
                | {
                    "trial": number,
                    "step": trial.step,
                    "start": trial.start,
                    "verdict": trial.verdict,
                    "meter": [
                        short(asdict(m))
                        for m in trial.meter
                        if m.name == operation.name
                    ],
                }
            )
            if new is not None:
                accepted[operation.name] = new
            else:
                accepted.pop(operation.name, None)
        if trial.accepted:
            known = accepted
    for candidate in on_trial:
        tried = {"trial": None, "step": candidate.start, "start": candidate.start}
        changes += [
            _change(candidate.proposal, i, known.get(operation.name))
            | tried
            | {"verdict": ON_TRIAL, "meter": []}
            for i, operation in enumerate(candidate.proposal.operations)
        ]
    names = None if first is None else [skill.name for skill in first]
    return {
        "changes": changes,
        "spans": _spans(changes, [name for name, _ in current], names),
        "banks": _banks(trials, on_trial),
        "current": [{"name": name, "text": text} for name, text in current],
    }


def _change(proposal: Proposal, place: int, old: Skill | None) -> dict[str, Any]:
    """Describe one operation of a bundle; `old` is None where it is not known."""
    operation = proposal.operations[place]
    return {
        "op": type(operation).__name__.lower(),
        "name": operation.name,
        "reason": _at(proposal.reasons, place),
        "evidence": _at(proposal.evidence, place),
        "diff": _difference(old, _applied(old, operation), operation),
        "unknown": old is None and not isinstance(operation, Add),
    }


def changed_triggers(
    trials: Sequence[TrialLine], first: Sequence[Skill] | None = None
) -> list[tuple[Trigger, ...] | None]:
    """Return per trial the triggers of the skills that it changes, old and new ones.

    None where a skill is of the first library and the run's files do not hold that.

    Args:
        trials: decided ones, in order.
        first: see `library_document`.
    """
    known = {skill.name: skill for skill in first or ()}
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
    changes: Sequence[Mapping[str, Any]],
    current: Sequence[str],
    first: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Return per skill when it was in the accepted bank, and what was tried with it.

    A skill of the first bank begins at step 0; where that is not known, it is one that
    no operation has added. One that is there now ends with the run (None).
    """
    named = [*(first or ()), *(c["name"] for c in changes), *current]
    names = list(dict.fromkeys(named))
    spans = []
    for name in names:
        own = [change for change in changes if change["name"] == name]
        lives: list[list[int | None]] = []
        added = bool(own) and own[0]["op"] == "add"
        if not added if first is None else name in first:
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


def _banks(
    trials: Sequence[TrialLine], on_trial: Sequence[Candidate]
) -> list[dict[str, Any]]:
    """Return the banks that were tried: each grew from another one."""
    running = [
        {
            "from": candidate.proposal.bank,
            "to": candidate.candidate,
            "step": candidate.start,
            "verdict": ON_TRIAL,
        }
        for candidate in on_trial
    ]
    decided = [
        {
            "from": trial.proposal.bank,
            "to": trial.candidate,
            "step": trial.step,
            "verdict": trial.verdict,
        }
        for trial in trials
    ]
    return decided + running


def _at(items: Sequence[str], place: int) -> str:
    return items[place] if place < len(items) else ""
