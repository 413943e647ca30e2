"""The answer of each stage, as pydantic models.

Free text that goes into later prompts is cleaned and cut as it is read, lists are cut:
no answer is rejected for its length. A skill's own words are kept as they are, so that
verification can say by how much they are over budget.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from reskill_jax.codec import decode
from reskill_jax.creator.verify import Limits
from reskill_jax.llm.fields import Cut, Told
from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import Check
from reskill_jax.skills.operations import Add, Delete, Modify, Operation
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

_Name = Annotated[str, Cut(80)]
_Line = Annotated[str, Cut(400)]
_Whole = Annotated[str, Field(max_length=4000)]
_Raw = Annotated[_Whole, Told(Limits.characters)]
_RawName = Annotated[_Whole, Told(80)]
_RawPattern = Annotated[_Whole, Told(Limits.pattern_characters)]
_Bundle = Field(min_length=1, max_length=8), Told(Limits.operations)
_Pattern = Annotated[str, Field(max_length=400)]  # every blank of it counts
_Kind = Literal["add", "modify", "delete"]


class _Answer(BaseModel):
    # Servers that enforce a schema want it closed; models add keys all the same.
    model_config = ConfigDict(extra="ignore")


class Analysis(_Answer):
    """One group of episodes of one task, compared."""

    insight: _Line
    failure_mode: _Name
    failure_point: _Line = ""
    success_pattern: _Line = ""
    skill_impact: _Line = ""
    patterns: Annotated[list[_Line], Cut(4)] = []
    confidence: Literal["high", "medium", "low"] = "medium"


class AssertionChange(_Answer):
    """One edit of the assertion set; the parameters are those of `skills.checks`."""

    op: _Kind
    id: _Name
    check: _Name | None = None
    goal: _Pattern | None = None
    pattern: _Pattern | None = None
    first: _Pattern | None = None
    second: _Pattern | None = None
    after_action: _Pattern | None = None
    n: int | None = None
    window: int | None = None
    min: int | None = None
    max: int | None = None

    def assertion(self) -> Assertion:
        """Build what an add or modify asks for.

        Raises:
            ValueError: the check or one of its parameters cannot be used.
        """
        given = self.model_dump(exclude={"op", "id", "check", "goal"})
        params = {k: v for k, v in given.items() if v is not None and v != ""}
        document = {"type": self.check, **params}
        check = decode(Check, document, name="check", fields="known")
        return Assertion(check, self.id, self.goal or "")


class Cluster(_Answer):
    """Insights that are about the same thing."""

    label: _Name
    insight: _Line
    groups: Annotated[list[int], Cut(60)] = []


class Diagnosis(_Answer):
    """What goes wrong in the batch, and what should be measured from now on."""

    summary: Annotated[str, Cut(1200)]
    clusters: Annotated[list[Cluster], Cut(8)] = []
    assertions: Annotated[list[AssertionChange], Cut(10)] = []


class Recommendation(_Answer):
    """One operation, before it is worded."""

    op: _Kind
    target: _Name
    intent: _Line
    evidence: _Line = ""
    clusters: Annotated[list[int], Cut(8)] = []
    trigger: _Line = ""


class Advice(_Answer):
    """What to change; nothing, where nothing is worth a trial."""

    operations: Annotated[list[Recommendation], Cut(3)]


class Draft(_Answer):
    """One operation in its final words; null keeps what a modified skill has."""

    op: _Kind
    name: _RawName
    description: _Raw | None = None
    when_to_use: _Raw | None = None
    action: _Raw | None = None
    example: _Raw | None = None
    trigger: Literal["general", "beginning", "action_pattern"] | None = None
    pattern: _RawPattern | None = None
    reason: _Line = ""

    def operation(self, bank: SkillBank) -> Operation:
        """Turn the draft into an operation on `bank`; whether it is good, verify says.

        A pattern without a kind makes the trigger one of that pattern, so that no
        pattern is ever without effect; a kind without a pattern keeps the old one.
        """
        if self.op == "delete":
            return Delete(self.name)
        texts = {
            field: value.strip()
            for field in ("description", "when_to_use", "action", "example")
            if (value := getattr(self, field)) is not None
        }
        old = next((s.trigger for s in bank.skills if s.name == self.name), Trigger())
        if self.op == "modify":
            trigger = self._trigger(old)
            changes = texts if trigger == old else {**texts, "trigger": trigger}
            return Modify(self.name, changes)
        empty = {"description": "", "when_to_use": "", "action": "", "example": ""}
        return Add(
            Skill(name=self.name, **(empty | texts), trigger=self._trigger(Trigger()))
        )

    def _trigger(self, old: Trigger) -> Trigger:
        kind = self.trigger or ("action_pattern" if self.pattern else old.kind)
        if kind != "action_pattern":
            return Trigger(kind, goal=self._goal(old))
        return Trigger(kind, self.pattern or old.pattern, self._goal(old))

    def _goal(self, old: Trigger) -> str:
        return old.goal


class Drafts(_Answer):
    """The bundle."""

    operations: Annotated[list[Draft], *_Bundle]


class GoalDraft(Draft):
    """A draft whose skill may be for some goals only; null keeps what there is."""

    goal: _RawPattern | None = None

    def _goal(self, old: Trigger) -> str:
        return old.goal if self.goal is None else self.goal.strip()


class GoalDrafts(_Answer):
    """The bundle, where skills may have conditions on the goal."""

    operations: Annotated[list[GoalDraft], *_Bundle]
