"""Keeps what the skill meter finds out about every skill that is in a bank."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from reskill_jax.codec import encode
from reskill_jax.creator.proposal import content_hash, new_skills
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.meter import measured
from reskill_jax.skills.effects import SkillEffect, StepEffects, judge
from reskill_jax.skills.skill import Skill, SkillBank


@dataclass
class SkillEffects:
    """What was measured of skills, by the hash of what they say.

    Attributes:
        courses: oldest step first; empty where the meter is off.
    """

    courses: dict[str, list[StepEffects]] = field(default_factory=dict)

    def add(
        self, step: int, episodes: Sequence[Episode], banks: Iterable[SkillBank]
    ) -> list[str]:
        """Take in the episodes of a step; skills of no bank are forgotten.

        Returns:
            A line for every skill that is judged otherwise now.
        """
        by_hash = {bank.hash: bank for bank in banks}
        skills = {s: content_hash(s) for bank in by_hash.values() for s in bank.skills}
        known = set(skills.values())
        self.courses = {k: course for k, course in self.courses.items() if k in known}
        if not self.courses and not measured(episodes):
            return []
        before = {skill: self._verdict(skill) for skill in skills}
        for episode in episodes:
            scored = measured([episode])
            shown = {name for turn in episode.turns for name in turn.active_skills}
            for skill in by_hash.get(episode.context, SkillBank()).skills:
                if skill.name in shown:
                    point = self._point(skills[skill], step)
                    point.effects += scored.get(skill.name, [])
                    point.episodes += 1
                    point.successes += episode.success
        return [
            f"step {step}: {skill.name} is {effect}"
            for skill in skills
            for effect in self.of([skill])
            if effect.verdict not in ("unclear", before[skill])
        ]

    def of(self, skills: Iterable[Skill]) -> tuple[SkillEffect, ...]:
        """Return what was measured of skills, where it was."""
        found = (
            judge(skill.name, self.courses.get(content_hash(skill), []))
            for skill in skills
        )
        return tuple(effect for effect in found if effect)

    def describe(
        self, bank: SkillBank, candidate: SkillBank, arm: int
    ) -> dict[str, Any]:
        """Describe, for the log of a trial, the skills that a candidate changes.

        Args:
            bank: the accepted one, arm 0.
            candidate: the other.
            arm: of the candidate.

        Returns:
            A document with the key ``meter``; empty where nothing was measured.
        """
        changed = {0: new_skills(candidate, bank), arm: new_skills(bank, candidate)}
        found = [
            encode(effect) | {"arm": k}
            for k, skills in changed.items()
            for effect in self.of(skills)
        ]
        return {"meter": found} if found else {}

    def _verdict(self, skill: Skill) -> str:
        return next((effect.verdict for effect in self.of([skill])), "unclear")

    def _point(self, key: str, step: int) -> StepEffects:
        course = self.courses.setdefault(key, [])
        if not course or course[-1].step != step:
            course.append(StepEffects(step))
        return course[-1]
