"""Reflections on failed attempts, found again by task or by kind of task."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.memories.texts import content_hash, section
from reskill_jax.rollout.context import Guide, StaticGuide, context_kind

TITLE = "What was learnt from earlier attempts:"


@dataclass(frozen=True)
class Reflection:
    """What a failed attempt at a task taught."""

    task: str
    kind: str
    text: str


@context_kind("reflections")
@dataclass(frozen=True)
class Reflections:
    """Reflections, oldest first.

    Attributes:
        items: the reflections.
        shown: newest ones that are shown.
        match: task: those on the very task; kind: those on tasks of its kind.
    """

    kind: ClassVar[str]
    items: tuple[Reflection, ...] = ()
    shown: int = 3
    match: Literal["task", "kind"] = "task"

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(self.to_json())

    def about(self, task: Task) -> list[str]:
        """Return what is shown for a task, oldest first."""
        found = [
            item.text
            for item in self.items
            if (
                item.task == task.id if self.match == "task" else item.kind == task.kind
            )
        ]
        return found[-self.shown :] if self.shown else []

    def plus(self, task: Task, text: str) -> "Reflections":
        """Add one; what was said of the task before in the same words is not added."""
        said = {item.text for item in self.items if item.task == task.id}
        if not text or text in said:
            return self
        new = Reflection(task.id, task.kind, text)
        return replace(self, items=(*self.items, new))

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with the newest reflections."""
        return StaticGuide(section(TITLE, self.about(task)))

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.items), self.shown, self.match]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "Reflections":
        """Make it again, with the same hash."""
        items, shown, match = document
        return cls(decode(tuple[Reflection, ...], items), shown, match)
