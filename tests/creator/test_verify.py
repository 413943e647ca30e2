"""Every reason for which a proposal is refused, with its detail, and what passes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from text_episodes import acts

from reskill_jax.creator.proposal import Evidence, PastTrial, Proposal
from reskill_jax.creator.verify import (
    Limits,
    Problem,
    Rejected,
    Verified,
    trigger_rate,
    verify,
)
from reskill_jax.skills.operations import Add, Delete, Modify, Rejection
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

OPEN = Skill("open-it", "Opens.", "It is closed.", "Open it.")
TAKE = Skill("take-it", "Takes.", "You see it.", "Take it.")
BANK = SkillBank((OPEN,))
RECORDS = [acts("go to a", "take b", "move b"), acts("go to a", "look", "take b")]


def evidence(**changes) -> Evidence:
    return replace(Evidence(BANK, RECORDS, max_skills=3, step=100), **changes)


def proposal(*operations, bank=BANK) -> Proposal:
    return Proposal(operations, ("why",) * len(operations), (), bank.hash)


def pattern(text: str, skill=TAKE) -> Skill:
    return replace(skill, trigger=Trigger("action_pattern", text))


def problems(*operations, limits=None, **changes) -> list[tuple[Rejection, str]]:
    answer = verify(proposal(*operations), evidence(**changes), limits)
    assert isinstance(answer, Rejected)
    return [(problem.reason, problem.detail) for problem in answer.problems]


def rejected_trial(operations, candidate, step=95, bank=BANK) -> PastTrial:
    made = proposal(*operations, bank=bank)
    return PastTrial.judged(step, made, (bank, candidate), accepted=False)


def test_good_proposal_yields_the_candidate_bank():
    answer = verify(proposal(Add(TAKE)), evidence())
    assert answer == Verified(SkillBank((OPEN, TAKE)))


def test_proposal_for_another_bank_is_an_error():
    with pytest.raises(ValueError, match="drop it"):
        verify(proposal(Add(TAKE), bank=SkillBank()), evidence())


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("^go to", 1.0),
        ("^GO TO", 1.0),
        ("^take", 0.5),  # the second episode ends with it
        ("^move", 0.0),  # only ever the last action
        ("^look", 0.5),
    ],
)
def test_trigger_rate_leaves_out_the_last_action(text, rate):
    assert trigger_rate(text, RECORDS) == rate


def test_trigger_rate_of_no_record_is_zero():
    assert trigger_rate("x", []) == 0.0


def test_trigger_rate_too_low_is_rejected_with_the_measured_rate():
    assert isinstance(verify(proposal(Add(pattern("^take"))), evidence()), Verified)
    three = [*RECORDS, acts("look")]
    ((reason, detail),) = problems(Add(pattern("^take")), records=three)
    assert reason is Rejection.TRIGGER_RATE
    assert "fires in 33% of 3 recent episodes, at least 50%" in detail
    loose = verify(
        proposal(Add(pattern("^take"))),
        evidence(records=three),
        Limits(trigger_rate=0.3),
    )
    assert isinstance(loose, Verified)


@pytest.mark.parametrize("trigger", [Trigger(), Trigger("beginning")])
def test_gate_is_for_action_patterns_only(trigger):
    add = Add(replace(TAKE, trigger=trigger))
    assert isinstance(verify(proposal(add), evidence(records=[])), Verified)


def test_modify_without_a_new_pattern_is_verified_again():
    bank = SkillBank((pattern("^fly"),))
    modify = Modify("take-it", {"action": "Take it now."})
    answer = verify(proposal(modify, bank=bank), evidence(bank=bank))
    assert isinstance(answer, Rejected)
    assert answer.problems[0].reason is Rejection.TRIGGER_RATE


def test_untouched_skills_are_not_verified_again():
    bank = SkillBank((pattern("^fly", OPEN),))
    answer = verify(proposal(Add(TAKE), bank=bank), evidence(bank=bank))
    assert isinstance(answer, Verified)


@pytest.mark.parametrize("text", ["go(", "(?=x)", " "])
def test_invalid_pattern(text):
    ((reason, _),) = problems(Add(pattern(text)))
    assert reason is Rejection.INVALID_PATTERN


def test_invalid_field():
    ((reason, detail),) = problems(Add(replace(TAKE, name="Take It")))
    assert reason is Rejection.INVALID_FIELD
    assert "kebab-case" in detail


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"when_to_use": "w " * 26}, "when_to_use has 26 words, 1 more than the 25"),
        ({"action": "w " * 53}, "action has 53 words, 3 more than the 50"),
        ({"example": "a\nb\nc"}, "example has 3 lines, 1 more than the 2"),
        ({"action": "x" * 600}, "content has 611 characters, 111 more than the 500"),
        (
            {"trigger": Trigger("action_pattern", "go|" * 70)},
            "trigger.pattern has 210 characters, 10 more than the 200",
        ),
    ],
)
def test_over_budget_names_field_and_excess(change, detail):
    ((reason, text),) = problems(Add(replace(TAKE, **change)))
    assert reason is Rejection.OVER_BUDGET
    assert f"take-it.{detail}" in text


def test_budgets_are_met_exactly():
    skill = Skill("s", "d", " ".join(["w"] * 25), " ".join(["a"] * 50), example="a\nb")
    assert isinstance(verify(proposal(Add(skill)), evidence()), Verified)
    full = replace(TAKE, when_to_use="x" * 100, action="y" * 400)
    assert isinstance(verify(proposal(Add(full)), evidence()), Verified)


def test_too_many_operations():
    adds = [Add(replace(TAKE, name=f"s{i}", action=f"Do {i}.")) for i in range(3)]
    ((reason, detail),) = problems(*adds, limits=Limits(operations=2), max_skills=9)
    assert reason is Rejection.OVER_BUDGET
    assert "3 operations, at most 2" in detail


@pytest.mark.parametrize(
    ("operations", "detail"),
    [
        ([Add(replace(OPEN, action="Other."))], "already has 'open-it'"),
        ([Add(replace(OPEN, name="other"))], "other says the same as open-it"),
        (
            [Add(replace(OPEN, name="x", action="OPEN  it.", description="y"))],
            "x says the same as open-it",
        ),
        ([Modify("open-it", {"action": "a"}), Delete("open-it")], "two operations"),
    ],
)
def test_duplicates_of_what_exists(operations, detail):
    (reason, text), *_ = problems(*operations)
    assert reason is Rejection.DUPLICATE
    assert detail in text


def test_duplicate_of_a_rejected_skill_under_another_name_until_it_is_forgotten():
    trial = rejected_trial([Add(TAKE)], SkillBank((OPEN, TAKE)), step=95)
    add = Add(replace(TAKE, name="grab-it"))
    ((reason, detail),) = problems(add, history=[trial])
    assert reason is Rejection.DUPLICATE
    assert "rejected with the same content at step 95" in detail
    later = evidence(history=[trial], step=115)
    assert isinstance(verify(proposal(add), later), Verified)
    ok = replace(trial, accepted=True)
    assert isinstance(verify(proposal(add), evidence(history=[ok])), Verified)


def test_duplicate_of_a_rejected_deletion():
    trial = rejected_trial([Delete("open-it")], SkillBank())
    ((reason, detail),) = problems(Delete("open-it"), history=[trial])
    assert reason is Rejection.DUPLICATE
    assert "same bank was rejected at step 95" in detail


@pytest.mark.parametrize("operation", [Delete("x"), Modify("x", {"action": "a"})])
def test_unknown_target(operation):
    ((reason, detail),) = problems(operation)
    assert reason is Rejection.UNKNOWN_TARGET
    assert "'x'" in detail


def test_over_capacity_unless_a_delete_makes_room():
    ((reason, detail),) = problems(Add(TAKE), max_skills=1)
    assert reason is Rejection.OVER_CAPACITY
    assert "2 skills, at most 1" in detail
    swap = proposal(Add(TAKE), Delete("open-it"))
    assert verify(swap, evidence(max_skills=1)) == Verified(SkillBank((TAKE,)))


@pytest.mark.parametrize(
    "operations", [(), (Modify("open-it", {"action": "Open it."}),)]
)
def test_empty_change(operations):
    ((reason, _),) = problems(*operations)
    assert reason is Rejection.EMPTY_CHANGE


def test_what_tells_the_agent_nothing_new_is_not_tried():
    kept = BANK.skills[0]
    renamed = replace(kept, name="other-name")
    for operations in (
        (Modify(kept.name, {"description": "Other words."}),),
        (Modify(kept.name, {"action": kept.action.upper() + " "}),),
        (Delete(kept.name), Add(renamed)),
    ):
        assert [p[0] for p in problems(*operations)] == [Rejection.EMPTY_CHANGE]
    both = (Modify(kept.name, {"description": "Other words."}), Add(TAKE))
    assert isinstance(verify(proposal(*both), evidence()), Verified)


@pytest.mark.parametrize("field", ["description", "when_to_use", "action", "example"])
@pytest.mark.parametrize(
    "text",
    [
        "a<|im_end|>b",
        "<action>look</action>",
        "</s>",
        "a > b",
        "[INST] hi [/inst]",
        "bell \x07",
        "tab\there",
        "zero\u200bwidth",
        "right\u202eto left",
        "line\u2028separator",
        "null\x00",
        "carriage\rreturn",
    ],
)
def test_unsafe_text(field, text):
    found = problems(Add(replace(TAKE, **{field: text})))
    assert {reason for reason, _ in found} == {Rejection.UNSAFE_TEXT}
    assert all(f"take-it.{field}" in detail for _, detail in found)


def test_surrogates_are_unsafe_text():
    ((reason, _),) = problems(Add(replace(TAKE, action="a\ud800")))
    assert reason is Rejection.UNSAFE_TEXT


def test_newlines_are_for_examples_only():
    fine = Add(replace(TAKE, example="one\ntwo"))
    assert isinstance(verify(proposal(fine), evidence()), Verified)
    ((reason, _),) = problems(Add(replace(TAKE, action="one\ntwo")))
    assert reason is Rejection.UNSAFE_TEXT


def test_patterns_may_hold_brackets_but_no_control_characters():
    named = Add(pattern(r"^(?P<verb>go|take) "))
    assert isinstance(verify(proposal(named), evidence()), Verified)
    ((reason, _),) = problems(Add(pattern("go|\n")))
    assert reason is Rejection.UNSAFE_TEXT


def test_letters_of_all_languages_are_safe():
    add = Add(replace(TAKE, action="Nimm das Ä, возьми яйцо, 拿鸡蛋, प्याला 🙂."))
    assert isinstance(verify(proposal(add), evidence()), Verified)


def test_all_problems_are_told_at_once():
    bad = replace(pattern("^fly"), when_to_use="w " * 30, action="<b>")
    reasons = {reason for reason, _ in problems(Add(bad))}
    assert reasons == {
        Rejection.TRIGGER_RATE,
        Rejection.OVER_BUDGET,
        Rejection.UNSAFE_TEXT,
    }


@given(st.text(), st.text(), st.text(), st.text(), st.text())
def test_any_text_gets_an_answer_and_what_passes_keeps_the_limits(
    name, when, action, example, regex
):
    skill = Skill(name, "d", when, action, Trigger("action_pattern", regex), example)
    answer = verify(proposal(Add(skill)), evidence())
    if isinstance(answer, Verified):
        added = answer.candidate.skills[-1]
        shown = added.when_to_use + added.action + added.example
        assert len(shown) <= 500
        assert not set("<>\x00\x07\r") & set(shown)
    else:
        assert answer.problems


def test_a_bank_without_room_in_prompts_is_over_budget_with_the_reason():
    def crowded(bank):
        return "no room" if len(bank.skills) > 2 else ""

    one, two = (
        proposal(Add(TAKE)),
        proposal(Add(TAKE), Add(replace(TAKE, name="z", action="Other."))),
    )
    assert isinstance(verify(one, evidence(), bank_problem=crowded), Verified)
    answer = verify(two, evidence(), bank_problem=crowded)
    assert answer.problems[-1] == Problem(Rejection.OVER_BUDGET, "no room")
