import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.codec import decode, encode
from reskill_jax.skills.operations import (
    Add,
    Delete,
    Modify,
    Operation,
    OperationError,
    Rejection,
    apply,
    describe,
    validate,
)
from reskill_jax.skills.skill import Skill, SkillBank, Trigger


def make(skill_name: str, **changes) -> Skill:
    skill = Skill(skill_name, "About it.", "When holding it.", "Put it down.")
    return replace(skill, **changes)


BANK = SkillBank((make("a"), make("b", example="DO: x"), make("c")))


def refused(operations, max_skills=8) -> Rejection:
    before = BANK.hash
    with pytest.raises(OperationError) as caught:
        apply(BANK, operations, max_skills=max_skills)
    assert SkillBank(BANK.skills).hash == before
    return caught.value.rejection


def test_survivors_keep_their_order_and_adds_follow():
    bank = apply(
        BANK,
        [Add(make("d")), Modify("c", {"action": "Drop it."}), Delete("a")],
        max_skills=3,
    )
    assert list(bank.names()) == ["b", "c", "d"]
    assert bank.skills[0] is BANK.skills[1]


def test_modify_changes_only_what_is_given():
    trigger = Trigger("action_pattern", "^take .*")
    bank = apply(BANK, [Modify("b", {"trigger": trigger})], max_skills=3)
    assert bank.skills[1] == replace(BANK.skills[1], trigger=trigger, version=2)


@pytest.mark.parametrize(
    ("operations", "rejection"),
    [
        ([], Rejection.EMPTY_CHANGE),
        ([Modify("a", {})], Rejection.EMPTY_CHANGE),
        ([Modify("a", {"action": "Put it down."})], Rejection.EMPTY_CHANGE),
        ([Modify("a", {"name": "z"})], Rejection.INVALID_FIELD),
        ([Modify("z", {"action": "x"})], Rejection.UNKNOWN_TARGET),
        ([Delete("z")], Rejection.UNKNOWN_TARGET),
        ([Add(make("a"))], Rejection.DUPLICATE),
        ([Delete("a"), Modify("a", {"action": "x"})], Rejection.DUPLICATE),
        ([Add(make("d")), Add(make("d"))], Rejection.DUPLICATE),
        ([Add(make("d")), Add(make("e")), Delete("a")], Rejection.OVER_CAPACITY),
        ([Delete("a"), Modify("b", {"action": " "})], Rejection.INVALID_FIELD),
    ],
)
def test_a_bad_bundle_is_refused_whole(operations, rejection):
    assert refused(operations, max_skills=3) == rejection


def test_a_bank_above_the_limit_may_change_as_long_as_it_does_not_grow():
    modify = Modify("b", {"action": "Drop it."})
    assert len(apply(BANK, [modify], max_skills=1).skills) == 3
    assert list(apply(BANK, [Delete("a")], max_skills=1).names()) == ["b", "c"]
    swapped = apply(BANK, [Delete("a"), Add(make("d"))], max_skills=1)
    assert list(swapped.names()) == ["b", "c", "d"]
    assert refused([Add(make("d"))], max_skills=1) == Rejection.OVER_CAPACITY
    grown = [Delete("a"), Add(make("d")), Add(make("e"))]
    assert refused(grown, max_skills=1) == Rejection.OVER_CAPACITY


@pytest.mark.parametrize(
    ("changes", "rejection"),
    [
        ({"name": "Two Words"}, Rejection.INVALID_FIELD),
        ({"name": "a--b"}, Rejection.INVALID_FIELD),
        ({"name": "../a"}, Rejection.INVALID_FIELD),
        ({"name": "a\n"}, Rejection.INVALID_FIELD),
        ({"name": "a" * 65}, Rejection.INVALID_FIELD),
        ({"description": ""}, Rejection.INVALID_FIELD),
        ({"description": "x" * 1025}, Rejection.OVER_BUDGET),
        ({"description": "a <b>"}, Rejection.UNSAFE_TEXT),
        ({"action": "\ud800"}, Rejection.UNSAFE_TEXT),
        ({"version": 0}, Rejection.INVALID_FIELD),
        ({"trigger": Trigger("action_pattern", "take (")}, Rejection.INVALID_PATTERN),
        ({"trigger": Trigger("action_pattern", r"(a)\1")}, Rejection.INVALID_PATTERN),
        ({"trigger": Trigger("action_pattern", "")}, Rejection.INVALID_PATTERN),
        ({"trigger": Trigger("general", "take")}, Rejection.INVALID_PATTERN),
    ],
)
def test_a_bad_skill_is_refused(changes, rejection):
    with pytest.raises(OperationError) as caught:
        validate(make("a", **changes))
    assert caught.value.rejection == rejection


def test_limits_are_inclusive():
    validate(make("a" * 64, description="x" * 1024))


def test_operations_and_banks_survive_json():
    trigger = Trigger("action_pattern", r"^take .* from (bed|desk) \d+$")
    operations = [
        Add(make("d", trigger=trigger, version=3)),
        Modify("b", {"trigger": trigger, "example": ""}),
        Delete("a"),
    ]
    data = json.loads(json.dumps(encode(operations)))
    assert decode(list[Operation], data) == operations
    bank = apply(BANK, operations, max_skills=8)
    again = decode(SkillBank, json.loads(json.dumps(encode(bank))))
    assert again == bank
    assert again.hash == bank.hash
    with pytest.raises(ValueError, match=r"operation\.type: Invalid value 'rename'"):
        decode(Operation, {"type": "rename", "name": "a"}, name="operation")


def test_operations_have_names_of_two_words():
    operations = [Add(make("d")), Modify("b", {"action": "x"}), Delete("a")]
    assert [*map(describe, operations)] == ["add d", "modify b", "delete a"]


@given(st.permutations([Add(make("d")), Modify("b", {"action": "x"}), Delete("a")]))
def test_the_order_within_a_bundle_does_not_matter(operations):
    reference = [Delete("a"), Modify("b", {"action": "x"}), Add(make("d"))]
    assert apply(BANK, operations, max_skills=3) == apply(BANK, reference, max_skills=3)
