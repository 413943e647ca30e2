"""What every text environment offers, whatever its engine.

A `Task` names one problem of one split. An `Environment` plays one task at a time:
`reset` returns the goal and the first observation, `step` takes an action string,
`finish` says that no further turn will come. Environments hold no turn limit: it
belongs to the rollout. What the core has to know of an environment beside that is its
`EnvironmentSpec`, which its module makes; see `environments.registry`.
"""

import math
import operator
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import KW_ONLY, dataclass, field, replace
from numbers import Real
from typing import Any, Protocol

import numpy as np

from reskill_jax.environments.action_format import ActionFormat
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.environments.wording import Wording
from reskill_jax.skills.rule import RuleTable
from reskill_jax.storage import well_formed

__all__ = [
    "Environment",
    "EnvironmentSpec",
    "EpisodeLostError",
    "Observation",
    "ProcessUnusableError",
    "Task",
]

# What every run measures of its episodes and evaluations; scores have other names.
_MEASURED = {
    *("success", "reward", "reward_std", "turns", "valid", "prompt_tokens", "windows"),
    *("opening_cut", "response_length", "episode_length", "frac_reward_zero_std"),
    *("solve_all", "solve_none", "failed_groups", "staleness", "importance"),
    *("effective_sample", "failed_tasks", "failed_samples", "void", "samples"),
    *("temperature", "batch_invariant"),
}


class EpisodeLostError(RuntimeError):
    """One episode cannot go on, for a reason outside this program; others can.

    Attributes:
        again_after_s: seconds to wait before the episode is worth another attempt from
            its beginning, doubled for every further one; None: it is not worth any.
    """

    again_after_s: float | None = 0.0


class ProcessUnusableError(BaseException):
    """An engine that the environments of this process share is gone for good.

    Raised in a worker it ends the process, as a crash would: another one takes its
    place and plays the open episodes again. It is no `Exception`, which would end one
    episode and leave the others where nothing works any more.
    """


@dataclass(frozen=True)
class Observation:
    """What the agent sees after a reset or a step.

    Attributes:
        text: the environment's words, without surrounding blanks.
        actions: admissible actions, in the engine's order; None where there is no list.
        hint: what a prompt shows instead of a list of actions, e.g. action templates.
        reward: reward of this step (0 at reset).
        done: whether the environment has ended the episode.
        success: whether the goal is reached.
        understood: whether the environment could make sense of the last action; a turn
            is valid when its response is well formed and its action was understood.
        question: whether the environment asks back to narrow the last action; skills
            are triggered by the last action that did not answer such a question.
        scores: further figures of an episode that has ended, e.g. a graded score.

    Raises:
        TypeError: a value is of another type; those of numpy are welcome.
        ValueError: the reward or a score is not finite, or a score has the name of what
            every run measures.
    """

    text: str
    actions: tuple[str, ...] | None = None
    _: KW_ONLY
    hint: str = ""
    reward: float = 0.0
    done: bool = False
    success: bool = False
    understood: bool = True
    question: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check and convert all values: most are of somebody else's code.

        What is no Unicode text is kept out of prompts and patterns.
        """
        put = object.__setattr__
        put(self, "text", _text("text", self.text))
        put(self, "hint", _text("hint", self.hint))
        if self.actions is not None:
            if not isinstance(self.actions, list | tuple):
                raise TypeError(f"actions={self.actions!r:.80}: needs a tuple, or None")
            texts = tuple(_text("one of actions", text) for text in self.actions)
            put(self, "actions", texts)
        put(self, "reward", _number("reward", self.reward))
        for name in ("done", "success", "understood", "question"):
            if (value := getattr(self, name)) is not True and value is not False:
                if not isinstance(value, np.bool_):
                    raise TypeError(f"{name}={value!r:.80}: needs True or False")
                put(self, name, bool(value))
        if not isinstance(self.scores, Mapping):
            raise TypeError(f"scores={self.scores!r:.80}: needs a dict of numbers")
        if self.scores:
            scores = {
                _score_name(name): _number(f"scores[{name!r}]", score)
                for name, score in self.scores.items()
            }
            put(self, "scores", scores)

    @property
    def choices(self) -> tuple[str, ...]:
        """The admissible actions; none where there is no list."""
        return self.actions or ()


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}={value!r:.80}: needs a str")
    return well_formed(value)


def _score_name(value: Any) -> str:
    name = _text("a name in scores", value)
    first = name.partition("/")[0]
    if first in _MEASURED or first.startswith(("pass@", "mean@", "logprob_")):
        raise ValueError(f"scores[{name!r}]: every run measures {first}; rename it")
    return name


def _number(name: str, value: Any) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{name}={value!r:.80}: needs a number")
    try:
        number = float(value)
    except OverflowError:  # a large integer
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}={value!s:.80}: needs a finite number")
    return number


def check_answer(method: str, answer: Any) -> Any:
    """Return what a method of an environment has returned, if it may.

    Args:
        method: reset, step or finish.
        answer: what it returned.

    Raises:
        TypeError: it is of another type.
    """
    if method != "reset":
        if not isinstance(answer, Observation):
            raise TypeError(f"{method} returned {answer!r:.80}: needs an Observation")
        return answer
    match answer:
        case (str(goal), Observation() as observation):
            return well_formed(goal), observation
    raise TypeError(
        f"reset returned {answer!r:.80}: needs the goal, a str, and an Observation"
    )


class Environment(Protocol):
    """One player of tasks; reusable: `reset` may be called any number of times.

    It must be a function of the task and the actions: a worker that dies is replaced
    and its episodes are played again. A remote environment (`EnvironmentSpec.remote`)
    has the same methods as coroutines and is never played again.
    """

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Start `task`; return its goal sentence and the first observation."""
        ...

    def step(self, action: str) -> Observation:
        """Play one action; one that is not understood changes nothing."""
        ...

    def finish(self) -> Observation:
        """Score an episode that has reached the turn limit.

        What is paid only at an end (a final score, the last result of a query) is in
        the observation's reward, success and scores; nobody sees its text, or asks
        whether it is `done`.
        """
        ...

    def close(self) -> None:
        """Free what the environment holds."""
        ...


@dataclass(frozen=True)
class EnvironmentSpec:
    """What the core knows of an environment.

    Attributes:
        panel: gives the task panel of a split, at most so many tasks of it (None: all);
            raises ValueError for an unknown split.
        make: makes an environment; picklable, called in worker processes, or in the
            trainer where `remote`.
        action_format: how a response is read.
        wordings: the texts around what the environment says, by name; the first one is
            for instruction-tuned models.
        rules: what the offline creator may propose by rule; may be empty.
        remote: the environment only waits for a network: its methods are coroutines,
            played in the trainer's process, many at once.
        content: returns the source of a task as a text that needs no file, which the
            environment plays as it plays the task's own; by default it is one already.
        service: what runs beside the environments while they are played, e.g. a server
            that they ask; entered in every trainer before the first one is made.
    """

    panel: Callable[[str, int | None], TaskPanel]
    make: Callable[[], Any]
    action_format: ActionFormat
    wordings: Mapping[str, Wording]
    rules: RuleTable = field(default_factory=RuleTable)
    remote: bool = False
    content: Callable[[Task], str] = operator.attrgetter("source")
    service: Callable[[], AbstractContextManager[None]] = nullcontext

    def portable(self, panel: TaskPanel) -> TaskPanel:
        """Return the panel with sources that need no file, for other machines."""
        return replace(
            panel,
            tasks=tuple(replace(task, source=self.content(task)) for task in panel),
        )
