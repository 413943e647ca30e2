"""Episodes to be imitated: as text, so that any policy's tokenizer can read them.

One JSON object per line, with the keys of a run's own ``episodes/*.jsonl``:

    {"task": "t1", "goal": "put a mug in the sink", "success": true,
     "actions": ["go to sink 1", ...], "observations": ["You are in ...", ...],
     "responses": ["I go there. <action>go to sink 1</action>", ...]}

`responses` are what is taught; null at a turn that is only read. There is one more of
`observations` than of `actions`, or as many. Optional: `kind`, `split`, `choices` (per
turn the admissible actions, or null), `hints` (per turn), `active_skills` (per turn the
names of skills shown, found in a bank), `bank` (content hash of the one they are of),
`opening` (what the context said first), `stopped` (per turn; false: the response was
cut, so that its end is not taught) and `lost` (why the episode could not be played; it
is left out).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging

from reskill_jax.codec import decode
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import StaticGuide
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.storage import read_json_lines


@dataclass(frozen=True)
class DemonstratedTurn:
    """One decision.

    Attributes:
        observation: what was seen before it.
        action: what was done, read as the past of later turns.
        response: what is taught; None: the turn is only read.
        skills: shown at this turn.
        ends: whether the response ends where its text does; otherwise it was cut.
    """

    observation: Observation
    action: str
    response: str | None
    skills: tuple[Skill, ...] = ()
    ends: bool = True


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
            end = [prompts.tokenizer.eos_id] if turn.ends else []
            tokens = np.array(
                [*prompts.tokenizer.encode(turn.response), *end], np.int32
            )
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
    found = [d for file in episode_files(path) for d in _read(file, bank)]
    if not found:
        raise ValueError(f"{path} holds no episodes: name a .jsonl file or a directory")
    return found


def episode_files(path: Path) -> list[Path]:
    """Return the files that `read_demonstrations` reads."""
    return sorted(path.glob("train-*.jsonl")) if path.is_dir() else [path]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """What is read of a line; see the module."""

    task: str
    actions: tuple[str, ...]
    observations: tuple[str, ...]
    responses: tuple[str | None, ...]
    kind: str | None = None
    split: str | None = None
    goal: str | None = None
    opening: str | None = None
    success: bool | None = None
    choices: tuple[tuple[str, ...] | None, ...] | None = None
    hints: tuple[str | None, ...] | None = None
    active_skills: tuple[tuple[str, ...] | None, ...] | None = None
    stopped: tuple[bool | None, ...] | None = None
    lost: str | None = None
    bank: str | None = None


def _read(path: Path, bank: SkillBank) -> Iterator[Demonstration]:
    known = {skill.name: skill for skill in bank.skills}
    others = 0
    for place, document in read_json_lines(path):
        try:
            line = decode(_Line, document, name="episode", fields="any")
            if line.lost:
                continue
            shown = any(line.active_skills or ())
            others += shown and (line.bank or bank.hash) != bank.hash
            yield _demonstration(line, known)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if others:
        logging.warning(
            "%s: %d episodes were shown another bank than %s; what they show is taken "
            "for the skills of the same names in this one",
            *(path, others, bank.hash),
        )


def _demonstration(line: _Line, known: Mapping[str, Skill]) -> Demonstration:
    actions, observations = line.actions, line.observations
    if not actions:
        raise ValueError("episode.actions is empty: give at least one")
    if len(observations) - len(actions) not in (0, 1):
        raise ValueError(
            f"episode.observations has {len(observations)} entries for {len(actions)} "
            "actions: give what was seen before each action, and optionally after the "
            "last"
        )
    shown = line.active_skills or [None] * len(actions)
    choices = line.choices or [None] * len(actions)
    hints = line.hints or [None] * len(actions)
    stopped = line.stopped or [None] * len(actions)
    per_action = {
        "responses": line.responses,
        "active_skills": shown,
        "choices": choices,
        "hints": hints,
        "stopped": stopped,
    }
    for key, entries in per_action.items():
        if len(entries) != len(actions):
            raise ValueError(
                f"episode.{key} has {len(entries)} entries for {len(actions)} actions: "
                "give one (or null) for each action"
            )
    turns = [
        DemonstratedTurn(
            Observation(observation, listed, hint=hint or ""),
            action,
            response,
            tuple(_find(known, name) for name in names or ()),
            ends is not False,
        )
        for observation, action, response, names, listed, hint, ends in zip(
            observations[: len(actions)],
            actions,
            line.responses,
            shown,
            choices,
            hints,
            stopped,
            strict=True,
        )
    ]
    return Demonstration(
        task=Task(line.task, line.kind or "", line.split or "", ""),
        goal=line.goal or "",
        turns=tuple(turns),
        final_observation=observations[-1] if len(observations) > len(actions) else "",
        success=line.success is not False,
        opening=line.opening or "",
        shows_skills=any(turn.skills for turn in turns),
    )


def _find(known: Mapping[str, Skill], name: str) -> Skill:
    if name not in known:
        raise ValueError(
            f"episode.active_skills names {name!r}, which is none of the skills given "
            f"({', '.join(known) or 'none'}): name the directory of its SKILL.md"
        )
    return known[name]


def as_line(
    demonstration: Demonstration, names: Mapping[Skill, str]
) -> dict[str, object]:
    """Write a demonstration as one line of a file, see the module.

    Args:
        demonstration: what is written.
        names: of the skills that it shows, as they are called in the bank beside.
    """
    turns = demonstration.turns
    task = demonstration.task
    observations = [turn.observation.text for turn in turns]
    return {
        "task": task.id,
        "kind": task.kind,
        "split": task.split,
        "goal": demonstration.goal,
        "success": demonstration.success,
        "opening": demonstration.opening,
        "actions": [turn.action for turn in turns],
        "observations": [*observations, demonstration.final_observation],
        "responses": [turn.response for turn in turns],
        "choices": [turn.observation.actions for turn in turns],
        "hints": [turn.observation.hint for turn in turns],
        "active_skills": [[names[skill] for skill in turn.skills] for turn in turns],
    }


def only_successes(demonstrations: Sequence[Demonstration]) -> list[Demonstration]:
    """Keep those that reached their goal."""
    return [d for d in demonstrations if d.success]


def only_taught(demonstrations: Sequence[Demonstration]) -> list[Demonstration]:
    """Keep those that teach something: a response's text, or its end."""
    return [
        d
        for d in demonstrations
        if any(t.response or (t.response == "" and t.ends) for t in d.turns)
    ]
