"""Episodes: what the collector records and the trainer learns from.

Token ids travel, never text: the trainer sees exactly the ids that the engine saw and
sampled. A prompt is a prefix of the episode's *trunk* (text that stays true: role,
goal, observations and actions) followed by the turn's *branch* (what matters for this
turn only: admissible actions, active skills, the request).
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np

from reskill_jax.environments.task import Task
from reskill_jax.skills.episode_record import EpisodeRecord

_TOKENS, _FLOATS = "<i4", "<f4"  # how arrays are written
_ARRAYS = {"branch": _TOKENS, "response": _TOKENS, "logprobs": _FLOATS}  # of a turn


@dataclass
class Turn:
    """One decision of the agent.

    Attributes:
        window: index into `Episode.trunks` of the trunk that the prompt began with.
        trunk_length: how many of that trunk's tokens the prompt held.
        branch: int32 [n], the prompt after the trunk.
        response: int32 [m], the sampled tokens.
        logprobs: float32 [m], the engine's log-probs of them.
        version: weight version that sampled them.
        observation: text that the agent saw before acting.
        text: the response as text.
        action: the parsed action, as sent to the environment.
        valid: whether the response was well formed and the environment understood it.
        active_skills: names of the notes shown at this turn, in the context's order.
        reward: of the environment for this action; for the last turn with what was
            paid at the turn limit.
        stopped: whether the response ended by itself, not by the length limit.
    """

    window: int
    trunk_length: int
    branch: np.ndarray
    response: np.ndarray
    logprobs: np.ndarray
    version: int
    observation: str
    text: str
    action: str
    valid: bool
    active_skills: tuple[str, ...] = ()
    reward: float = 0.0
    stopped: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return all of it as a JSON document; see `Episode.to_json`."""
        arrays = {name: _encode(vars(self)[name], _ARRAYS[name]) for name in _ARRAYS}
        return vars(self) | arrays

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Make the turn of a document; see `Episode.from_json`."""
        arrays = {name: _decode(document[name], _ARRAYS[name]) for name in _ARRAYS}
        return cls(
            **{**document, **arrays, "active_skills": tuple(document["active_skills"])}
        )


@dataclass
class Episode:
    """One rollout of one task on one context.

    Attributes:
        task: the task played.
        group: index of the task in the batch; rollouts of one group share it.
        index: index of the rollout within its group.
        arm: index of its context in the plan; in a trial 0 is the incumbent.
        context: content hash of the context that it ran on.
        goal: the task's goal sentence.
        trunks: int32 arrays, one per window; the last may hold tokens that came after
            the last turn.
        turns: in order.
        final_observation: text after the last action.
        reward: sum of the environment's rewards, as it gave them.
        success: whether the goal was reached within the turn limit.
        scores: further figures that the environment gave at the end.
    """

    task: Task
    group: int
    index: int
    arm: int
    context: str
    goal: str = ""
    trunks: list[np.ndarray] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    final_observation: str = ""
    reward: float = 0.0
    success: bool = False
    scores: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return all of it as a JSON document.

        It is exact: floats are, and arrays are the base64 of their bytes, which is
        shorter than their digits and takes a fraction of the time.
        """
        return vars(self) | {
            "task": vars(self.task),
            "trunks": [_encode(trunk, _TOKENS) for trunk in self.trunks],
            "turns": [turn.to_json() for turn in self.turns],
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Make the episode of a document.

        Raises:
            ValueError: the document is none of `to_json`.
        """
        try:
            names = {f.name for f in fields(cls)}
            if differing := document.keys() ^ names:
                raise ValueError(f"missing or unknown: {sorted(differing)}")
            parts = {
                "task": Task(**document["task"]),
                "trunks": [_decode(trunk, _TOKENS) for trunk in document["trunks"]],
                "turns": [Turn.from_json(turn) for turn in document["turns"]],
            }
            episode = cls(**{**document, **parts})
            lengths = [len(trunk) for trunk in episode.trunks]
            for number, turn in enumerate(episode.turns):
                if not (
                    0 <= turn.window < len(lengths)
                    and 0 <= turn.trunk_length <= lengths[turn.window]
                    and len(turn.response) == len(turn.logprobs)
                ):
                    raise ValueError(f"the arrays of turn {number} do not fit")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a recorded episode: {error!r}") from error
        return episode

    def record(self, step: int) -> EpisodeRecord:
        """Distil it as evidence for a creator; training step `step` played it."""
        return EpisodeRecord(
            task=self.task.id,
            kind=self.task.kind,
            goal=self.goal,
            bank=self.context,
            step=step,
            success=self.success,
            actions=self.actions,
            observations=self.observations,
            active_skills=tuple(turn.active_skills for turn in self.turns),
            valid=tuple(turn.valid for turn in self.turns),
        )

    @property
    def actions(self) -> tuple[str, ...]:
        """Parsed actions, in order."""
        return tuple(turn.action for turn in self.turns)

    @property
    def observations(self) -> tuple[str, ...]:
        """What the environment said: before each action, and after the last one."""
        return (*(turn.observation for turn in self.turns), self.final_observation)


def _encode(array: np.ndarray, dtype: str) -> str:
    return base64.b64encode(np.asarray(array, dtype).tobytes()).decode()


def _decode(text: str, dtype: str) -> np.ndarray:
    """Return the array [n] of `_encode`, in the machine's own byte order."""
    data = np.frombuffer(base64.b64decode(text, validate=True), dtype)
    return data.astype(data.dtype.newbyteorder("="))
