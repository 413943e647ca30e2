"""Two stages instead of co-evolution: first the one, then the other (ablations)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup, Strategy
from reskill_jax.strategies.lifecycle import lifecycle_of

Order = Literal["skill_first", "policy_first"]


@dataclass
class Staged:
    """Lets skills evolve for a frozen policy, and the policy learn with a fixed bank.

    Attributes:
        strategy: evolves the skills; a trial that runs when its stage ends is not
            decided, its candidate is not used any more.
        setup: of the run.
        first: how many steps the first stage takes; a resumed run keeps that of its
            start, also when it is made longer.
        order: which stage comes first.
        status: the skills' state.
    """

    strategy: Strategy
    setup: Setup = field(repr=False)
    first: int
    order: Order
    status: str = ""

    @property
    def incumbent(self) -> Context:
        """The strategy's."""
        return self.strategy.incumbent

    def plan(self, step: int, draw: Draw) -> Plan:
        """Plan as the strategy does while skills evolve; else all on the one bank."""
        if self._trains_policy(step):
            tasks = draw(self.setup.tasks_per_step)
            return Plan.alike(tasks, self.incumbent, self.setup.group_size)
        return self.strategy.plan(step, draw).frozen()

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Learn about skills in their stage only; tell of them in both."""
        if self._trains_policy(step):
            metrics = lifecycle_of(self.incumbent, episodes)
            return Learned(metrics, status=self.status)
        learned = self.strategy.observe(step, episodes)
        self.status = learned.status
        return learned

    def state(self) -> dict[str, Any]:
        """Return the strategy's state and the length of the first stage."""
        return {
            "first": self.first,
            "status": self.status,
            "strategy": self.strategy.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.first = state["first"]
        self.status = state["status"]
        self.strategy.restore(state["strategy"])

    def _trains_policy(self, step: int) -> bool:
        """Tell in which stage a step is; the first step is 1."""
        return (step <= self.first) != (self.order == "skill_first")
