"""Sessions of OpenEnv: what a client asks for by messages, and what it is answered.

A connection is a session, and plays one episode at a time. What it may not send is
answered with an error, and the session goes on where it stood.
"""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np

from reskill_jax.environments.action_format import ActionFormat
from reskill_jax.environments.panels import TaskPanel, TaskStream
from reskill_jax.environments.protocol import (
    EpisodeLostError,
    Observation,
    Task,
)

MAX_ACTION = 100_000  # characters
_MAX_ID = 255  # characters of a name that a client gives
_MAX_SEED = 2**63 - 1
_log = logging.getLogger(__name__)


class Players(Protocol):
    """Where episodes are played: a pool of processes, or coroutines here."""

    def open(self, group: str) -> AbstractContextManager[Any]:
        """Begin an episode: an environment whose methods are awaited."""
        ...


@dataclass(frozen=True)
class Served:
    """What is served.

    Attributes:
        name: of the environment.
        version: of this package.
        panels: by split; no other split can be asked for.
        players: play environments.
        action_format: reads the responses of models.
        max_turns: an episode that has not ended by then is scored, and is done.
        max_sessions: connections at once; a further one is refused.
        idle_seconds: a session that sends nothing for so long is closed.
        episode_seconds: an episode that takes longer is given up.
        seed: of the order in which tasks are given to who asks for none.
    """

    name: str
    version: str
    panels: Mapping[str, TaskPanel]
    players: Players
    action_format: ActionFormat
    max_turns: int
    max_sessions: int = 64
    idle_seconds: float = 600.0
    episode_seconds: float = 3600.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what nothing could be played with."""
        for name in ("max_turns", "max_sessions", "idle_seconds", "episode_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be above 0")
        for split, panel in self.panels.items():
            if not panel.tasks:
                raise ValueError(f"splits: {split!r} has no tasks: leave it out")
        if not self.panels:
            raise ValueError("splits is empty: name one, e.g. train")


class RefusedError(Exception):
    """What a client asked for is not done; `code` is one of OpenEnv's."""

    def __init__(self, message: str, code: str = "VALIDATION_ERROR"):
        super().__init__(message)
        self.code = code


class _Message(msgspec.Struct):
    type: str
    data: dict[str, Any] = {}


class _Reset(msgspec.Struct, forbid_unknown_fields=True):
    seed: int | None = None
    episode_id: str | None = None
    split: str | None = None
    index: int | None = None
    task_id: str | None = None


class _Action(msgspec.Struct, forbid_unknown_fields=True):
    command: str | None = None
    response: str | None = None
    metadata: dict[str, Any] = {}


