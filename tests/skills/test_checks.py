"""A closed table of what each check answers, every answer derived by hand."""

from typing import get_args

import pytest
from text_episodes import acts, record

from reskill_jax.codec import decode
from reskill_jax.skills.checks import (
    ActionBefore,
    ActionCount,
    ActionExists,
    ActionNotExists,
    Check,
    FinalAction,
    MaxSteps,
    MinSteps,
    NoConsecutiveRepeat,
    ObservationContains,
)

NOTHING = acts()
TRIP = acts(
    "go to shelf 1", "take egg 1 from shelf 1", "Go To fridge 1", "open fridge 1"
)
HOUSE = record(
    """
    You are in a room. Your task is to: put a egg in fridge.
    > go to fridge 1
    The fridge 1 is closed.
    > open fridge 1
    You open the fridge 1. In it, you see nothing.
    > dance
    Nothing happens.
    """
)

TABLE = [
    (ActionExists("^take "), TRIP, True),
    (ActionExists("^TAKE "), TRIP, True),  # case is ignored
    (ActionExists("egg"), TRIP, True),  # found anywhere
    (ActionExists("^heat "), TRIP, False),
    (ActionExists("closed"), HOUSE, False),  # observations are not actions
    (ActionExists("x"), NOTHING, False),
    (ActionNotExists("^heat "), TRIP, True),
    (ActionNotExists("^go to "), TRIP, False),
    (ActionNotExists("x"), NOTHING, True),
    (ActionBefore("^take ", "^open "), TRIP, True),
    (ActionBefore("^open ", "^take "), TRIP, False),
    (ActionBefore("^take ", "^heat "), TRIP, None),  # second never occurs
    (ActionBefore("^heat ", "^take "), TRIP, False),  # first never occurs
    (ActionBefore("^heat ", "^cool "), TRIP, None),  # neither occurs
    (
        ActionBefore("^go", "go to shelf"),
        TRIP,
        False,
    ),  # one action is not before itself
    (ActionBefore("^go to ", "^go to fridge"), TRIP, True),
    (ActionBefore("x", "y"), NOTHING, None),
    (ActionBefore("^b", "^a"), acts("a", "b", "a"), False),  # first occurrences count
    (FinalAction("^open "), TRIP, True),  # the last action counts here
    (FinalAction("^go to "), TRIP, False),
    (FinalAction("x"), NOTHING, None),
    (NoConsecutiveRepeat(), TRIP, True),
    (NoConsecutiveRepeat(), acts("a", "b", "a"), True),
    (NoConsecutiveRepeat(), acts("a", "b", "B"), False),  # equality ignores case
    (NoConsecutiveRepeat(3), acts("a", "a", "b", "a"), True),
    (NoConsecutiveRepeat(3), acts("b", "a", "a", "a"), False),
    (NoConsecutiveRepeat(2, "^go"), acts("go 1", "look", "go 1"), False),
    (NoConsecutiveRepeat(2, "^go"), acts("go 1", "look", "look", "go 2"), True),
    (NoConsecutiveRepeat(2, "", 3), acts("a", "b", "a"), False),  # in a circle
    (NoConsecutiveRepeat(2, "", 3), acts("a", "b", "c", "a"), True),
    (NoConsecutiveRepeat(3, "^go", 5), acts(*["go 1", "go 2"] * 3), False),
    (NoConsecutiveRepeat(3, "^go", 4), acts(*["go 1", "go 2"] * 3), True),
    (NoConsecutiveRepeat(), NOTHING, True),
    (MinSteps(4), TRIP, True),
    (MinSteps(5), TRIP, False),
    (MinSteps(1), NOTHING, False),
    (MaxSteps(4), TRIP, True),
    (MaxSteps(3), TRIP, False),
    (MaxSteps(1), NOTHING, True),
    (ActionCount("^go to ", min=2), TRIP, True),
    (ActionCount("^go to ", min=3), TRIP, False),
    (ActionCount("^go to ", max=2), TRIP, True),
    (ActionCount("^go to ", max=1), TRIP, False),
    (ActionCount("^go to ", min=1, max=3), TRIP, True),
    (ActionCount("x", max=0), TRIP, True),
    (ActionCount("x", min=1), NOTHING, False),
    (ObservationContains("is closed"), HOUSE, True),
    (ObservationContains("IS CLOSED"), HOUSE, True),
    (ObservationContains("^dance"), HOUSE, False),  # actions are not observations
    (ObservationContains("room"), HOUSE, True),  # the first observation counts
    (ObservationContains("nothing happens"), HOUSE, True),  # and the last
    (ObservationContains("is closed", "^go to "), HOUSE, True),
    (ObservationContains("is closed", "^open "), HOUSE, False),
    (ObservationContains("nothing", "^dance"), HOUSE, True),
    (ObservationContains("x", "^heat "), HOUSE, None),  # no such action
    (ObservationContains("x"), NOTHING, False),
]


