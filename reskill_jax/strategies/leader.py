"""A strategy for many processes: the first decides, all do as it says."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from reskill_jax import distributed
from reskill_jax.codec import decode, encode
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies.base import Strategy


class Leader:
    """Holds the strategy in the leader; the other processes hear what it decides.

    So statistics, random draws and calls to language models are made once, and the
    processes cannot drift apart. What only the leader writes (state, events, history,
    status) only the leader knows.
    """

    def __init__(self, make: Callable[[], Strategy]):
        """Make the leader's strategy; the others have none."""
        self._strategy = make() if distributed.is_leader() else None
        self._banks: tuple[SkillBank, ...] = ()
        self._tell_banks()

    @property
    def banks(self) -> tuple[SkillBank, ...]:
        """The leader's banks."""
        return self._banks

    def assign(self, seed: int, tasks: int, group_size: int) -> np.ndarray:
        """Assign as the leader does."""
        arms = distributed.on_leader(
            lambda: self._known().assign(seed, tasks, group_size).tolist()
        )
        return np.array(arms, np.int32)

    def trains_policy(self, step: int) -> bool:
        """Train when the leader does."""
        return distributed.on_leader(lambda: self._known().trains_policy(step))

    def observe(self, step: int, episodes: Sequence[Episode]) -> dict[str, float]:
        """Let the leader learn; all get its metrics, and its banks."""
        metrics = distributed.on_leader(lambda: self._known().observe(step, episodes))
        self._tell_banks()
        return metrics

    def state(self) -> dict[str, Any]:
        """Return the leader's state; nothing elsewhere."""
        return self._strategy.state() if self._strategy else {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state of the leader."""
        if self._strategy:
            self._strategy.restore(state)
        self._tell_banks()

    def status(self) -> str:
        """Describe the state of affairs."""
        return self._known().status()

    def take_events(self) -> list[str]:
        """Return, once, what happened since the last call."""
        return self._known().take_events()

    def history(self) -> list[dict[str, Any]]:
        """Return all decided trials, oldest first."""
        return self._known().history()

    def _known(self) -> Strategy:
        assert self._strategy is not None, "only the leader has a strategy"
        return self._strategy

    def _tell_banks(self) -> None:
        documents = distributed.on_leader(lambda: encode(self._known().banks))
        self._banks = decode(tuple[SkillBank, ...], documents)
