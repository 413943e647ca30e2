"""Distils skills from episodes by rule: no language model, no network.

Differential processing (SkillRL, 2602.08234, section 3.1): successes give strategies,
failures give lessons, and actions that were repeated in vain, or were none, give
mistakes.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, groupby, zip_longest

from reskill_jax.creator.mining import verb_of
from reskill_jax.llm.sanitize import clean
from reskill_jax.memories.skill_entries import GENERAL, MISTAKES, Entry, EntryEdit
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.rule import Rule, RuleTable

_REPEATS = 3  # of one action, that make a mistake
_STEPS = 6  # of a strategy
_TITLE, _TEXT = 80, 280  # most characters


def distil(
    table: RuleTable,
    known: Sequence[Entry],
    won: Sequence[EpisodeRecord],
    lost: Sequence[EpisodeRecord],
) -> tuple[EntryEdit, ...]:
    """Return what these episodes teach beyond what is known, types of tasks by turns.

    Args:
        table: of the environment; with the empty one it speaks of verbs and repeats.
        known: entries that there are.
        won: successful episodes.
        lost: failed ones.
    """
    ids = {entry.id for entry in known}
    kinds = sorted({record.kind for record in (*won, *lost)})
    columns = [
        [
            *chain.from_iterable(_lessons(table, r) for r in lost if r.kind == kind),
            *(_strategy(r) for r in won if r.kind == kind),
        ]
        for kind in kinds
    ]
    rows = chain.from_iterable(zip_longest(*columns))
    found = {e.id: e for e in rows if e is not None and e.principle and e.id not in ids}
    return tuple(EntryEdit("add", entry) for entry in found.values())


def _lessons(table: RuleTable, record: EpisodeRecord) -> Iterator[Entry]:
    """Yield what a failed episode teaches, the likeliest first."""
    for assertion in table.assertions:
        if assertion.grade(record) is False:
            # What is checked for some goals only is a matter of the type of task.
            category = _category(record) if assertion.goal else GENERAL
            answers = [r for r in table.rules if assertion.id in r.assertions]
            for rule in sorted(answers, key=lambda r: r.assertions.index(assertion.id)):
                yield _of_rule(rule, category)
    for action, times in _repeated(record):
        yield Entry(
            MISTAKES,
            clean(f"Repeating '{action}'.", _TITLE),
            "Try another action when one has changed nothing.",
            f"It was tried {times} times in an episode that failed.",
        )
        break
    if 2 * sum(record.valid) < len(record.valid):
        yield Entry(
            MISTAKES,
            "Writing what is not understood.",
            "Write one action, in the form that is asked for.",
            "Most actions of an episode that failed were not understood.",
        )


def _category(record: EpisodeRecord) -> str:
    """Return the type of the task; where there are no types all are of one."""
    return record.kind or GENERAL


def _of_rule(rule: Rule, category: str) -> Entry:
    when, action = rule.wordings[0]
    return Entry(
        category,
        clean(rule.description.rstrip("."), _TITLE),
        clean(action, _TEXT),
        clean(when, _TEXT),
    )


def _repeated(record: EpisodeRecord) -> list[tuple[str, int]]:
    """Return actions that were done again and again, the most frequent first."""
    counts = {action: record.actions.count(action) for action in record.actions}
    many = [(clean(a, 50), n) for a, n in counts.items() if n >= _REPEATS and a.strip()]
    return sorted(many, key=lambda pair: (-pair[1], pair[0]))


def _strategy(record: EpisodeRecord) -> Entry:
    """Say in which order a success did things; with no principle where it did none."""
    verbs = [verb for action in record.actions if (verb := verb_of(action))]
    order = [verb for verb, _ in groupby(verbs)][-_STEPS:]
    return Entry(
        _category(record),
        clean(f"Order that works: {order[0]} first" if order else "", _TITLE),
        clean(f"Act in this order: {', then '.join(order)}." if order else "", _TEXT),
        clean(f"The task is like: {record.goal}", 120),
    )
