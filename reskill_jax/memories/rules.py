"""A list of rules that edits change: ExpeL's insights.

Edits name a rule by its number, as shown, never by its words; one of an unknown number
changes nothing and is counted. Of one answer, removals are applied first, then
agreements, changes and additions (Zhao et al., 2308.10144).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

NEW = 2  # votes that a rule starts with
CROWD = 5  # with so many rules above the limit, a removal costs three votes

Op = Literal["remove", "agree", "edit", "add"]
_ORDER: tuple[Op, ...] = ("remove", "agree", "edit", "add")


@dataclass(frozen=True)
class VotedRule:
    """A rule and its votes."""

    text: str
    votes: int = NEW


@dataclass(frozen=True)
class RuleEdit:
    """One edit.

    Attributes:
        op: what to do.
        target: number of the rule in the list that was shown, from 0; -1 to add.
        text: new words, to edit and add.
    """

    op: Op
    target: int = -1
    text: str = ""


def apply_edits(
    rules: Sequence[VotedRule], edits: Sequence[RuleEdit], limit: int
) -> tuple[tuple[VotedRule, ...], int]:
    """Apply the edits of one answer.

    Args:
        rules: as they were shown.
        edits: whatever was answered.
        limit: rules that there should be; a soft one.

    Returns:
        The rules that have votes, most votes first and else in their order, and how
        many edits could not be used.
    """
    texts = [rule.text for rule in rules]
    votes = [rule.votes for rule in rules]
    known = {_key(text) for text in texts}
    unused = 0
    removal = 3 if len(rules) >= limit + CROWD else 1
    for edit in sorted(edits, key=lambda edit: _ORDER.index(edit.op)):
        text = " ".join(edit.text.split())
        if edit.op == "add":
            if not text or _key(text) in known:
                unused += 1
                continue
            texts.append(text)
            votes.append(NEW)
            known.add(_key(text))
        elif not 0 <= edit.target < len(rules) or (
            edit.op == "edit" and not _is_new(text, texts[edit.target], known)
        ):
            unused += 1
        elif edit.op == "remove":
            votes[edit.target] -= removal
        else:
            votes[edit.target] += 1
            if edit.op == "edit":
                texts[edit.target] = text
                known.add(_key(text))
    kept = [VotedRule(t, v) for t, v in zip(texts, votes, strict=True) if v > 0]
    return tuple(sorted(kept, key=lambda rule: -rule.votes)), unused


def _is_new(text: str, old: str, known: set[str]) -> bool:
    """Tell whether a rule's new words are any, and not those of another rule."""
    return bool(text) and (_key(text) == _key(old) or _key(text) not in known)


def _key(text: str) -> str:
    return " ".join(text.casefold().split())
