"""The shared table: short unambiguous wordings that every limit lets through."""

import re

import pytest
from text_episodes import acts

from reskill_jax.creator.proposal import Evidence, Proposal, content_hash
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.environments.alfworld.rules import FAMILY, HARMFUL, HELPFUL, RULES
from reskill_jax.skills.assertions import AssertionSet
from reskill_jax.skills.operations import Add
from reskill_jax.skills.skill import SkillBank, Trigger

WORDED = [(rule, i) for rule in RULES for i in range(len(rule.wordings))]
IDS = [f"{rule.name}-{i}" for rule, i in WORDED]
EPISODES = [
    acts("go to a", "open a", "take b from a", "heat b with c", "move b to d", "look")
]


def test_names_are_unique():
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_every_wording_of_the_table_is_another_text():
    hashes = [content_hash(rule.skill(i, general=True)) for rule, i in WORDED]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_at_least_two_paraphrases(rule):
    assert len(rule.wordings) >= 3


@pytest.mark.parametrize(("rule", "wording"), WORDED, ids=IDS)
def test_sentences_are_short(rule, wording):
    for text in (*rule.wordings[wording], rule.description):
        assert text.endswith(".")
        for sentence in re.split(r"(?<=\.) ", text):
            assert 2 <= len(sentence.split()) <= 12


@pytest.mark.parametrize("general", [True, False])
@pytest.mark.parametrize(("rule", "wording"), WORDED, ids=IDS)
def test_every_wording_passes_verification(rule, wording, general):
    skill = rule.skill(wording, general=general)
    made = Proposal((Add(skill),), ("why",), (), SkillBank().hash)
    answer = verify(made, Evidence(SkillBank(), EPISODES))
    assert answer == Verified(SkillBank((skill,)))
    assert (skill.trigger == Trigger()) is (general or not rule.pattern)


def test_wordings_are_counted_round():
    rule = RULES[0]
    assert rule.skill(len(rule.wordings)) == rule.skill(0) != rule.skill(1)


def test_rules_and_assertions_are_linked():
    ids = {assertion.id for assertion in FAMILY}
    assert AssertionSet(FAMILY).assertions == FAMILY
    assert ids == {link for rule in HELPFUL for link in rule.assertions}
    assert all(rule.assertions for rule in HELPFUL)
    assert not any(rule.assertions for rule in HARMFUL)
