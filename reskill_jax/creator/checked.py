"""Somebody's own creator, checked: what it gets wrong names it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from reskill_jax.creator.proposal import (
    Creator,
    Evidence,
    Pending,
    Proposal,
    check_metrics,
    check_proposal,
)
from reskill_jax.storage import plain


class CheckedCreator:
    """Hands on what a creator answers, if it is what it should be.

    Args:
        creator: of a module that is not of this package.
        naming: puts what was called before whatever is raised in its context.
    """

    def __init__(
        self,
        creator: Creator,
        naming: Callable[[str], AbstractContextManager[None]],
    ):
        self._creator = creator
        self._naming = naming
        self.state()  # what JSON cannot hold is better found now than at a checkpoint

    def propose(self, evidence: Evidence) -> Proposal | Pending | None:
        """Return the creator's proposal."""
        with self._naming("propose"):
            proposal = self._creator.propose(evidence)
            check_proposal(proposal)
        return proposal

    def take_metrics(self) -> dict[str, float]:
        """Return the creator's metrics."""
        with self._naming("take_metrics"):
            metrics = self._creator.take_metrics()
            check_metrics("metrics", metrics)
        return metrics

    def state(self) -> dict[str, Any]:
        """Return a copy of the creator's state."""
        with self._naming("state"):
            return plain(self._creator.state(), "state()")

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let the creator go back to a state."""
        with self._naming("restore"):
            self._creator.restore(state)
