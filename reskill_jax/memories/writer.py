"""What methods have written beside skills: lessons, scripts, rules, instructions.

A `Writer` is to these methods what a `Creator` is to skills. It sees recorded episodes,
never a task's answer or hidden state. `OfflineWriter` follows the environment's rule
table and needs no network; `llm_writer.LlmWriter` asks a language model.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from reskill_jax.creator.mining import verb_of
from reskill_jax.llm.sanitize import clean
from reskill_jax.memories.offline_skills import distil
from reskill_jax.memories.ranking import words
from reskill_jax.memories.rules import RuleEdit
from reskill_jax.memories.skill_entries import Entry, EntryEdit
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.rule import Rule, RuleTable

LESSON = 400  # most characters of a lesson, rule or principle
SCRIPT = 600
INSTRUCTION = 1200
STEPS = 5  # of a script


class Writer(Protocol):
    """Writes what it is asked for; "" or nothing where it has nothing to say."""

    def begin(self, step: int) -> None:
        """Begin the work of a training step; its calls are found by this number."""
        ...

    def lesson(self, record: EpisodeRecord, earlier: Sequence[str]) -> str:
        """Say what a failed episode teaches, beyond what was said earlier."""
        ...

    def script(self, record: EpisodeRecord) -> str:
        """Put what a successful episode did into three to five steps."""
        ...

    def principle(self, record: EpisodeRecord) -> str:
        """Say in general what an episode teaches, whether it was won or lost."""
        ...

    def same(self, first: str, second: str) -> bool:
        """Tell whether two principles mean the same."""
        ...

    def edits(
        self,
        rules: Sequence[str],
        won: Sequence[EpisodeRecord],
        lost: Sequence[EpisodeRecord],
    ) -> tuple[RuleEdit, ...]:
        """Say how a list of rules should change after these episodes."""
        ...

    def instructions(
        self, current: str, failures: Sequence[EpisodeRecord], count: int
    ) -> tuple[str, ...]:
        """Write at most `count` better instructions than `current`, which failed so."""
        ...

    def skills(
        self,
        known: Sequence[Entry],
        won: Sequence[EpisodeRecord],
        lost: Sequence[EpisodeRecord],
        kinds: Sequence[str],
        count: int,
    ) -> tuple[EntryEdit, ...]:
        """Say what these episodes teach that a library does not hold.

        A language model proposes at most `count` edits; `kinds` are the types of tasks.
        """
        ...

    def take_metrics(self) -> dict[str, float]:
        """Return, once, what was counted since the last call, by metric."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart, as JSON types."""
        ...

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        ...


@dataclass(frozen=True)
class OfflineWriter:
    """Writes by rule: a function of what it is shown, without state.

    Attributes:
        table: of the environment; with the empty one it writes of verbs and repeats.
    """

    table: RuleTable = field(default_factory=RuleTable)

    def begin(self, step: int) -> None:
        """Do nothing: it makes no calls."""

    def lesson(self, record: EpisodeRecord, earlier: Sequence[str]) -> str:
        """Word the first rule that answers what went wrong and was not said yet."""
        known = {clean(text, LESSON) for text in earlier}
        for text in self._lessons(record):
            if (text := clean(text, LESSON)) not in known:
                return text
        return ""

    def script(self, record: EpisodeRecord) -> str:
        """List the last actions, of actions with one verb in a row the last one."""
        grouped = groupby(record.actions, lambda action: verb_of(action) or action)
        last = [clean([*actions][-1], 120) for _, actions in grouped][-STEPS:]
        text = "; ".join(f"{n}. {action}" for n, action in enumerate(last, 1))
        return clean(text, SCRIPT)

    def principle(self, record: EpisodeRecord) -> str:
        """Give the order of verbs that won, or the lesson of what was lost."""
        if not record.success:
            return self.lesson(record, ())
        verbs = [verb for action in record.actions if (verb := verb_of(action))]
        order = [verb for verb, _ in groupby(verbs)][-STEPS:]
        return clean(f"What works: {', then '.join(order)}.", LESSON) if order else ""

    def same(self, first: str, second: str) -> bool:
        """Compare the words."""
        return words(first) == words(second)

    def edits(
        self,
        rules: Sequence[str],
        won: Sequence[EpisodeRecord],
        lost: Sequence[EpisodeRecord],
    ) -> tuple[RuleEdit, ...]:
        """Add what the episodes teach, or agree with the rule that says it already."""
        said = [self.principle(record) for record in (*lost, *won)]
        found: list[RuleEdit] = []
        for text in dict.fromkeys(text for text in said if text):
            if text in rules:
                found.append(RuleEdit("agree", list(rules).index(text)))
            else:
                found.append(RuleEdit("add", text=text))
        return tuple(found)

    def instructions(
        self, current: str, failures: Sequence[EpisodeRecord], count: int
    ) -> tuple[str, ...]:
        """Append to the current one, by turns, a lesson that it lacks."""
        lessons = dict.fromkeys(
            clean(text, LESSON) for record in failures for text in self._lessons(record)
        )
        made = [
            clean(f"{current} {text}".strip(), INSTRUCTION)
            for text in lessons
            if text not in current
        ]
        return tuple(made[:count])

    def skills(
        self,
        known: Sequence[Entry],
        won: Sequence[EpisodeRecord],
        lost: Sequence[EpisodeRecord],
        kinds: Sequence[str],
        count: int,
    ) -> tuple[EntryEdit, ...]:
        """Distil by rule; all that is found, since duplicates are refused later."""
        return distil(self.table, known, won, lost)

    def take_metrics(self) -> dict[str, float]:
        """Return nothing: it spends nothing that counts."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing, see `state`."""

    def _lessons(self, record: EpisodeRecord) -> Iterator[str]:
        """Yield what a failed episode teaches, the likeliest first, never nothing."""
        for assertion in self.table.assertions:
            if assertion.grade(record) is False:
                answers = [r for r in self.table.rules if assertion.id in r.assertions]
                for rule in sorted(
                    answers, key=lambda r: r.assertions.index(assertion.id)
                ):
                    yield from _wordings(rule)
        if not record.actions:
            yield "Act: an episode without actions reaches nothing."
            return
        counts = {action: record.actions.count(action) for action in record.actions}
        most = max(counts, key=lambda action: counts[action])
        if counts[most] > 2:
            yield f"'{most}' was tried {counts[most]} times: try something else."
        yield f"'{record.actions[-1]}' was not the end: go on in another way."


def _wordings(rule: Rule) -> Iterator[str]:
    for when_to_use, action in rule.wordings:
        yield f"{when_to_use} {action}"
