"""Scripted and injected streams keep their order, also over a restart."""

import json
from dataclasses import replace

import pytest
from text_episodes import added, ask

from reskill_jax.creator.proposal import Evidence
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL
from reskill_jax.laboratory.known_proposals import (
    Injecting,
    ScriptedCreator,
    addition,
    known_proposals,
)
from reskill_jax.skills.skill import SkillBank

GOOD = [addition(rule) for rule in HELPFUL[:4]]
BAD = [addition(rule) for rule in HARMFUL[:2]]
BANK = SkillBank((HELPFUL[5].skill(),))
EVIDENCE = Evidence(BANK, [])


def names(creator, count):
    made = [creator.propose(EVIDENCE) for _ in range(count)]
    return [m and added(m)[0].name for m in made]


def test_proposals_come_in_order_for_the_bank_of_the_moment():
    creator = ScriptedCreator(GOOD[:2])
    first = ask(creator, EVIDENCE)
    assert first.bank == BANK.hash
    assert isinstance(verify(first, EVIDENCE), Verified)
    assert names(creator, 2) == [HELPFUL[1].name, None]


def test_every_second_proposal_is_injected_while_there_are_any():
    creator = Injecting(ScriptedCreator(GOOD), 2, BAD)
    good, bad = [r.name for r in HELPFUL[:4]], [r.name for r in HARMFUL[:2]]
    assert names(creator, 7) == [
        good[0],
        bad[0],
        good[1],
        bad[1],
        good[2],
        good[3],
        None,
    ]


@pytest.mark.parametrize("cut", range(6))
def test_restart_goes_on_where_it_was(cut):
    def fresh():
        return Injecting(ScriptedCreator(GOOD), 2, BAD)

    whole, before, after = fresh(), fresh(), fresh()
    expected = names(whole, 6)
    begun = names(before, cut)
    after.restore(json.loads(json.dumps(before.state())))
    assert begun + names(after, 6 - cut) == expected


def test_bundles_may_hold_several_rules():
    made = addition(*HARMFUL)
    assert [skill.name for skill in added(made)] == [rule.name for rule in HARMFUL]
    assert all(skill.trigger.kind == "general" for skill in added(made))


def test_bad_use_is_refused():
    with pytest.raises(ValueError, match="every=0"):
        Injecting(ScriptedCreator([]), 0, BAD)
    with pytest.raises(ValueError, match="next=3: the list has 2 proposals"):
        ScriptedCreator(BAD).restore({"next": 3})


def test_neutral_bundles_pass_verification_and_say_nothing_of_the_environment():
    proposals = known_proposals("neutral", 0)
    bank = SkillBank()
    for proposal in proposals:
        mine = replace(proposal, bank=bank.hash)
        assert isinstance(verify(mine, Evidence(bank, [])), Verified)
    texts = [f"{s.when_to_use} {s.action}" for p in proposals for s in added(p)]
    assert len(set(texts)) == len(texts) == 36  # trials, enough for a rate
    verbs = {"open", "take", "go to", "put", "heat", "cool", "clean", "search"}
    assert not any(verb in text.lower() for text in texts for verb in verbs)
