"""The answers of a language model that writes for a method, as pydantic models.

Free text is cleaned and cut as it is read, lists are cut: no answer is rejected for its
length.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict

from reskill_jax.llm.fields import Cut
from reskill_jax.memories.rules import RuleEdit
from reskill_jax.memories.skill_entries import Entry, EntryEdit
from reskill_jax.memories.writer import INSTRUCTION, LESSON, STEPS

EDITS = 4  # per answer (ExpeL)

_Line = Annotated[str, Cut(LESSON)]
_Long = Annotated[str, Cut(INSTRUCTION)]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Lesson(_Answer):
    """What a failed episode teaches."""

    lesson: _Line


class Script(_Answer):
    """What a successful episode did."""

    steps: Annotated[list[_Line], Cut(STEPS)]


class Principle(_Answer):
    """What an episode teaches in general."""

    principle: _Line


class Same(_Answer):
    """Whether two principles mean the same."""

    same: bool


class Edit(_Answer):
    """One change of a list of rules."""

    op: Literal["remove", "agree", "edit", "add"]
    target: int = -1
    text: _Line = ""

    def edit(self) -> RuleEdit:
        """Return it as plain data."""
        return RuleEdit(self.op, self.target, self.text)


class Edits(_Answer):
    """How a list of rules should change."""

    operations: Annotated[list[Edit], Cut(EDITS)]


class SkillEdit(_Answer):
    """One change of SkillRL's library."""

    op: Literal["add", "refine"]
    target: str = ""
    category: _Line = ""
    title: _Line
    principle: _Line
    when: _Line = ""

    def edit(self) -> EntryEdit:
        """Return it as plain data."""
        entry = Entry(self.category, self.title, self.principle, self.when)
        return EntryEdit(self.op, entry, self.target)


class Skills(_Answer):
    """What episodes teach that a library does not hold."""

    operations: Annotated[list[SkillEdit], Cut(16)]


class Instructions(_Answer):
    """New instructions."""

    instructions: Annotated[list[_Long], Cut(8)]
