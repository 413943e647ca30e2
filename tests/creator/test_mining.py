"""Rules for games that no table knows, from the verbs of their episodes."""

import pytest
from text_episodes import acts, many

from reskill_jax.creator.mining import mine, verb_of
from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.environments.alfworld.rules import PATTERNS
from reskill_jax.skills.operations import Add
from reskill_jax.skills.skill import SkillBank

LAB = acts(
    "go to workshop",
    "focus on light bulb",
    "connect battery anode to wire 1",
    "connect wire 1 to light bulb",
    "wait",
    success=True,
)


def test_of_few_successes_with_many_verbs_the_last_ones_are_mined():
    verbs = [f"{a}{b}{a}" for a in "abcde" for b in "abcdefgh"]
    assertions, rules = mine([acts(*verbs, success=True), acts("look")], ())
    assert [a.id for a in assertions[:8]] == [f"uses-{verb}" for verb in verbs[-8:]]
    assert len(assertions) == len(rules) == 8 + 8 * 7 // 2


@pytest.mark.parametrize(
    ("action", "verb"),
    [
        ("go to shelf 1", "go to"),
        ("Pick up the egg", "pick up"),
        ("focus on door", "focus on"),
        ("connect a to b", "connect"),  # the particle follows at once or not at all
        ("wait", "wait"),
        ("look around", "look around"),
        ("", None),
        ("x", None),
        ("<|im_end|> go", None),
        ("'; drop table", None),
        ("0", None),
        ("a" * 30, None),
    ],
)
def test_verb(action, verb):
    assert verb_of(action) == verb


def test_verbs_and_orders_of_most_successes():
    odd = acts("sing", "connect a to b", "focus on c", "wait", success=True)
    records = [*many(LAB, 9, "win"), *many(odd, 1, "odd"), *many(acts("dance"), 5, "f")]
    assertions, rules = mine(records, PATTERNS)
    assert [assertion.id for assertion in assertions] == [
        "uses-focus-on",
        "uses-connect",
        "uses-wait",
        "focus-on-before-connect",
        "focus-on-before-wait",
        "connect-before-wait",
    ]
    assert [rule.assertions for rule in rules] == [(a.id,) for a in assertions]
    assert all(assertion.grade(LAB) for assertion in assertions)


def test_order_that_successes_do_not_share_is_not_asked_for():
    records = [
        *many(acts("focus on a", "connect a", success=True), 5, "one"),
        *many(acts("connect a", "focus on a", success=True), 5, "two"),
    ]
    ids = [assertion.id for assertion in mine(records, PATTERNS)[0]]
    assert sorted(ids) == ["uses-connect", "uses-focus-on"]


def test_actions_that_others_take_care_of_are_left_out():
    assert mine(many(acts("go to a", "open b", success=True), 5, "t"), PATTERNS) == (
        [],
        [],
    )


@pytest.mark.parametrize("records", [[], many(acts("focus on a"), 9, "f")])
def test_without_success_there_is_nothing_to_learn(records):
    assert mine(records, PATTERNS) == ([], [])


def test_mined_rules_pass_verification():
    for rule in mine(many(LAB, 5, "win"), PATTERNS)[1]:
        for wording in range(len(rule.wordings)):
            skill = rule.skill(wording)
            made = Proposal((Add(skill),), ("",), (), SkillBank().hash)
            assert isinstance(verify(made, Evidence(SkillBank(), [LAB])), Verified)
