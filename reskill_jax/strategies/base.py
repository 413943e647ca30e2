"""The one seam for every method: what is played, on which contexts, what is learnt.

GRPO is the strategy with one empty context; a static library is one bank that never
changes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from reskill_jax.creator.proposal import Creator, check_metrics
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.memories.desk import Desk, Work
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.storage import plain

# Returns the next so many tasks of the training panel; see `panels.TaskStream`.
Draw = Callable[[int], Sequence[Task]]

NOT_PLAYED = -1  # in `Plan.arms`


@dataclass(frozen=True)
class Plan:
    """What a step plays.

    Attributes:
        tasks: one per group; usually drawn, but a strategy may name others, or none.
        contexts: by arm.
        arms: int32 [B, G], the context of every rollout; `NOT_PLAYED` for none. G is
            usually `Setup.group_size`; it may be another, also from step to step.
        train: bool [B], whether the policy learns from a group. Where it learns from
            none, weights and the engine's caches stay as they are.
        effects: by context, what it is expected to add to the success rate of the
            first, by what earlier steps have shown; (): nothing is known. Some
            estimators of advantages take it off.

    Raises:
        TypeError: a part is of another type.
        ValueError: the parts do not fit each other.
    """

    tasks: tuple[Task, ...]
    contexts: tuple[Context, ...]
    arms: np.ndarray
    train: np.ndarray
    effects: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check the parts' types, and that they fit each other."""
        _check_tuple("tasks", self.tasks, Task)
        _check_tuple("contexts", self.contexts, object)
        _check_array("arms", self.arms, np.integer, "int32 [B, G]")
        _check_array("train", self.train, np.bool_, "bool [B]")
        groups, contexts, arms = len(self.tasks), len(self.contexts), self.arms
        if arms.ndim != 2 or len(arms) != groups or self.train.shape != (groups,):
            raise ValueError(
                f"a plan of {groups} tasks needs arms [{groups}, G] and train "
                f"[{groups}]; they are {[*arms.shape]} and {[*self.train.shape]}"
            )
        _check_tuple("effects", self.effects, float)
        if (
            len(self.effects) not in (0, contexts)
            or not np.isfinite(self.effects).all()
        ):
            raise ValueError(
                f"effects={self.effects}: needs a finite number for each of the "
                f"{contexts} contexts, or none at all"
            )
        wrong = arms[(arms < NOT_PLAYED) | (arms >= contexts)]
        if wrong.size:
            raise ValueError(
                f"arms hold {wrong[0]}: with {contexts} contexts they are 0 to "
                f"{contexts - 1}, or {NOT_PLAYED} for a rollout that is not played"
            )
        empty = np.flatnonzero(self.train & (arms == NOT_PLAYED).all(1))
        if empty.size:
            raise ValueError(
                f"train[{empty[0]}] is True, but no rollout of that group is played: "
                "make it False"
            )

    @property
    def training_groups(self) -> tuple[int, ...]:
        """Indices of the groups that the policy learns from."""
        return tuple(np.flatnonzero(self.train).tolist())

    def frozen(self) -> "Plan":
        """Return the same plan, of which the policy learns nothing."""
        return replace(self, train=np.zeros(len(self.tasks), bool))

    @classmethod
    def alike(
        cls,
        tasks: Sequence[Task],
        context: Context,
        group_size: int,
        *,
        train: bool = True,
    ) -> "Plan":
        """Plan that everybody plays on one context; the policy learns if `train`."""
        return cls(
            tasks=tuple(tasks),
            contexts=(context,),
            arms=np.zeros((len(tasks), group_size), np.int32),
            train=np.full(len(tasks), train),
        )


