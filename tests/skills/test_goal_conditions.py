"""A skill may be for some goals only: shown in no other task, kept, and checked."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_episodes import acts, many

from reskill_jax.codec import decode, encode
from reskill_jax.creator.offline import OfflineCreator
from reskill_jax.creator.proposal import Evidence, PastTrial, Proposal, content_hash
from reskill_jax.creator.render import rejected
from reskill_jax.creator.schemas import Draft, GoalDraft
from reskill_jax.creator.verify import Rejected, Verified, verify
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.rollout.context import BankContext
from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import ActionExists
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.operations import Add, OperationError, Rejection, apply
from reskill_jax.skills.rule import Rule, RuleTable
from reskill_jax.skills.skill import Skill, SkillBank, Trigger, could_fire
from reskill_jax.skills.skill_md import load_bank, save_bank

HEAT = Skill("heat-it", "Heat.", "You hold it.", "Heat it.", Trigger(goal="HEAT|hot"))
LOOK = Skill("look", "Look.", "Always.", "Look around.")
BANK = SkillBank((HEAT, LOOK))


@pytest.mark.parametrize(
    ("goal", "names"),
    [("heat some egg", ["heat-it", "look"]), ("a hot egg", ["heat-it", "look"]),
     ("cool some egg", ["look"])],
)  # fmt: skip
def test_it_is_shown_to_no_other_task(goal, names):
    task = Task("t", "kind", "train", "")
    guide = asyncio.run(BankContext(BANK).begin(task, goal, Observation("a room")))
    assert [note.name for note in guide.notes(Observation("a room"), None)] == names
    assert could_fire([HEAT.trigger], ("look", "look"), goal) == (len(names) == 2)


def test_a_bank_without_conditions_is_what_it_was():
    plain = SkillBank((LOOK,))
    assert plain.hash == "4a623a62cd38"
    assert plain.about("anything") is plain
    assert content_hash(LOOK) != content_hash(replace(LOOK, trigger=HEAT.trigger))
    assert SkillBank((replace(LOOK, trigger=HEAT.trigger),)).hash != plain.hash


@settings(deadline=None)  # it writes files
@given(st.text(max_size=12).map(lambda text: f"a{text}"))
def test_it_comes_back_from_files_and_json(tmp_path_factory, text):
    pattern = "".join(c if c.isalnum() else f"[{c}]" for c in text if c not in "^\\[]-")
    skill = replace(HEAT, trigger=Trigger("action_pattern", "^take", pattern))
    bank = SkillBank((skill,))
    try:
        apply(SkillBank(), (Add(skill),), max_skills=8)
    except OperationError:
        return  # no pattern
    place = tmp_path_factory.mktemp("bank") / "skills"
    save_bank(bank, place)
    assert load_bank(place) == bank
    assert decode(SkillBank, json.loads(json.dumps(encode(bank)))) == bank


def proposal(skill):
    return Proposal((Add(skill),), ("why",), (), SkillBank().hash)


def records(*goals, actions=("take mug", "look")):
    return tuple(
        replace(acts(*actions, task=f"t{n}"), goal=goal) for n, goal in enumerate(goals)
    )


def checked(skill, *goals, **options):
    evidence = Evidence(SkillBank(), records(*goals, **options))
    return verify(proposal(skill), evidence)


def test_verification_refuses_a_goal_that_hardly_occurs_or_is_no_pattern():
    assert isinstance(checked(HEAT, "heat it", *["cool it"] * 9), Verified)
    for skill, goals, reason in (
        (HEAT, ["cool it"] * 10, Rejection.TRIGGER_RATE),
        (HEAT, [], Rejection.TRIGGER_RATE),
        (replace(HEAT, trigger=Trigger(goal="(")), ["("], Rejection.INVALID_PATTERN),
        (replace(HEAT, trigger=Trigger(goal="h" * 201)), ["h" * 300],
         Rejection.OVER_BUDGET),
    ):  # fmt: skip
        verdict = checked(skill, *goals)
        assert isinstance(verdict, Rejected)
        assert verdict.problems[0].reason == reason


def test_an_action_pattern_is_gated_among_the_goals_that_it_is_for():
    skill = replace(HEAT, trigger=Trigger("action_pattern", "^take", "heat"))
    both = (
        *records("heat it", "heat it"),
        *records(*["cool it"] * 8, actions=("look", "look")),
    )
    assert isinstance(verify(proposal(skill), Evidence(SkillBank(), both)), Verified)
    everywhere = replace(skill, trigger=replace(skill.trigger, goal=""))
    verdict = verify(proposal(everywhere), Evidence(SkillBank(), both))
    assert isinstance(verdict, Rejected)


def test_a_draft_of_a_model_may_have_one_where_it_is_asked_for():
    words = {"op": "add", "name": "a", "goal": " heat ", "trigger": "general"}
    draft = GoalDraft.model_validate(words)
    assert draft.operation(SkillBank()).skill.trigger == Trigger(goal="heat")
    assert Draft.model_validate(words).operation(SkillBank()).skill.trigger == Trigger()
    modify = {"op": "modify", "name": "heat-it", "pattern": "^take"}
    for kind in (Draft, GoalDraft):
        changed = kind.model_validate(modify).operation(BANK)
        wanted = Trigger("action_pattern", "^take", HEAT.trigger.goal)
        assert changed.changes == {"trigger": wanted}
    dropped = GoalDraft.model_validate(modify | {"goal": ""}).operation(BANK)
    assert dropped.changes["trigger"].goal == ""


TABLE = RuleTable(
    (Rule("heat", "Heat.", (("You hold it.", "Heat it."),), assertions=("heats",)),),
    (Assertion(ActionExists("^heat"), "heats", "heat"),),
)
LOST = many(replace(acts("look", "go"), goal="heat the egg"), 20, "lost")
WON = many(replace(acts("heat egg", "go", success=True), goal="heat it"), 20, "won")


def test_the_offline_creator_takes_it_from_the_check_that_failed():
    evidence = Evidence(SkillBank(), (*LOST, *WON))
    for goals, wanted in ((False, ""), (True, "(?:heat)")):
        made = OfflineCreator(TABLE, goals=goals).propose(evidence)
        assert made.operations[0].skill.trigger.goal == wanted


def test_rejected_edits_are_remembered_however_old_they_are():
    evidence = Evidence(SkillBank(), (*LOST, *WON))
    made = OfflineCreator(TABLE).propose(evidence)
    past = PastTrial.judged(
        1, made, (SkillBank(), SkillBank((made.operations[0].skill,))), False,
        Contrast(-0.05, 0.02, 0.01),
    )  # fmt: skip
    later = replace(evidence, history=(past,), step=100)
    again = OfflineCreator(TABLE).propose(later)
    assert again.operations[0].name == "heat"
    other = OfflineCreator(TABLE, rejected_edits=1).propose(later)
    assert other is None or other.operations[0].name != "heat"
    assert rejected((past,), 5).startswith("step 1: rejected (-5.0%): add heat")
    accepted = replace(past, accepted=True)
    assert rejected((accepted,), 5) == rejected((past,), 0) == "(none)"
