"""SkillRL's skills as plain data: general ones, those of a type of task, and mistakes.

They are found by a hash of their content, never by a running number: the released code
numbers new skills from a bank that never grows, so that only its first update survives.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reskill_jax.llm.sanitize import clean
from reskill_jax.memories.texts import item_id

GENERAL = "general"
MISTAKES = "mistakes"
MOST_TOKENS = 100  # of a distilled skill (paper: 10 to 20 times less than an episode)
MOST_CATEGORY = 60  # characters of a category, which is the name of a directory, too
_MOST_CHARACTERS = 2000  # of a field that is read from a file
_MOST_OF_TITLE = 1000  # a SKILL.md has it as its description
_CHARACTERS_PER_TOKEN = 4.0  # of English text, as vocabularies of chat models cut it
_PIECE = re.compile(r"\w+|[^\w\s]")
# What the released files call the skills of types of tasks.
_SPELLINGS = ("task_specific_skills", "query_type_skills")


@dataclass(frozen=True)
class Entry:
    """One skill, or one mistake.

    Attributes:
        category: `GENERAL`, `MISTAKES`, or a type of task.
        title: a few words; of a mistake, what is done wrong.
        principle: what to do; of a mistake, what to do instead.
        when: when it applies; of a mistake, why it happens. May be empty, and is where
            it only repeats the title, as that of a SKILL.md without a condition does.
        born: step that wrote it; 0: it was given.
    """

    category: str
    title: str
    principle: str
    when: str = ""
    born: int = 0

    def __post_init__(self) -> None:
        """Leave out a condition that is none."""
        if self.when == self.title:
            object.__setattr__(self, "when", "")

    @property
    def id(self) -> str:
        """Content hash."""
        return item_id(self.category, self.title, self.principle, self.when)

    @property
    def text(self) -> str:
        """What retrieval compares."""
        return f"{self.title}. {self.principle} {self.when}".strip()

    @property
    def line(self) -> str:
        """What a prompt shows: of general skills without the condition (released)."""
        if self.category == MISTAKES:
            return f"Do not: {self.title} Instead: {self.principle}"
        when = f" ({self.when})" if self.when and self.category != GENERAL else ""
        return f"{self.title}: {self.principle}{when}"


@dataclass(frozen=True)
class EntryEdit:
    """What a writer proposes.

    Attributes:
        op: add an entry, or refine the one that `target` names.
        entry: the new one; a refined one keeps the category that it had.
        target: id of the entry to refine; "" to add.
    """

    op: Literal["add", "refine"]
    entry: Entry
    target: str = ""


def tokens(text: str) -> int:
    """Estimate the tokens of a text, from above: this module knows no vocabulary."""
    pieces = len(_PIECE.findall(text))
    return max(pieces, math.ceil(len(text) / _CHARACTERS_PER_TOKEN))


def about(category: str, kind: str) -> bool:
    """Tell whether a category is that of a task's type.

    Files of other systems use shorter names: all words of the category have to be in
    the name of the type, as those of ``heat`` are in ``pick_heat_then_place``.
    """
    wanted = set(re.findall(r"[a-z0-9]+", category.casefold()))
    found = set(re.findall(r"[a-z0-9]+", kind.casefold()))
    return bool(wanted) and wanted <= found


def to_document(entries: tuple[Entry, ...]) -> dict[str, Any]:
    """Return the entries as SkillRL's JSON document."""
    kinds: dict[str, list[dict[str, str]]] = {}
    general, mistakes = [], []
    for entry in entries:
        if entry.category == MISTAKES:
            mistakes.append(
                {
                    "mistake_id": entry.id,
                    "description": entry.title,
                    "why_it_happens": entry.when,
                    "how_to_avoid": entry.principle,
                }
            )
            continue
        skill = {
            "skill_id": entry.id,
            "title": entry.title,
            "principle": entry.principle,
            "when_to_apply": entry.when,
        }
        if entry.category == GENERAL:
            general.append(skill)
        else:
            kinds.setdefault(entry.category, []).append(skill)
    return {
        "general_skills": general,
        "task_specific_skills": kinds,
        "common_mistakes": mistakes,
        "metadata": {"format": "SkillRL", "skills": len(entries)},
    }


def from_document(document: Any) -> tuple[Entry, ...]:
    """Read SkillRL's JSON document, in both spellings of its released files.

    Ids in it are not used. Texts are cleaned; equal entries count once.

    Raises:
        ValueError: it is not such a document; names the place.
    """
    if not isinstance(document, Mapping):
        raise ValueError("the document is no JSON object of SkillRL's form")
    parts = ("general_skills", *_SPELLINGS, "common_mistakes")
    if not any(part in document for part in parts):
        raise ValueError(f"the document has none of {', '.join(parts)}")
    found = [
        Entry(GENERAL, *_fields(skill, f"general_skills[{n}]", *_SKILL))
        for n, skill in enumerate(_list(document, "general_skills"))
    ]
    for spelling in _SPELLINGS:
        kinds = document.get(spelling, {})
        if not isinstance(kinds, Mapping):
            raise ValueError(f"{spelling} is no object from type to skills")
        for kind in kinds:
            category = _category(kind, spelling)
            found += [
                Entry(category, *_fields(skill, f"{spelling}.{kind}[{n}]", *_SKILL))
                for n, skill in enumerate(_list(kinds, kind))
            ]
    found += [
        Entry(MISTAKES, *_fields(mistake, f"common_mistakes[{n}]", *_MISTAKE))
        for n, mistake in enumerate(_list(document, "common_mistakes"))
    ]
    return tuple({entry.id: entry for entry in found}.values())


_SKILL = ("title", "principle", "when_to_apply")
_MISTAKE = ("description", "how_to_avoid", "why_it_happens")


def _list(holder: Mapping[str, Any], key: str) -> list[Any]:
    value = holder.get(key, [])
    if not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return value


def _category(kind: str, place: str) -> str:
    category = clean(kind, 2 * MOST_CATEGORY)
    if not 0 < len(category) <= MOST_CATEGORY:
        raise ValueError(
            f"{place} has the type {category!r}: needs a name of 1 to {MOST_CATEGORY} "
            "characters"
        )
    return category


def _fields(
    skill: Any, place: str, title: str, principle: str, when: str
) -> tuple[str, str, str]:
    if not isinstance(skill, Mapping):
        raise ValueError(f"{place} is no JSON object")

    def text(key: str, most: int, default: str | None = None) -> str:
        value = skill.get(key, default)
        cleaned = clean(value, most) if isinstance(value, str) else None
        if cleaned is None or not (cleaned or default is not None):
            raise ValueError(f"{place}.{key} is {value!r:.40}: needs a text")
        return cleaned

    named, condition = text(title, _MOST_OF_TITLE), text(when, _MOST_CHARACTERS, "")
    return named, text(principle, _MOST_CHARACTERS), condition
