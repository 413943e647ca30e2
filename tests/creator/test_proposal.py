"""Proposals and verdicts travel as JSON; equal advice has an equal hash."""

import json
from dataclasses import replace

import pytest

from reskill_jax.codec import decode, encode
from reskill_jax.creator.proposal import (
    Evidence,
    PastTrial,
    Proposal,
    content_hash,
    new_skills,
)
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.operations import Add, Delete, Modify
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

SKILL = Skill("take-it", "Takes.", "You see it.", "Take it.", example="a\nb")
PROPOSAL = Proposal(
    operations=(
        Add(SKILL),
        Modify("other", {"trigger": Trigger("action_pattern", "^go"), "action": "Go."}),
        Delete("third"),
    ),
    reasons=("one", "two", "three"),
    evidence=("figures",),
    bank="beef",
)
FOUND = Contrast(0.25, 0.1, 0.9, exposed_effect=0.5, exposed_standard_error=0.2)


def trial(step, accepted) -> PastTrial:
    banks = (SkillBank(), SkillBank((SKILL,)))
    return PastTrial.judged(step, PROPOSAL, banks, accepted, FOUND)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_line_of_trials(accepted):
    """People read these lines, so their names and order are known answers."""
    past = trial(7, accepted)
    text = json.dumps(encode(past))
    skill = json.dumps(encode(SKILL))
    assert text == (
        '{"step": 7, "proposal": {"operations": ['
        f'{{"type": "add", "skill": {skill}}}, '
        '{"type": "modify", "name": "other", "changes": {"trigger": {"kind": '
        '"action_pattern", "pattern": "^go", "goal": ""}, "action": "Go."}}, '
        '{"type": "delete", "name": "third"}], "reasons": ["one", "two", "three"], '
        '"evidence": ["figures"], "bank": "beef"}, '
        f'"candidate": "{past.candidate}", "skills": ["{content_hash(SKILL)}"], '
        f'"accepted": {json.dumps(accepted)}, "contrast": {{"effect": 0.25, '
        '"standard_error": 0.1, "probability": 0.9, "exposed_effect": 0.5, '
        '"exposed_standard_error": 0.2}, "not_chosen": false}'
    )
    assert decode(PastTrial, json.loads(text)) == past
    assert past.effect == 0.25
    assert past.candidate == SkillBank((SKILL,)).hash
    assert past.skills == (content_hash(SKILL),)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "grab-it"}, True),
        ({"description": "Other."}, True),
        ({"version": 4}, True),
        ({"action": " TAKE   it. "}, True),
        ({"action": "Take it now."}, False),
        ({"when_to_use": "You see."}, False),
        ({"example": ""}, False),
        ({"trigger": Trigger("beginning")}, False),
        ({"trigger": Trigger("action_pattern", "x")}, False),
    ],
)
def test_content_hash_is_of_the_advice(change, same):
    assert (content_hash(replace(SKILL, **change)) == content_hash(SKILL)) is same


def test_content_hash_keeps_fields_apart():
    one = replace(SKILL, when_to_use="a b", action="c", example="")
    two = replace(SKILL, when_to_use="a", action="b c", example="")
    assert content_hash(one) != content_hash(two)


def test_new_skills_are_the_added_and_the_changed():
    changed = replace(SKILL, action="Take it now.", version=2)
    added = replace(SKILL, name="second", action="Other.")
    bank = SkillBank((SKILL, replace(SKILL, name="kept")))
    candidate = SkillBank((changed, replace(SKILL, name="kept"), added))
    assert new_skills(bank, candidate) == (changed, added)


def test_rejected_within_so_many_steps():
    history = [trial(80, False), trial(81, False), trial(90, True), trial(100, False)]
    evidence = Evidence(SkillBank(), [], history=history, step=100)
    assert [past.step for past in evidence.rejected(20)] == [81, 100]
