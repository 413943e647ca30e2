"""A context that never changes: plain GRPO, and a fixed skill bank."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reskill_jax.rollout.context import BankContext, Context, EmptyContext
from reskill_jax.rollout.episode import Episode
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup


def make(setup: Setup, *, use_bank: bool = True) -> "Static":
    """Make the strategy; without a bank it is plain GRPO.

    Raises:
        ValueError: `settings.bank` is not a directory of skills.
    """
    context: Context = EmptyContext()
    if use_bank:
        context = BankContext(setup.load_bank())
    return Static(context, setup.tasks_per_step, setup.group_size)


@dataclass(frozen=True)
class Static:
    """One context for everyone, for ever; with an empty one, plain GRPO."""

    context: Context
    tasks_per_step: int
    group_size: int

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks on the one context."""
        return Plan.alike(draw(self.tasks_per_step), self.context, self.group_size)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Learn nothing."""
        return Learned()

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