@dataclass
class Session:
    """What one connection plays.

    Attributes:
        served: what it may play.
        streams: by split, what gives tasks to those who ask for none.
        name: in the ids of its episodes.
    """

    served: Served
    streams: Mapping[str, TaskStream]
    name: str
    _environment: Any = None
    _open: ExitStack = field(default_factory=ExitStack)
    _task: Task | None = None
    _goal: str = ""
    _now: Observation = field(default_factory=lambda: Observation(""))
    _turns: int = 0
    _reward: float = 0.0
    _done: bool = False
    _episodes: int = 0
    _id: str | None = None
    _deadline: float = 0.0

    @property
    def patience(self) -> float:
        """Seconds to wait for the next message."""
        left = self._deadline - time.monotonic()
        idle = self.served.idle_seconds
        return max(min(idle, left), 0.0) if self._environment is not None else idle

    def give_up_late(self) -> bool:
        """Give up an episode that takes too long; tell whether there was one."""
        late = self._environment is not None and time.monotonic() >= self._deadline
        if late:
            self.close()
        return late

    def close(self) -> None:
        """Give the environment back."""
        self._environment = None
        self._open.close()

    async def answer(self, text: str) -> dict[str, Any] | None:
        """Do what a message asks for.

        Returns:
            The answer; None for the end of the session.

        Raises:
            RefusedError: it cannot be done; the session stands where it stood, but
                for an episode that is lost.
        """
        message = decode(text, _Message)
        match message.type:
            case "reset":
                return await self._reset(_convert(message.data, _Reset))
            case "step":
                return await self._step(_convert(message.data, _Action))
            case "state":
                return {"type": "state", "data": self._state()}
            case "close":
                return None
        raise RefusedError(f"unknown type {message.type[:40]!r}", "UNKNOWN_TYPE")

    async def _reset(self, asked: _Reset) -> dict[str, Any]:
        if asked.episode_id is not None and len(asked.episode_id) > _MAX_ID:
            raise RefusedError(f"episode_id: at most {_MAX_ID} characters")
        task = _choose(self.served, self.streams, asked)
        self.close()
        self._task = None
        self._deadline = time.monotonic() + self.served.episode_seconds
        self._environment = self._open.enter_context(self.served.players.open(task.id))
        goal, now = await self._play(lambda: self._environment.reset(task))
        self._episodes += 1
        self._id = asked.episode_id or f"{self.name}-{self._episodes}"
        self._task, self._goal, self._now, self._turns = task, goal, now, 0
        self._reward, self._done = 0.0, now.done
        return self._observation(0.0, valid=True)

    async def _step(self, asked: _Action) -> dict[str, Any]:
        self.give_up_late()
        if self._environment is None or self._task is None:
            raise RefusedError("no episode is going on: reset first", "EXECUTION_ERROR")
        if self._done:
            raise RefusedError("the episode is done: reset", "EXECUTION_ERROR")
        action, well_formed = self._read(asked)
        now = await self._play(lambda: self._environment.step(action))
        self._turns += 1
        reward, understood, self._done = now.reward, now.understood, now.done
        if not now.done and self._turns >= self.served.max_turns:
            last = await self._play(self._environment.finish)
            reward += last.reward
            now = Observation(
                now.text,
                now.actions,
                hint=now.hint,
                success=last.success,
                scores=last.scores,
            )
            self._done = True
        self._now = now
        self._reward += reward
        return self._observation(reward, valid=well_formed and understood)

    def _read(self, asked: _Action) -> tuple[str, bool]:
        """Return what the environment gets, and whether it was well formed."""
        given = [text for text in (asked.command, asked.response) if text is not None]
        if len(given) != 1:
            raise RefusedError(
                "give either command, an action, or response, a model's text"
            )
        if len(given[0]) > MAX_ACTION:
            raise RefusedError(f"{len(given[0])} characters: at most {MAX_ACTION}")
        if asked.response is None:
            return given[0], True
        action = self.served.action_format.parse(given[0])
        return action.text, action.well_formed

    async def _play(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await an environment; what it says of its failures is for the log only."""
        try:
            return await call()
        except EpisodeLostError as error:
            _log.warning("%s: %s", self.name, error)
            self.close()
            text = "the environment failed, and the episode is lost: reset"
            raise RefusedError(text, "EXECUTION_ERROR") from None

    def _observation(self, reward: float, *, valid: bool) -> dict[str, Any]:
        assert self._task is not None
        now = self._now
        shown = {
            "text": now.text,
            "goal": self._goal,
            "actions": None if now.actions is None else list(now.actions),
            "hint": now.hint,
            "valid": valid,
            "success": now.success,
            "question": now.question,
            "scores": dict(now.scores),
            "task_id": self._task.id,
            "turn": self._turns,
        }
        data = {"observation": shown, "reward": reward, "done": self._done}
        return {"type": "observation", "data": data}

    def _state(self) -> dict[str, Any]:
        task = self._task
        return {
            "episode_id": self._id,
            "step_count": self._turns,
            "task_id": task and task.id,
            "split": task and task.split,
            "done": self._done,
            "success": self._now.success,
            "reward": self._reward,
        }


def _choose(served: Served, streams: Mapping[str, TaskStream], asked: _Reset) -> Task:
    """Return the task that a client asks for: by id, by place, by seed, or the next."""
    if asked.task_id is not None:
        for panel in served.panels.values():
            if (task := panel.by_id.get(asked.task_id)) is not None:
                return task
        raise RefusedError(
            f"task_id={asked.task_id[:_MAX_ID]!r}: there is no such task"
        )
    panel = panel_of(served, asked.split)
    if asked.index is not None:
        return task_at(panel, asked.index)
    if asked.seed is not None:
        if not 0 <= asked.seed <= _MAX_SEED:
            raise RefusedError(f"seed={asked.seed}: must be 0 to {_MAX_SEED}")
        return panel.tasks[np.random.default_rng(asked.seed).integers(len(panel))]
    split = next(iter(served.panels)) if asked.split is None else asked.split
    return streams[split].draw(1)[0]


def panel_of(served: Served, split: str | None) -> TaskPanel:
    """Return the tasks of a split, or of the first one.

    Raises:
        RefusedError: it is not served.
    """
    if split is None:
        return next(iter(served.panels.values()))
    if split not in served.panels:
        raise RefusedError(
            f"split={split[:_MAX_ID]!r}: choose one of {', '.join(served.panels)}"
        )
    return served.panels[split]


def task_at(panel: TaskPanel, index: int) -> Task:
    """Return a task by its place, from 0.

    Raises:
        RefusedError: there is none.
    """
    if not 0 <= index < len(panel):
        raise RefusedError(f"index={index}: must be 0 to {len(panel) - 1}")
    return panel.tasks[index]


def tasks_between(
    panel: TaskPanel, start: int | None, stop: int | None
) -> tuple[Task, ...]:
    """Return the tasks from a place up to another one, or to the last there is.

    Raises:
        RefusedError: a place is negative, which Python counts from the end.
    """
    for name, place in (("start", start), ("stop", stop)):
        if place is not None and place < 0:
            raise RefusedError(f"{name}={place}: must be at least 0")
    return panel.tasks[start:stop]


def decode(text: str | bytes, kind: type[Any]) -> Any:
    """Return what a client has sent in JSON.

    Raises:
        RefusedError: it is not JSON, or not of that kind.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.ValidationError as error:
        raise RefusedError(str(error)) from None
    except (ValueError, RecursionError) as error:  # also msgspec's
        raise RefusedError(f"not JSON: {error}", "INVALID_JSON") from None


def _convert(data: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as error:
        raise RefusedError(str(error)) from None
