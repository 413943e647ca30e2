"""What a creator is shown of the past: episodes in words, and counts of all.

The `Reservoir` keeps the newest record per (task, bank, outcome), bounded, so that one
task cannot crowd out the others (paper, section 3.4). Success rates cannot be taken
from such a selection, so every episode is also counted in a `Tally` per (bank, step).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from reskill_jax.codec import decode, encode
from reskill_jax.skills.episode_record import EpisodeRecord


@dataclass
class Tally:
    """All episodes of one step on one bank, counted.

    Attributes:
        bank: content hash of the bank.
        step: training step.
        episodes: how many were played.
        successes: how many of them reached the goal.
        active_skills: in how many of them each skill fired at least once.
    """

    bank: str
    step: int
    episodes: int = 0
    successes: int = 0
    active_skills: dict[str, int] = field(default_factory=dict)

    def count(self, record: EpisodeRecord) -> None:
        """Add one episode."""
        self.episodes += 1
        self.successes += record.success
        for skill in record.skills():
            self.active_skills[skill] = self.shown(skill) + 1

    def shown(self, skill: str) -> int:
        """Return in how many of the episodes a skill was shown."""
        return self.active_skills.get(skill, 0)


class _State(TypedDict):
    records: list[EpisodeRecord]
    tallies: list[Tally]


class Reservoir:
    """Bounded memory of episodes.

    Args:
        capacity: most records held.
        window: how many steps back `records` and `tallies` reach.
        failure_share: share of failures in a full reservoir, as far as there are enough
            of each outcome.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, capacity: int = 200, window: int = 20, failure_share: float = 0.7
    ):
        if capacity < 2:
            raise ValueError(f"capacity={capacity}: must be 2 or more")
        if window < 1:
            raise ValueError(f"window={window}: must be 1 or more")
        if not 0 < failure_share < 1:
            raise ValueError(f"failure_share={failure_share}: must be in (0, 1)")
        self._capacity = capacity
        self._window = window
        self._failure_share = failure_share
        # Insertion order is age: a newer record of the same key moves to the end.
        self._records: dict[tuple[str, str, bool], EpisodeRecord] = {}
        self._tallies: dict[tuple[str, int], Tally] = {}

    def add(self, records: Iterable[EpisodeRecord]) -> None:
        """Take in the episodes of a step, in their order in the batch."""
        for record in records:
            key = (record.task, record.bank, record.success)
            self._records.pop(key, None)
            self._records[key] = record
            if len(self._records) > self._capacity:
                self._evict()
            tally = Tally(record.bank, record.step)
            self._tallies.setdefault((record.bank, record.step), tally).count(record)
        newest = max((step for _, step in self._tallies), default=0)
        self._tallies = {
            key: tally
            for key, tally in self._tallies.items()
            if tally.step > newest - self._window
        }

    def records(self, step: int) -> tuple[EpisodeRecord, ...]:
        """Return the records of the last `window` steps up to `step`, oldest first."""
        return tuple(
            r for r in self._records.values() if step - self._window < r.step <= step
        )

    def tallies(self, step: int) -> tuple[Tally, ...]:
        """Return the counts of the last `window` steps up to `step`, oldest first."""
        return tuple(
            t for t in self._tallies.values() if step - self._window < t.step <= step
        )

    def state(self) -> dict[str, Any]:
        """Return everything held, as JSON types for the checkpoint."""
        return encode(
            _State(
                records=list(self._records.values()),
                tallies=list(self._tallies.values()),
            )
        )

    def restore(self, state: Mapping[str, Any]) -> None:
        """Hold exactly what `state` says; the inverse of `state`."""
        held = decode(_State, state, name="reservoir")
        self._records = {(r.task, r.bank, r.success): r for r in held["records"]}
        self._tallies = {(tally.bank, tally.step): tally for tally in held["tallies"]}

    def _evict(self) -> None:
        """Drop the oldest record of the outcome that exceeds its share."""
        failures = sum(not success for _, _, success in self._records)
        crowded = failures > self._failure_share * self._capacity
        oldest = next(key for key in self._records if key[2] is not crowded)
        del self._records[oldest]