@dataclass(frozen=True)
class Learned:
    """What came of a step's episodes.

    Attributes:
        metrics: for the log.
        events: what happened, one line each, e.g. that a trial began or was decided.
        decisions: trials decided at this step, as JSON documents.
        status: the state of affairs in a few words, for the progress line.
        on_trial: candidates that are on trial now, as JSON documents.

    Raises:
        TypeError: a part is of another type.
        ValueError: a decision holds a number that is not finite.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    events: tuple[str, ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()
    status: str = ""
    on_trial: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        """Check the parts' types."""
        check_metrics("metrics", self.metrics)
        _check_tuple("events", self.events, str)
        _check_tuple("decisions", self.decisions, dict)
        for number, decision in enumerate(self.decisions):
            plain(decision, f"decisions[{number}]")
        _check_tuple("on_trial", self.on_trial, dict)
        for number, candidate in enumerate(self.on_trial):
            plain(candidate, f"on_trial[{number}]")
        if not isinstance(self.status, str):
            raise TypeError(f"status={self.status!r:.80}: needs a str")


def _check_array(name: str, value: Any, kind: type, wanted: str) -> None:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}={value!r:.80}: needs a numpy array, {wanted}")
    if not np.issubdtype(value.dtype, kind):
        raise TypeError(f"{name} is {value.dtype} {[*value.shape]}: needs {wanted}")


def _check_tuple(name: str, values: Any, kind: type) -> None:
    if not isinstance(values, list | tuple):
        raise TypeError(f"{name}={values!r:.80}: needs a tuple")
    for number, value in enumerate(values):
        if not isinstance(value, kind):
            raise TypeError(f"{name}[{number}]={value!r:.80}: needs a {kind.__name__}")


class Strategy(Protocol):
    """A method's decisions, between rollouts and updates.

    Of several processes, the leader has the strategy and the others are told.
    """

    def plan(self, step: int, draw: Draw) -> Plan:
        """Decide what a step plays."""
        ...

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Learn from the episodes of the step's plan, ordered by group and index.

        Groups whose environment failed are missing, all of them at worst.
        """
        ...

    @property
    def incumbent(self) -> Context:
        """The context that evaluation uses: the accepted one, never one on trial."""
        ...

    def state(self) -> dict[str, Any]:
        """Return everything that changes, as a JSON document."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        ...


@dataclass(frozen=True)
class Setup:
    """What a strategy can be made of.

    Attributes:
        settings: the section `strategy` of the configuration.
        trial: the section `trial`.
        seed: of the run.
        num_steps: steps of the run.
        tasks_per_step: groups that a step usually has.
        group_size: rollouts per task.
        panel: gives the task panel of a split, see `EnvironmentSpec.panel`.
        bank_problem: says why a bank has no room in prompts; "" where it has.
        make_creator: makes the creator that the configuration names; its argument
            tells whether it analyses episodes (ablation).
        resources: what contexts need and JSON cannot hold, by name.
        make_desk: makes what writes texts for the strategy, by the rules of the
            environment or with the creator's language model; its arguments do a job,
            and tell whether it is waited for, see `waits`.
        split: whose tasks are drawn.
        frozen: whether the policy never learns, whatever plans say (adaptation).
    """

    settings: Mapping[str, Any]
    trial: Mapping[str, Any]
    seed: int
    num_steps: int
    tasks_per_step: int
    group_size: int
    panel: Callable[[str, int | None], TaskPanel]
    bank_problem: Callable[[SkillBank], str]
    make_creator: Callable[[bool], Creator]
    resources: Mapping[str, Any] = field(default_factory=dict)
    make_desk: Callable[[Work, bool], Desk] = lambda work, wait: Desk(
        OfflineWriter(), work, wait=wait
    )
    split: str = "train"
    frozen: bool = False

    def load_bank(self) -> SkillBank:
        """Load the bank that the settings name, an empty one where they name none.

        Raises:
            ValueError: it is not a directory of skills, or has no room in prompts.
        """
        if not (directory := self.settings["bank"]):
            return SkillBank()
        bank = load_bank(Path(directory))
        if problem := self.bank_problem(bank):
            raise ValueError(f"bank={directory!r}: {problem}")
        return bank


def waits(setup: Setup, train: bool) -> bool:
    """Tell whether a writer is waited for: a frozen policy has nothing else to do.

    Args:
        setup: of the run.
        train: whether the strategy's plans train the policy.
    """
    return setup.frozen or not train
