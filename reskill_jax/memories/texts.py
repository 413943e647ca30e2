"""Episodes and advice as text that a policy is shown: short, clean, one per line."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from reskill_jax.llm.sanitize import clean
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import Skill

ACTION = 120  # most characters of an action
OBSERVATION = 200  # of an observation


def content_hash(content: Any) -> str:
    """Hash a JSON document, 12 hex digits."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def item_id(*parts: str) -> str:
    """Return the id of what is kept: a hash of its content, never a count."""
    return content_hash([" ".join(part.casefold().split()) for part in parts])


def actions_line(record: EpisodeRecord) -> str:
    """Put the actions of an episode into one line."""
    return ", ".join(clean(action, ACTION) for action in record.actions)


def trajectory(record: EpisodeRecord) -> str:
    """Lay out an episode: goal, then what was done and what came of it."""
    lines = [f"Task: {clean(record.goal, 300)}"]
    for number, action in enumerate(record.actions, 1):
        after = record.observations[number : number + 1]
        seen = f" -> {clean(after[0], OBSERVATION)}" if after else ""
        lines.append(f"{number}. {clean(action, ACTION)}{seen}")
    return "\n".join(lines)


def bullets(lines: Iterable[str]) -> str:
    """List lines."""
    return "\n".join(f"- {line}" for line in lines)


def section(title: str, lines: Sequence[str]) -> str:
    """Put a title above a list; "" for an empty one."""
    return f"{title}\n{bullets(lines)}" if lines else ""


def skill_line(skill: Skill) -> str:
    """Put a skill into one line."""
    parts = (f"{skill.name}:", skill.when_to_use, skill.action, skill.example)
    return " ".join(" ".join(part.split()) for part in parts if part)
