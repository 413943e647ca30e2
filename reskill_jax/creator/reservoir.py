"""What a creator is shown of the past: episodes in words, and counts of all.

The `Reservoir` keeps the newest record per (task, bank, outcome) of the last steps,
bounded (paper, section 3.4). Where there are more, failures keep their share, and
steps, the banks of a step, and tasks are represented evenly; lots are drawn between
what is left, so that no place in a batch is preferred. Success rates cannot be taken
from such a selection, so every episode is also counted in a `Tally` per (bank, step).
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
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

    Attributes:
        window: see the argument.

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
        self.window = window
        self._capacity = capacity
        self._failure_share = failure_share
        # Insertion order is age: a newer record of the same key moves to the end.
        self._records: dict[tuple[str, str, bool], EpisodeRecord] = {}
        self._tallies: dict[tuple[str, int], Tally] = {}

    def add(self, records: Iterable[EpisodeRecord]) -> None:
        """Take in the episodes of a step, in their order in the batch.

        Only whole steps are to be added: what is kept is chosen at the end.
        """
        for record in records:
            key = _key(record)
            self._records.pop(key, None)
            self._records[key] = record
            tally = Tally(record.bank, record.step)
            self._tallies.setdefault((record.bank, record.step), tally).count(record)
        newest = max((step for _, step in self._tallies), default=0)
        oldest = newest - self.window + 1
        self._tallies = {k: t for k, t in self._tallies.items() if t.step >= oldest}
        recent = [r for r in self._records.values() if r.step >= oldest]
        kept = set(map(_key, _represent(recent, self._capacity, self._failure_share)))
        self._records = {k: r for k, r in self._records.items() if k in kept}

    def most(self, tasks: int, *, both_outcomes: bool = True) -> int:
        """Return how many records there can be while all play on one bank.

        Args:
            tasks: different ones in `window` steps.
            both_outcomes: whether each is both won and lost.
        """
        return min(self._capacity, tasks * (1 + both_outcomes))

    def records(self, step: int) -> tuple[EpisodeRecord, ...]:
        """Return the records of the last `window` steps up to `step`, oldest first."""
        return tuple(
            r for r in self._records.values() if step - self.window < r.step <= step
        )

    def tallies(self, step: int) -> tuple[Tally, ...]:
        """Return the counts of the last `window` steps up to `step`, oldest first."""
        return tuple(
            t for t in self._tallies.values() if step - self.window < t.step <= step
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


def _key(record: EpisodeRecord) -> tuple[str, str, bool]:
    return record.task, record.bank, record.success


def _represent(
    records: Sequence[EpisodeRecord], room: int, failure_share: float
) -> Iterator[EpisodeRecord]:
    """Choose records of both outcomes, so that failures have their share."""
    won = [record for record in records if record.success]
    lost = [record for record in records if not record.success]
    failures = min(len(lost), max(int(failure_share * room), room - len(won)))
    yield from _spread(lost, failures)
    yield from _spread(won, room - failures)


def _spread(records: Sequence[EpisodeRecord], room: int) -> Iterator[EpisodeRecord]:
    """Choose records evenly over steps, of each step over banks, and over tasks."""
    chosen: Counter[str] = Counter()  # by task
    for of_step, room_of_step in _shares(records, lambda record: record.step, room):
        for stratum, most in _shares(of_step, lambda r: r.bank, room_of_step):
            order = sorted(stratum, key=lambda r: (chosen[r.task], _lot(r)))
            yield from order[:most]
            chosen.update(record.task for record in order[:most])


def _shares(
    records: Sequence[EpisodeRecord],
    kind: Callable[[EpisodeRecord], Hashable],
    room: int,
) -> list[tuple[list[EpisodeRecord], int]]:
    """Divide records by kind, and the room evenly between kinds as far as they fill it.

    Kinds come from the newest to the oldest, and what is left over goes to the newest.
    """
    groups: dict[Hashable, list[EpisodeRecord]] = defaultdict(list)
    for record in reversed(records):
        groups[kind(record)].append(record)
    shares = dict.fromkeys(groups, 0)
    left = min(room, len(records))
    while left:
        for key, group in groups.items():
            if left and shares[key] < len(group):
                shares[key] += 1
                left -= 1
    return [(group, shares[key]) for key, group in groups.items()]


def _lot(record: EpisodeRecord) -> bytes:
    """Draw lots, the same for all episodes of a task at a step.

    So a win and a loss of one task stay together, which say most side by side.
    """
    return blake2b(f"{record.step}/{record.task}".encode(), digest_size=8).digest()
