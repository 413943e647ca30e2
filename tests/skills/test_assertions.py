"""Assertions apply where they should, have stable ids, and rates count what applies."""

import pytest
from text_episodes import acts

from reskill_jax.codec import decode
from reskill_jax.skills.assertions import Assertion, AssertionSet, Rate, profile
from reskill_jax.skills.checks import ActionBefore, ActionExists, MaxSteps

HEAT = Assertion(
    ActionExists("^heat "), "heats", goal=r"\bhot\b", given=ActionExists("^take ")
)


@pytest.mark.parametrize(
    ("actions", "goal", "expected"),
    [
        (["take egg 1", "heat egg 1"], "put a hot egg in sink.", True),
        (["take egg 1", "go to sink 1"], "put a HOT egg in sink.", False),
        (["go to sink 1"], "put a hot egg in sink.", None),  # nothing was taken
        (["take egg 1"], "put a egg in sink.", None),  # another goal
        (["take hotplate 1"], "put a hotplate in sink.", None),  # a whole word
    ],
)
def test_scope(actions, goal, expected):
    assert HEAT.grade(acts(*actions, goal=goal)) is expected


def test_given_that_is_not_applicable_makes_the_assertion_not_applicable():
    assertion = Assertion(ActionExists("a"), given=ActionBefore("a", "b"))
    assert assertion.grade(acts("a")) is None
    assert assertion.grade(acts("a", "b")) is True


def test_id_is_made_from_the_content_and_stable():
    first, second = Assertion(ActionExists("a")), Assertion(ActionExists("a"))
    assert first.id == second.id
    assert first.id.startswith("action-exists-")
    others = [
        Assertion(ActionExists("b")),
        Assertion(ActionExists("a"), goal="x"),
        Assertion(ActionExists("a"), given=MaxSteps(3)),
    ]
    assert len({first.id, *(other.id for other in others)}) == 4
    # Known answer: an id in an old checkpoint must mean the same assertion.
    assert first.id == "action-exists-453cb562"


def test_bad_assertions_are_refused():
    with pytest.raises(ValueError, match=r"assertion\.goal"):
        Assertion(ActionExists("a"), goal="(")
    with pytest.raises(ValueError, match="kebab-case"):
        Assertion(ActionExists("a"), "Not Kebab")
    with pytest.raises(ValueError, match=r"Assertion\.check\.type: .*'sings'"):
        decode(Assertion, {"check": {"type": "sings"}}, fields="known")


def test_set_refuses_duplicates_and_overflow():
    a, b = Assertion(ActionExists("a"), "a"), Assertion(ActionExists("b"), "b")
    assert AssertionSet((a, b), cap=2).assertions == (a, b)
    with pytest.raises(ValueError, match="2 assertions, at most 1"):
        AssertionSet((a, b), cap=1)
    with pytest.raises(ValueError, match="'a' occurs twice"):
        AssertionSet((a, Assertion(ActionExists("b"), "a")))
    with pytest.raises(ValueError, match="'c' asks the same as 'a'"):
        AssertionSet((a, Assertion(ActionExists("a"), "c")))


def test_profile_splits_by_outcome_and_by_bank():
    hot, cold = "put a hot egg in sink.", "put a egg in sink."
    records = [
        acts("take egg 1", "heat egg 1", goal=hot, success=True, bank="x"),
        acts("take egg 1", "heat egg 1", goal=hot, success=False, bank="x"),
        acts("take egg 1", goal=hot, success=False, bank="x"),
        acts("take egg 1", goal=hot, success=False, bank="y"),
        acts("look", goal=hot, success=False, bank="y"),  # not applicable
        acts("take egg 1", goal=cold, success=True, bank="z"),  # not applicable
    ]
    (stats,) = profile([HEAT], records)
    assert stats.success == Rate(1, 1)
    assert stats.failure == Rate(1, 3)
    assert stats.failure.rate == pytest.approx(1 / 3)
    assert stats.failure.failed == 2
    assert stats.banks == {"x": Rate(2, 3), "y": Rate(0, 1)}


def test_rate_of_nothing_is_unknown():
    (stats,) = profile([HEAT], [])
    assert stats.success.rate is None
    assert stats.banks == {}
