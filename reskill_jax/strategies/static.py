"""A context that never changes: plain GRPO, ReAct, and a fixed skill bank.

ReAct is the frozen policy without skills. Of a fixed bank, all skills are shown when
they are triggered, or some that are chosen for the task, at its start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reskill_jax.memories.settings import ShelfSettings
from reskill_jax.memories.shelf import ChosenSkills
from reskill_jax.rollout.context import BankContext, Context, EmptyContext
from reskill_jax.rollout.episode import Episode
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup
from reskill_jax.strategies.lifecycle import lifecycle_of

Show = Literal["none", "triggered", "bm25", "random"]


def make(setup: Setup, *, show: Show = "triggered", train: bool = True) -> "Static":
    """Make the strategy.

    Args:
        setup: of the run.
        show: which skills of the bank: none, those that are triggered at a turn, or
            some that are chosen for the task.
        train: whether the policy learns.

    Raises:
        ValueError: `settings.bank` is not a directory of skills.
    """
    context: Context = EmptyContext()
    if show == "triggered":
        context = BankContext(setup.load_bank())
    elif show != "none":
        count = ShelfSettings(**setup.settings["shelf"]).count
        context = ChosenSkills(setup.load_bank(), show, count, setup.seed)
    return Static(context, setup.tasks_per_step, setup.group_size, train)


@dataclass(frozen=True)
class Static:
    """One context for everyone, for ever; with an empty one, plain GRPO or ReAct."""

    context: Context
    tasks_per_step: int
    group_size: int
    train: bool = True

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks on the one context."""
        tasks = draw(self.tasks_per_step)
        return Plan.alike(tasks, self.context, self.group_size, train=self.train)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Learn nothing; of a bank, tell what the policy does with it."""
        return Learned(lifecycle_of(self.context, episodes))

    @property
    def incumbent(self) -> Context:
        """The one context."""
        return self.context

    def state(self) -> dict[str, Any]:
        """Return what a resumed run must find unchanged: the context's hash."""
        return {"context": self.context.hash}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: the context is not the one that the run began with.
        """
        if state["context"] != self.context.hash:
            raise ValueError(
                f"the run began on the context {state['context']}, its content now has "
                f"the hash {self.context.hash}: put the old files back, or choose "
                "another --workdir"
            )