@pytest.mark.parametrize(("check", "episode", "expected"), TABLE)
def test_check_answers(check, episode, expected):
    assert check.grade(episode) is expected


def test_table_is_closed():
    assert {type(check) for check, _, _ in TABLE} == set(get_args(Check))
    assert len(get_args(Check)) == 9


def test_missing_last_observation_is_no_answer():
    cut = record("> look\nA room.\n> dance\nx")
    cut = type(cut)(**{**cut.__dict__, "observations": cut.observations[:2]})
    assert ObservationContains("room", "look").grade(cut) is True
    assert ObservationContains("room", "dance").grade(cut) is None


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        (
            "action_exists",
            {"pattern": "go("},
            "exists.pattern='go\\(' is not valid RE2",
        ),
        ("action_exists", {"pattern": "(?=x)"}, "not valid RE2"),
        ("action_exists", {"pattern": " "}, "give a pattern"),
        ("action_exists", {"pattern": 3}, "check.pattern: Expected `str`, got `int`"),
        ("action_exists", {}, "missing required field `pattern`"),
        ("action_exists", {"pattern": "x", "n": 2}, "check.n: this field is unknown"),
        ("action_not_exists", {"pattern": "["}, "action_not_exists.pattern"),
        ("action_before", {"first": "a", "second": "*"}, "action_before.second"),
        ("action_before", {"first": "*", "second": "a"}, "action_before.first"),
        ("final_action", {"pattern": "("}, "final_action.pattern"),
        ("no_consecutive_repeat", {"n": 1}, "no_consecutive_repeat.n=1: must be 2"),
        ("no_consecutive_repeat", {"n": 3, "window": 2}, "window=2: must be 3 or more"),
        ("no_consecutive_repeat", {"pattern": "("}, "no_consecutive_repeat.pattern"),
        ("min_steps", {"n": 0}, "min_steps.n=0"),
        ("min_steps", {"n": True}, "check.n: Expected `int`, got `bool`"),
        ("max_steps", {"n": 2.5}, "check.n: Expected `int`, got `float`"),
        ("action_count", {"pattern": "a"}, "always passes"),
        (
            "action_count",
            {"pattern": "a", "min": 2, "max": 1},
            "max=1: must be 2",
        ),
        ("action_count", {"pattern": "a", "min": -1, "max": 1}, "min=-1"),
        ("observation_contains", {"pattern": "("}, "observation_contains.pattern"),
        (
            "observation_contains",
            {"pattern": "a", "after_action": "("},
            "observation_contains.after_action",
        ),
        ("action_sings", {}, "check.type: Invalid value 'action_sings'"),
    ],
)
def test_bad_parameters_are_errors_never_failing_grades(name, params, message):
    with pytest.raises(ValueError, match=message):
        decode(Check, {"type": name, **params}, name="check", fields="known")
