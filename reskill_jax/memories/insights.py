"""ExpeL's memory: rules with votes, and successful episodes that are retrieved."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import Embedder, Lexical
from reskill_jax.memories.ranking import best
from reskill_jax.memories.retrieval import similarities
from reskill_jax.memories.rules import VotedRule
from reskill_jax.memories.settings import ExpelSettings
from reskill_jax.memories.texts import content_hash, section, trajectory
from reskill_jax.rollout.context import Guide, StaticGuide, context_kind
from reskill_jax.skills.episode_record import EpisodeRecord

RULES = "Rules that have proved right:"
EXAMPLES = "Tasks that were solved before:"
_WIDER = 4  # times as many candidates as are shown


@context_kind("insights")
@dataclass(frozen=True)
class Insights:
    """Rules for all tasks, and examples for each.

    Attributes:
        settings: of the method.
        rules: most votes first.
        solved: successful episodes, at most one per task: the shortest.
        embedder: compares goals.
    """

    kind: ClassVar[str]
    settings: ExpelSettings
    rules: tuple[VotedRule, ...] = ()
    solved: tuple[EpisodeRecord, ...] = ()
    embedder: Embedder = field(default_factory=Lexical, compare=False, repr=False)

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(self.to_json())

    async def examples(self, task: Task, goal: str) -> list[EpisodeRecord]:
        """Return solved tasks of the same kind with the most similar goals.

        Of four times as many candidates, too long ones are left out, and so is the very
        task: its solution would be shown.
        """
        wanted = self.settings.trajectories
        others = [r for r in self.solved if r.kind == task.kind and r.task != task.id]
        scores = await similarities(self.embedder, goal, [r.goal for r in others])
        near = best(scores.tolist(), _WIDER * wanted)
        found = [others[place] for place in near]
        limit = self.settings.trajectory_characters
        return [r for r in found if len(trajectory(r)) <= limit][:wanted]

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with the rules and the examples."""
        parts = []
        if self.settings.show != "trajectories":
            parts.append(section(RULES, [rule.text for rule in self.rules]))
        if self.settings.show != "rules":
            found = await self.examples(task, goal)
            parts.append(section(EXAMPLES, list(map(trajectory, found))))
        return StaticGuide("\n\n".join(part for part in parts if part))

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.settings), encode(self.rules), encode(self.solved)]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "Insights":
        """Make it again, with the same hash."""
        settings, rules, solved = document
        return cls(
            decode(ExpelSettings, settings),
            decode(tuple[VotedRule, ...], rules),
            decode(tuple[EpisodeRecord, ...], solved),
            resources.get("embedder") or Lexical(),
        )
