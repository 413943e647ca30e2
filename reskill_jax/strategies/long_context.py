"""Long context: a frozen policy reads the whole bank, and its own successes.

What it is shown before each task is the bank, if there is one, then successful training
episodes, newest first, up to a budget of characters.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypedDict

from reskill_jax.codec import decode, encode
from reskill_jax.memories.settings import ShelfSettings
from reskill_jax.memories.shelf import LongContext
from reskill_jax.memories.texts import trajectory
from reskill_jax.rollout.context import Context
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.base import Draw, Learned, Plan, Setup


def make(setup: Setup) -> "LongContextStrategy":
    """Make the strategy."""
    return LongContextStrategy(setup)


class _State(TypedDict):
    bank: str
    episodes: tuple[EpisodeRecord, ...]


class LongContextStrategy:
    """Keeps the newest successes, one per task."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._settings = ShelfSettings(**setup.settings["shelf"])
        self._context = LongContext(
            setup.load_bank(), characters=self._settings.characters
        )

    @property
    def incumbent(self) -> Context:
        """All that is kept."""
        return self._context

    def plan(self, step: int, draw: Draw) -> Plan:
        """Play the next tasks on it; the policy learns nothing."""
        tasks = draw(self._setup.tasks_per_step)
        size = self._setup.group_size
        return Plan.alike(tasks, self._context, size, train=False)

    def observe(self, step: int, episodes: Sequence[Episode]) -> Learned:
        """Keep the newest successes."""
        played = {e.task.id: e.task for e in episodes}
        shown = {key: self._context.text(task) for key, task in played.items()}
        left_out = [missing > 0 for _, missing in shown.values()]
        read = sum(bool(shown[episode.task.id][0]) for episode in episodes)
        won: dict[str, EpisodeRecord] = {}
        for episode in episodes:
            record = episode.record(step)
            known = won.get(record.task)
            if record.success and (
                known is None or len(trajectory(record)) < len(trajectory(known))
            ):
                won[record.task] = record
        older = (e for e in self._context.episodes if e.task not in won)
        kept = (*reversed(won.values()), *older)[: self._settings.episodes]
        self._context = replace(self._context, episodes=kept)
        metrics = {
            "memory/items": float(len(kept)),
            "memory/written": float(len(won)),
            "memory/read": float(read),
        }
        if left_out:
            metrics["memory/truncated"] = sum(left_out) / len(left_out)
        return Learned(metrics, status=f"{len(kept)} episodes")

    def state(self) -> dict[str, Any]:
        """Return what is kept; the bank by its hash."""
        context = self._context
        return encode(_State(bank=context.bank.hash, episodes=context.episodes))

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state.

        Raises:
            ValueError: the bank is not the one that the run began with.
        """
        held = decode(_State, state, name="strategy")
        if held["bank"] != self._context.bank.hash:
            raise ValueError(
                f"the run began on the bank {held['bank']}, its content now has the "
                f"hash {self._context.bank.hash}: put the old files back, or choose "
                "another --workdir"
            )
        self._context = replace(self._context, episodes=held["episodes"])
