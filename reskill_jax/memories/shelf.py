"""Fixed text for every task: chosen skills of a bank, or as much as there is room for.

It is chosen when an episode begins, and belongs to its opening.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.memories.ranking import best, bm25
from reskill_jax.memories.texts import content_hash, section, skill_line, trajectory
from reskill_jax.rollout.context import Guide, StaticGuide, context_kind
from reskill_jax.seeds import derive_seed
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import Skill, SkillBank

SKILLS = "Advice:"


@context_kind("chosen_skills")
@dataclass(frozen=True)
class ChosenSkills:
    """Some skills of a bank, chosen for each task.

    Attributes:
        bank: the bank.
        by: bm25: those that share words with the goal, best first, of equal ones by
            name; random: by chance, the same ones for a task at all times.
        count: how many at most.
        seed: for chance.
    """

    kind: ClassVar[str]
    bank: SkillBank
    by: str
    count: int
    seed: int = 0

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash([self.bank.hash, self.by, self.count, self.seed])

    def choose(self, task: Task, goal: str) -> list[Skill]:
        """Return the skills for a task."""
        skills = sorted(self.bank.skills, key=lambda skill: skill.name)
        if self.by == "random":
            chance = np.random.default_rng(derive_seed(self.seed, "shelf", task.id))
            places = chance.permutation(len(skills))[: self.count].tolist()
            return [skills[place] for place in places]
        scores = bm25(goal, [f"{s.name} {s.when_to_use} {s.action}" for s in skills])
        return [skills[k] for k in best(scores, self.count) if scores[k] > 0]

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with the chosen skills."""
        lines = [skill_line(skill) for skill in self.choose(task, goal)]
        return StaticGuide(section(SKILLS, lines))

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.bank), self.by, self.count, self.seed]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "ChosenSkills":
        """Make it again, with the same hash."""
        bank, by, count, seed = document
        return cls(decode(SkillBank, bank), by, count, seed)


@context_kind("long_context")
@dataclass(frozen=True)
class LongContext:
    """A whole bank, then successful episodes, newest first, as far as there is room.

    Attributes:
        bank: the bank.
        episodes: successful ones, the newest first.
        characters: most that it says. A prompt gives an opening a share of its budget
            at most, so that history and observations always have theirs.
    """

    kind: ClassVar[str]
    bank: SkillBank
    episodes: tuple[EpisodeRecord, ...] = ()
    characters: int = 6000

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(self.to_json())

    def text(self, task: Task) -> tuple[str, int]:
        """Return what a task is shown, and how many parts had no room.

        Nothing is cut: a part is shown whole or not. Episodes of the very task are left
        out, which would be its solution.
        """
        parts = [skill_line(skill) for skill in self.bank.skills]
        parts += [trajectory(e) for e in self.episodes if e.task != task.id]
        shown: list[str] = []
        left = self.characters
        for part in parts:
            if len(part) + 2 > left:
                break
            shown.append(part)
            left -= len(part) + 2
        return "\n\n".join(shown), len(parts) - len(shown)

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with all that has room."""
        return StaticGuide(self.text(task)[0])

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.bank), encode(self.episodes), self.characters]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "LongContext":
        """Make it again, with the same hash."""
        bank, episodes, characters = document
        return cls(
            decode(SkillBank, bank),
            decode(tuple[EpisodeRecord, ...], episodes),
            characters,
        )
