"""Skills for queries: short wordings that pass verification, linked to assertions."""

import pytest
from text_episodes import acts

from reskill_jax.creator.proposal import Evidence, Proposal
from reskill_jax.creator.verify import Verified, verify
from reskill_jax.environments.sql.rules import ASSERTIONS, RULES
from reskill_jax.skills.operations import Add
from reskill_jax.skills.skill import SkillBank

GOOD = ("SHOW TABLES", "DESCRIBE ship", "SELECT 1", "submit")
WORDED = [(rule, i) for rule in RULES for i in range(len(rule.wordings))]


@pytest.mark.parametrize(("rule", "wording"), WORDED)
def test_every_wording_passes_verification(rule, wording):
    skill = rule.skill(wording)
    made = Proposal((Add(skill),), ("why",), (), SkillBank().hash)
    answer = verify(made, Evidence(SkillBank(), [acts(*GOOD)]))
    assert answer == Verified(SkillBank((skill,)))


def test_rules_and_assertions_are_linked():
    ids = {assertion.id for assertion in ASSERTIONS}
    assert ids == {link for rule in RULES for link in rule.assertions}


@pytest.mark.parametrize(
    ("actions", "failed"),
    [
        (GOOD, {"gets-a-result"}),  # the answers of `acts` are no results
        (("SHOW TABLES",), {"queries", "describes"}),
        (("SELECT 1", "SELECT 1"), {
            "reads-the-schema-first", "does-not-repeat", "submits", "gets-a-result",
        }),
    ],
)  # fmt: skip
def test_assertions_find_what_is_missing(actions, failed):
    record = acts(*actions)
    assert {a.id for a in ASSERTIONS if a.grade(record) is False} == failed
