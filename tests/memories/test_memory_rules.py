"""Votes on rules against an oracle, edit by edit."""

from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.memories.rules import RuleEdit, VotedRule, apply_edits

RULES = tuple(VotedRule(f"rule {k}", k + 1) for k in range(3))
EDITS = st.lists(
    st.builds(
        RuleEdit,
        st.sampled_from(["remove", "agree", "add"]),
        st.integers(-2, 4),
        st.sampled_from(["", "rule 0", "new a", "new b"]),
    ),
    max_size=6,
)


def votes(rules):
    return {rule.text: rule.votes for rule in rules}


def test_votes_move_as_published():
    found, unused = apply_edits(
        RULES,
        [
            RuleEdit("add", text="new"),
            RuleEdit("edit", 1, "better"),
            RuleEdit("agree", 2),
            RuleEdit("remove", 0),
        ],
        limit=10,
    )
    # remove 1 -> 0 is gone; edit 2 -> 3; agree 3 -> 4; add starts with 2.
    assert [(r.text, r.votes) for r in found] == [
        ("rule 2", 4), ("better", 3), ("new", 2),
    ]  # fmt: skip
    assert unused == 0


def test_a_removal_costs_three_where_the_list_is_far_too_long():
    many = tuple(VotedRule(f"rule {k}", 4) for k in range(15))
    found, _ = apply_edits(many, [RuleEdit("remove", 3)], limit=10)
    assert votes(found)["rule 3"] == 1
    found, _ = apply_edits(many[:14], [RuleEdit("remove", 3)], limit=10)
    assert votes(found)["rule 3"] == 3


def test_an_unknown_number_changes_nothing_and_is_counted():
    """The released code looks rules up by their words, and may find none."""
    wrong = [RuleEdit("remove", 7), RuleEdit("agree", -1), RuleEdit("edit", 0, " ")]
    assert apply_edits(RULES, wrong, 10) == (
        tuple(sorted(RULES, key=lambda rule: -rule.votes)),
        3,
    )


def test_a_rule_that_is_there_already_is_not_added_again():
    found, unused = apply_edits(RULES, [RuleEdit("add", text="Rule  1")], 10)
    assert (len(found), unused) == (3, 1)


def test_a_rule_is_not_changed_into_another_one():
    """Both would be shown, each with votes of its own."""
    rules = (VotedRule("Open it."), VotedRule("Close it."))
    for text, unused in (("open  IT.", 1), ("close it.", 0), ("Lock it.", 0)):
        found, refused = apply_edits(rules, [RuleEdit("edit", 1, text)], 10)
        assert refused == unused
        assert sum(rule.votes for rule in found) == 5 - unused
        assert len({rule.text.casefold() for rule in found}) == 2


@given(EDITS)
def test_targets_are_those_of_the_list_that_was_shown(edits):
    """Also after removals of the same answer, which come first."""
    found, unused = apply_edits(RULES, edits, 10)
    moved = {rule.text: rule.votes for rule in RULES}
    for edit in edits:
        if edit.op != "add" and 0 <= edit.target < 3:
            moved[RULES[edit.target].text] += 1 if edit.op == "agree" else -1
    old = {r.text: r.votes for r in found if r.text in moved}
    assert old == {text: total for text, total in moved.items() if total > 0}
    assert all(rule.votes > 0 for rule in found)
    assert [r.votes for r in found] == sorted((r.votes for r in found), reverse=True)
    assert 0 <= unused <= len(edits)
