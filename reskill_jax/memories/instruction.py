"""An instruction that opens every episode."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.memories.texts import content_hash
from reskill_jax.rollout.context import Guide, StaticGuide, context_kind


@context_kind("instruction")
@dataclass(frozen=True)
class Instruction:
    """One instruction; the empty one leaves the environment's own words alone."""

    kind: ClassVar[str]
    text: str = ""

    @property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(["instruction", self.text])

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with it."""
        return StaticGuide(self.text)

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return self.text

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "Instruction":
        """Make it again, with the same hash."""
        return cls(document)
