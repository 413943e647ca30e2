"""What SkillRL learns from: whole episodes, each with its outcome and type of task."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest

from reskill_jax.memories.skill_entries import Entry, tokens
from reskill_jax.skills.episode_record import EpisodeRecord


@dataclass
class SkillEvidence:
    """The episodes since the last time that skills were written.

    Of a task, the shortest success and the failure of the lowest return are kept.

    Attributes:
        counts: by type of task, successes and episodes.
        won: by task.
        lost: by task, with its return.
    """

    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    won: dict[str, EpisodeRecord] = field(default_factory=dict)
    lost: dict[str, tuple[EpisodeRecord, float]] = field(default_factory=dict)

    def add(self, record: EpisodeRecord, reward: float) -> None:
        """Count an episode, and keep it where it says more than what is kept."""
        successes, played = self.counts.get(record.kind, (0, 0))
        self.counts[record.kind] = (successes + record.success, played + 1)
        if record.success:
            known = self.won.get(record.task)
            if known is None or len(record.actions) < len(known.actions):
                self.won[record.task] = record
        elif record.task not in self.lost or reward < self.lost[record.task][1]:
            self.lost[record.task] = (record, reward)

    def weak(self, below: float, least: int) -> list[str]:
        """Return the types of tasks whose success rate is known and low.

        Args:
            below: the rate.
            least: episodes of a type that its rate needs.
        """
        return sorted(
            kind
            for kind, (successes, played) in self.counts.items()
            if played >= least and successes / played < below
        )

    def rate(self) -> float:
        """Return the success rate of all episodes."""
        played = sum(count for _, count in self.counts.values())
        return sum(count for count, _ in self.counts.values()) / max(played, 1)

    def failures(self, kinds: Sequence[str], count: int) -> list[EpisodeRecord]:
        """Return failed episodes, one per task: types by turns, lowest return first."""
        columns = []
        for kind in kinds:
            own = [pair for pair in self.lost.values() if pair[0].kind == kind]
            own.sort(key=lambda pair: (pair[1], pair[0].task))
            columns.append([record for record, _ in own])
        return _by_turns(columns, count)

    def successes(self, kinds: Sequence[str], count: int) -> list[EpisodeRecord]:
        """Return successful episodes, one per task: types by turns, shortest first."""
        columns = [
            sorted(
                (record for record in self.won.values() if record.kind == kind),
                key=lambda record: (len(record.actions), record.task),
            )
            for kind in kinds
        ]
        return _by_turns(columns, count)


def compression(
    records: Sequence[EpisodeRecord], entries: Sequence[Entry]
) -> dict[str, float]:
    """Tell how much shorter skills are than the episodes that they were written from.

    Returns:
        Mean tokens per skill, and those of an episode over it (published: 10 to 20);
        nothing where there are no skills or no episodes.
    """
    if not records or not entries:
        return {}
    episode = sum(map(_episode_tokens, records)) / len(records)
    skill = sum(tokens(entry.text) for entry in entries) / len(entries)
    return {
        "skillrl/tokens_per_skill": skill,
        "skillrl/compression": episode / skill,
    }


def _episode_tokens(record: EpisodeRecord) -> int:
    return tokens("\n".join([record.goal, *record.observations, *record.actions]))


def _by_turns(
    columns: Iterable[Sequence[EpisodeRecord]], count: int
) -> list[EpisodeRecord]:
    rows = chain.from_iterable(zip_longest(*columns))
    return [record for record in rows if record is not None][:count]
