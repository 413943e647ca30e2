"""Assertions and rules for environments without a rule table, from their episodes.

A verb that most successful episodes use should occur; of two such verbs, the one that
mostly comes first should come first. Where failures differ, advice follows from it.
"""

import re
from collections.abc import Sequence
from itertools import combinations

from reskill_jax.skills.assertions import Assertion, profile
from reskill_jax.skills.checks import ActionBefore, ActionExists
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.rule import Rule
from reskill_jax.skills.skill import matches

_MOSTLY = 0.8
# Of few successes nearly every verb is in most, and every pair of verbs is an assertion
# that all records are graded by.
_MOST_VERBS = 8
_PARTICLES = {"around", "at", "down", "in", "off", "on", "out", "to", "up"}
_VERB = re.compile(r"[a-z]{2,20}( [a-z]{2,6})?")


def mine(
    records: Sequence[EpisodeRecord], known: Sequence[str]
) -> tuple[list[Assertion], list[Rule]]:
    """Derive assertions and the rules that answer their failure.

    Args:
        records: episodes of both outcomes.
        known: patterns of actions that other assertions take care of.

    Returns:
        Assertions that at least 80% of the successful episodes pass, of the eight verbs
        that most of these use, in the order in which they first use them, and one rule
        for each assertion.
    """
    successes = [record for record in records if record.success]
    first_uses = [_first_uses(record, known) for record in successes]
    turns: dict[str, list[int]] = {}
    for uses in first_uses:
        for verb, turn in uses.items():
            turns.setdefault(verb, []).append(turn)
    common = [v for v, t in turns.items() if len(t) >= _MOSTLY * len(successes)]
    # Of equally common ones those that come last: they are nearest to the success.
    common.sort(key=lambda v: (-len(turns[v]), -sum(turns[v]) / len(turns[v]), v))
    verbs = common[:_MOST_VERBS]
    verbs.sort(key=lambda verb: (sum(turns[verb]) / len(turns[verb]), verb))
    mined = [_exists(verb) for verb in verbs]
    for first, second in combinations(verbs, 2):
        assertion, rule = _before(first, second)
        passed = profile([assertion], successes)[0].success.rate
        if passed is not None and passed >= _MOSTLY:
            mined.append((assertion, rule))
    return [assertion for assertion, _ in mined], [rule for _, rule in mined]


def verb_of(action: str) -> str | None:
    """Return an action's verb with its particle ("go to"); None if it has none.

    Actions are what a model wrote: only short plain words get into a rule.
    """
    words = action.casefold().split()
    taken = 2 if len(words) > 1 and words[1] in _PARTICLES else 1
    verb = " ".join(words[:taken])
    return verb if _VERB.fullmatch(verb) else None


def _first_uses(record: EpisodeRecord, known: Sequence[str]) -> dict[str, int]:
    """Map each verb that no known pattern covers to the turn that first uses it."""
    first: dict[str, int] = {}
    for turn, action in enumerate(record.actions):
        verb = verb_of(action)
        if verb and not any(matches(pattern, action) for pattern in known):
            first.setdefault(verb, turn)
    return first


def _exists(verb: str) -> tuple[Assertion, Rule]:
    assertion = Assertion(ActionExists(_pattern(verb)), f"uses-{_slug(verb)}")
    rule = Rule(
        f"use-{_slug(verb)}",
        f"Do not forget to {verb}.",
        (
            (f"You have not used '{verb}' in this task.", f"Find out what to {verb}."),
            (f"'{verb}' is still to be done.", f"Use '{verb}' before you finish."),
        ),
        assertions=(assertion.id,),
    )
    return assertion, rule


def _before(first: str, second: str) -> tuple[Assertion, Rule]:
    name = f"{_slug(first)}-before-{_slug(second)}"
    assertion = Assertion(ActionBefore(_pattern(first), _pattern(second)), name)
    rule = Rule(
        name,
        f"Use '{first}' before '{second}'.",
        (
            (f"You are about to use '{second}'.", f"Use '{first}' before it."),
            (f"You want to {second}.", f"Check that '{first}' has been done first."),
        ),
        assertions=(assertion.id,),
    )
    return assertion, rule


def _pattern(verb: str) -> str:
    return rf"^{verb}\b"


def _slug(verb: str) -> str:
    return verb.replace(" ", "-")
