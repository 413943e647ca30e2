"""Skills and banks: plain frozen dataclasses.

A bank is an ordered tuple of skills with a content hash. Operations make a new bank,
all of a bundle or nothing, so that rejecting one is going back to the old object.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import re2


@dataclass(frozen=True)
class Trigger:
    """When a skill is shown (paper, section 3.3).

    `general` fires at every turn, `beginning` at the first one, `action_pattern` when
    the RE2 `pattern` is found, ignoring case, in the previous parsed action. A skill
    with a `goal` is for tasks alone in whose goal sentence that RE2 pattern is found,
    ignoring case (ours: what is right for some tasks costs others).
    """

    kind: Literal["general", "beginning", "action_pattern"] = "general"
    pattern: str = ""
    goal: str = ""

    def about(self, goal: str) -> bool:
        """Tell whether the skill is for tasks with such a goal."""
        return not self.goal or matches(self.goal, goal)

    def fires(self, previous_action: str | None) -> bool:
        """Tell whether the skill is shown; `previous_action` is None at first."""
        if self.kind == "general":
            return True
        if self.kind == "beginning":
            return previous_action is None
        return previous_action is not None and matches(self.pattern, previous_action)


def matches(pattern: str, text: str) -> bool:
    """Search `pattern` in `text`, ignoring case; for triggers and checks alike."""
    return _compiled(pattern).search(text) is not None


@lru_cache(maxsize=1024)  # re2's own cache costs three times what a search does
def _compiled(pattern: str) -> Any:
    return re2.compile("(?i)" + pattern)


@dataclass(frozen=True)
class Skill:
    """One conditional piece of advice.

    Attributes:
        name: kebab-case, unique in its bank.
        description: one line for a catalogue.
        when_to_use: one sentence, the condition that the agent itself judges.
        action: one or two sentences, what to do then.
        example: at most two lines, may be empty.
        trigger: when the skill is put into the prompt at all.
        version: counts modifications, from 1.
    """

    name: str
    description: str
    when_to_use: str
    action: str
    trigger: Trigger = Trigger()
    example: str = ""
    version: int = 1


@dataclass(frozen=True)
class SkillBank:
    """An ordered tuple of skills; the order is the order in the prompt."""

    skills: tuple[Skill, ...] = ()

    @cached_property
    def hash(self) -> str:
        """Content hash, 12 hex digits; equal for equal content in equal order."""
        documents = [asdict(skill) for skill in self.skills]
        for document in documents:  # what has no condition has the hash that it had
            if not document["trigger"]["goal"]:
                del document["trigger"]["goal"]
        text = json.dumps(documents, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def active(self, previous_action: str | None) -> tuple[Skill, ...]:
        """Return the skills that fire, in bank order."""
        return tuple(s for s in self.skills if s.trigger.fires(previous_action))

    def about(self, goal: str) -> "SkillBank":
        """Return the bank of those skills that are for tasks with such a goal."""
        kept = tuple(skill for skill in self.skills if skill.trigger.about(goal))
        return self if len(kept) == len(self.skills) else SkillBank(kept)

    def names(self) -> Iterable[str]:
        """Yield the skills' names, in order."""
        return (skill.name for skill in self.skills)


def changed_triggers(banks: Sequence[SkillBank]) -> tuple[Trigger, ...]:
    """Triggers, in any bank, of skills in which a candidate and the incumbent differ.

    Args:
        banks: incumbent, then the candidates.
    """
    incumbent = set(banks[0].skills)
    changed = {s.trigger for bank in banks[1:] for s in incumbent ^ set(bank.skills)}
    return tuple(sorted(changed, key=lambda t: (t.kind, t.pattern, t.goal)))


def could_fire(triggers: Sequence[Trigger], actions: Sequence[str], goal: str) -> bool:
    """Tell whether any trigger fires in an episode with these parsed actions.

    Nothing can follow the last action, so that it does not count. Up to the first
    firing all arms have seen the same prompts; selecting such episodes of every arm,
    the incumbent's too, therefore does not bias the comparison.
    """
    return any(
        trigger.fires(previous)
        for trigger in triggers
        if trigger.about(goal)
        for previous in (None, *actions[:-1])
    )
