"""What is kept of an episode as evidence: text, without tokens."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode in words.

    Attributes:
        task: id of the task.
        kind: task type.
        goal: the task's goal sentence.
        bank: content hash of the skill bank it ran on.
        step: training step that played it.
        success: whether the goal was reached.
        actions: projected actions, in order; never the model's reasoning.
        observations: what the environment said before each action and, when known,
            after the last one.
        active_skills: names of the skills shown at each turn.
        valid: whether each response was well formed and its action admissible.
    """

    task: str
    kind: str
    goal: str
    bank: str
    step: int
    success: bool
    actions: tuple[str, ...]
    observations: tuple[str, ...]
    active_skills: tuple[tuple[str, ...], ...] = ()
    valid: tuple[bool, ...] = ()

    def skills(self) -> frozenset[str]:
        """Return the names of the skills that fired at some turn."""
        return frozenset(name for names in self.active_skills for name in names)

    def to_json(self) -> dict[str, Any]:
        """Turn the record into JSON types; `from_json` is the inverse."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "EpisodeRecord":
        """Read what `to_json` wrote."""
        lists = {key: tuple(data[key]) for key in ("actions", "observations", "valid")}
        active_skills = tuple(tuple(names) for names in data["active_skills"])
        return cls(**{**data, **lists, "active_skills": active_skills})
