"""Episodes to be imitated: as text, so that any policy's tokenizer can read them.

One JSON object per line, with the keys of a run's own ``episodes/*.jsonl``:

    {"task": "t1", "goal": "put a mug in the sink", "success": true,
     "actions": ["go to sink 1", ...], "observations": ["You are in ...", ...],
     "responses": ["I go there. <action>go to sink 1</action>", ...]}

`responses` are what is taught; null at a turn that is only read. There is one more of
`observations` than of `actions`, or as many. Optional: `kind`, `split`, `choices` (per
turn the admissible actions, or null), `hints` (per turn), `active_skills` (per turn the
names of skills shown, found in a bank) and `opening` (what the context said first).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import StaticGuide
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank


@dataclass(frozen=True)
class DemonstratedTurn:
    """One decision.

    Attributes:
        observation: what was seen before it.
        action: what was done, read as the past of later turns.
        response: what is taught; None: the turn is only read.
        skills: shown at this turn.
    """

    observation: Observation
    action: str
    response: str | None
    skills: tuple[Skill, ...] = ()


@dataclass(frozen=True)
class Demonstration:
    """An episode to be imitated.

    Attributes:
        task: which was played.
        goal: its goal sentence.
        turns: at least one.
        final_observation: text after the last action.
        success: whether the goal was reached.
        opening: what the context said at the start.
        shows_skills: whether prompts have a section for skills.
    """

    task: Task
    goal: str
    turns: tuple[DemonstratedTurn, ...]
    final_observation: str = ""
    success: bool = True
    opening: str = ""
    shows_skills: bool = True


def as_episode(prompts: PromptBuilder, demonstration: Demonstration) -> Episode:
    """Render a demonstration as the collector would have recorded it."""
    turns = demonstration.turns
    episode = Episode(demonstration.task, 0, 0, 0, "", goal=demonstration.goal)
    bank = SkillBank() if demonstration.shows_skills else None
    guide = StaticGuide(opening=demonstration.opening, bank=bank)
    talk = Conversation(prompts, demonstration.goal, turns[0].observation, guide)
    seen = [*(turn.observation.text for turn in turns), demonstration.final_observation]
    for number, turn in enumerate(turns):
        prompt = talk.prompt(turn.observation, turn.skills)
        if turn.response is not None:
            response = prompts.tokenizer.encode(turn.response)
            tokens = np.array([*response, prompts.tokenizer.eos_id], np.int32)
            episode.turns.append(
                Turn(
                    window=prompt.window,
                    trunk_length=prompt.trunk_length,
                    branch=np.asarray(prompt.branch, np.int32),
                    response=tokens,
                    logprobs=np.zeros(len(tokens), np.float32),
                    version=0,
                    observation=turn.observation.text,
                    text=turn.response,
                    action=turn.action,
                    valid=True,
                    active_skills=tuple(skill.name for skill in turn.skills),
                )
            )
        talk.advance(turn.action, seen[number + 1])
    episode.trunks = [np.asarray(trunk, np.int32) for trunk in talk.trunks]
    episode.success = demonstration.success
    return episode


def read_demonstrations(path: Path, bank: SkillBank) -> list[Demonstration]:
    """Read a file, or all ``train-*.jsonl`` of a run's directory of episodes.

    Args:
        path: the file or directory.
        bank: has the skills that turns show.

    Raises:
        ValueError: there is none, or a line cannot be used; names line and key.
    """
    files = sorted(path.glob("train-*.jsonl")) if path.is_dir() else [path]
    found = [d for file in files for d in _read(file, bank)]
    if not found:
        raise ValueError(f"{path} holds no episodes: name a .jsonl file or a directory")
    return found


def _read(path: Path, bank: SkillBank) -> Iterator[Demonstration]:
    known = {skill.name: skill for skill in bank.skills}
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield _demonstration(json.loads(text), known)
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(
                        f"{path}, line {number}: {_reason(error)}"
                    ) from error


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)


def _demonstration(data: Any, known: Mapping[str, Skill]) -> Demonstration:
    if not isinstance(data, Mapping):
        raise ValueError("an episode must be a JSON object")
    actions = _texts(data["actions"], "actions")
    observations = _texts(data["observations"], "observations")
    responses = _texts(data["responses"], "responses", optional=True)
    if not actions or len(responses) != len(actions):
        raise ValueError(
            f"{len(responses)} responses and {len(actions)} actions: give one response "
            "(or null) for each action, and at least one"
        )
    if len(observations) - len(actions) not in (0, 1):
        raise ValueError(
            f"{len(observations)} observations for {len(actions)} actions: give what "
            "was seen before each action, and optionally after the last"
        )
    shown = data.get("active_skills") or [()] * len(actions)
    choices = data.get("choices") or [None] * len(actions)
    hints = data.get("hints") or [""] * len(actions)
    turns = [
        DemonstratedTurn(
            Observation(
                observation,
                None if listed is None else tuple(_texts(listed, "choices")),
                hint=hint or "",
            ),
            action,
            response,
            tuple(_find(known, name) for name in names or ()),
        )
        for observation, action, response, names, listed, hint in zip(
            observations[: len(actions)],
            actions,
            responses,
            shown,
            choices,
            hints,
            strict=True,
        )
    ]
    return Demonstration(
        task=Task(
            str(data["task"]),
            str(data.get("kind") or ""),
            str(data.get("split") or ""),
            "",
        ),
        goal=str(data.get("goal") or ""),
        turns=tuple(turns),
        final_observation=observations[-1] if len(observations) > len(actions) else "",
        success=data.get("success") is not False,
        opening=str(data.get("opening") or ""),
        shows_skills=any(turn.skills for turn in turns),
    )


def _texts(value: Any, key: str, *, optional: bool = False) -> list[Any]:
    """Check a list of texts, or of texts and nulls."""
    allowed = (str, type(None)) if optional else (str,)
    if not isinstance(value, list) or not all(isinstance(x, allowed) for x in value):
        raise ValueError(f"{key!r} must be a list of texts, it is {str(value)[:80]!r}")
    return value


def _find(known: Mapping[str, Skill], name: Any) -> Skill:
    if name not in known:
        raise ValueError(
            f"the skill {name!r} was shown, but it is not among those given "
            f"({', '.join(known) or 'none'}): name the directory of its SKILL.md"
        )
    return known[name]


def only_successes(demonstrations: Sequence[Demonstration]) -> list[Demonstration]:
    """Keep those that reached their goal."""
    return [d for d in demonstrations if d.success]
