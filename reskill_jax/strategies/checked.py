"""Somebody's own strategy, checked: what it gets wrong names it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from reskill_jax.rollout.context import Context, check_context, context_to_json
from reskill_jax.rollout.episode import Episode
from reskill_jax.storage import plain
from reskill_jax.strategies.base import Draw, Learned, Plan, Strategy


class CheckedStrategy:
    """Hands on what a strategy answers, if it is what it should be.

    Args:
        strategy: of a module that is not of this package.
        naming: puts what was called before whatever is raised in its context.
    """

    def __init__(
        self,
        strategy: Strategy,
        naming: Callable[[str], AbstractContextManager[None]],
    ):
        self._strategy = strategy
        self._naming = naming
        self.state()  # what JSON cannot hold is better found now than at a checkpoint

    def plan(self, step: int, draw: Draw) -> Plan:
        """Return the strategy's plan."""
        with self._naming(f"plan of step {step}"):
            plan = self._strategy.plan(step, draw)
            _check("plan", plan, Plan)
            for number, context in enumerate(plan.contexts):
                check_context(f"contexts[{number}]", context)
        return plan

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Let the strategy learn."""
        with self._naming(f"observe of step {step}"):
            learned = self._strategy.observe(step, episodes)
            _check("observe", learned, Learned)
        return learned

    @property
    def incumbent(self) -> Context:
        """The strategy's."""
        with self._naming("incumbent"):
            context = self._strategy.incumbent
            check_context("incumbent", context)
        return context

    def state(self) -> dict[str, Any]:
        """Return a copy of the strategy's state; the incumbent is saved with it."""
        incumbent = self.incumbent
        with self._naming("incumbent"):
            plain(context_to_json(incumbent), "incumbent")
        with self._naming("state"):
            state = self._strategy.state()
            _check("state", state, dict)
            return plain(state, "state()")

    def restore(self, state: dict[str, Any]) -> None:
        """Let the strategy go back to a state."""
        with self._naming("restore"):
            self._strategy.restore(state)


def _check(method: str, answer: Any, kind: type) -> None:
    if not isinstance(answer, kind):
        raise TypeError(f"{method} returned {answer!r:.80}: needs a {kind.__name__}")
