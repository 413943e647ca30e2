"""Every rule of the table can be obeyed, and its follower does what the rule says."""

import random

import pytest

from reskill_jax.environments.alfworld.rules import HARMFUL, RULES
from reskill_jax.environments.alfworld.tracker import Tracker
from reskill_jax.environments.protocol import Task
from reskill_jax.laboratory.demonstrator import (
    DemonstrationSettings,
    MistakeRates,
    draw_bank,
    err,
    obey,
    situation,
    slip,
)
from reskill_jax.laboratory.rule_policy import OBEY
from reskill_jax.skills.skill import SkillBank

ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, "
    "a cabinet 1, a countertop 1, a microwave 1, and a shelf 1."
)


def world(kind="pick_and_place_simple", target="Mug", goal="Shelf", played=()):
    task = Task(f"train/{kind}-{target}-None-{goal}-3/t", kind, "train", "")
    state = Tracker.start(task, ROOM)
    for action, observation in played:
        state.advance(action, observation)
    return state


CLOSED = ("go to cabinet 1", "You arrive at cabinet 1. The cabinet 1 is closed.")
OPENED = (
    "open cabinet 1",
    "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 2.",
)
TAKEN = ("take mug 2 from cabinet 1", "You pick up the mug 2 from the cabinet 1.")
AT_GOAL = ("go to shelf 1", "You arrive at shelf 1. On the shelf 1, you see nothing.")
PLACED = ("move mug 2 to shelf 1", "You move the mug 2 to the shelf 1.")
HEATED = ("heat mug 2 with microwave 1", "You heat the mug 2 using the microwave 1.")
LAMP = (
    "go to countertop 1",
    "You arrive at countertop 1. On the countertop 1, you see a desklamp 1.",
)
GO = ["go to cabinet 2", "go to microwave 1", "go to shelf 1", "look", "inventory"]
HEAT = "pick_heat_then_place_in_recep"
LOOK = "look_at_obj_in_light"
TWO = "pick_two_obj_and_place"

CASES = [
    ("open-what-is-closed", world(played=[CLOSED]), ["open cabinet 1", *GO],
     "open cabinet 1"),
    ("open-what-is-closed", world(played=[CLOSED, OPENED]), GO, None),
    ("search-new-places", world(played=[CLOSED]), ["open cabinet 1", *GO], None),
    ("search-new-places", world(played=[AT_GOAL]), GO, "go to cabinet 2"),
    ("search-new-places", world(played=[CLOSED, OPENED, TAKEN]), GO, None),
    ("take-it-on-sight", world(played=[CLOSED, OPENED]), [TAKEN[0], *GO], TAKEN[0]),
    ("take-it-on-sight", world(played=[AT_GOAL]), ["take mug 1 from shelf 1"], None),
    ("take-it-on-sight", world(played=[CLOSED]), ["take cup 1 from cabinet 1"], None),
    ("heat-cool-or-clean-first", world(HEAT, played=[CLOSED, OPENED, TAKEN]), GO,
     "go to microwave 1"),
    ("heat-cool-or-clean-first", world(HEAT, played=[CLOSED, OPENED, TAKEN]),
     ["heat mug 2 with microwave 1", *GO], "heat mug 2 with microwave 1"),
    ("heat-cool-or-clean-first", world(HEAT, played=[CLOSED, OPENED, TAKEN, HEATED]),
     GO, None),
    ("heat-cool-or-clean-first", world(played=[CLOSED, OPENED, TAKEN]), GO, None),
    ("use-the-lamp", world(LOOK, goal="DeskLamp", played=[LAMP, CLOSED, OPENED, TAKEN]),
     ["go to countertop 1", *GO], "go to countertop 1"),
    ("use-the-lamp", world(LOOK, goal="DeskLamp", played=[CLOSED, OPENED, TAKEN, LAMP]),
     ["use desklamp 1", *GO], "use desklamp 1"),
    ("use-the-lamp", world(LOOK, goal="DeskLamp", played=[CLOSED, OPENED, TAKEN]), GO,
     None),
    ("carry-it-to-the-target", world(played=[CLOSED, OPENED, TAKEN]), GO,
     "go to shelf 1"),
    ("carry-it-to-the-target", world(HEAT, played=[CLOSED, OPENED, TAKEN]), GO, None),
    ("place-it-at-the-target", world(played=[CLOSED, OPENED, TAKEN, AT_GOAL]),
     [PLACED[0], *GO], PLACED[0]),
    ("place-it-at-the-target", world(HEAT, played=[CLOSED, OPENED, TAKEN, AT_GOAL]),
     [PLACED[0], *GO], None),
    ("find-the-second", world(TWO, played=[CLOSED, OPENED, TAKEN, AT_GOAL, PLACED]), GO,
     "go to cabinet 2"),
    ("find-the-second", world(TWO, played=[CLOSED, OPENED, TAKEN]), GO, None),
    ("examine-everything", world(played=[("examine a", "x")]),
     ["examine a", "examine b"], "examine b"),
    ("look-around-again", world(played=[CLOSED]), GO, "look"),
    ("look-around-again", world(played=[("look", "x")]), GO, None),
    ("check-the-inventory", world(played=[CLOSED]), GO, "inventory"),
    ("check-the-inventory", world(played=[("inventory", "x")]), GO, None),
    ("go-back", world(played=[AT_GOAL, CLOSED]), GO, "go to shelf 1"),
    ("go-back", world(played=[CLOSED]), GO, None),
    ("close-it-again", world(played=[CLOSED, OPENED]), ["close cabinet 1", *GO],
     "close cabinet 1"),
    ("put-it-down-here", world(played=[CLOSED, OPENED, TAKEN]),
     ["move mug 2 to cabinet 1", *GO], "move mug 2 to cabinet 1"),
    ("put-it-down-here", world(played=[CLOSED]), GO, None),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "state", "admissible", "command"), CASES)
def test_obey(rule, state, admissible, command):
    assert OBEY[rule](state, admissible, "look") == command


def test_every_rule_of_the_table_can_be_obeyed():
    assert set(OBEY) == {rule.name for rule in RULES}
    assert {case[0] for case in CASES} == set(OBEY)


def test_the_experts_choice_is_kept_where_the_rule_leaves_one():
    state = world(played=[AT_GOAL])
    assert OBEY["search-new-places"](state, GO, "go to microwave 1") == GO[1]


def test_the_first_skill_that_applies_is_obeyed():
    by_name = {rule.name: rule.skill() for rule in RULES}
    names = ["put-it-down-here", "go-back", "look-around-again"]
    state = world(played=[AT_GOAL, CLOSED])
    shown = SkillBank(tuple(by_name[name] for name in names)).active("go to cabinet 1")
    assert obey(shown, state, GO, "look") == ("go-back", "go to shelf 1")
    assert obey((), state, GO, "look") == (None, "")


def test_habits_err_as_often_as_they_say_and_prepare_slips_to_the_goal():
    state = world(HEAT, played=[CLOSED, OPENED, TAKEN])
    assert situation(state, "go to microwave 1") == "prepare"
    rng = random.Random(0)
    habits = MistakeRates(prepare=0.7)
    played = [err(rng, state, GO, "go to microwave 1", habits) for _ in range(2000)]
    assert set(played) == {"go to microwave 1", "go to shelf 1"}
    assert played.count("go to shelf 1") / 2000 == pytest.approx(0.7, abs=0.04)
    never = MistakeRates(*[0.0] * 7)
    assert err(rng, state, GO, "go to microwave 1", never) == "go to microwave 1"


def drawn(count=600, kind=HEAT, **teaching):
    rng = random.Random(0)
    return [
        draw_bank(rng, DemonstrationSettings(**teaching), kind) for _ in range(count)
    ]


def test_drawn_banks_have_skills_of_both_kinds_and_only_as_often_as_asked():
    banks = drawn(skilled=0.5, max_skills=3, helpful=0.5, relevant=0.0)
    assert sum(bool(bank.skills) for bank in banks) / 600 == pytest.approx(
        0.5, abs=0.08
    )
    assert max(len(bank.skills) for bank in banks) == 3
    harmful = {rule.name for rule in HARMFUL}
    drawn_harmful = [s.name in harmful for bank in banks for s in bank.skills]
    share = sum(drawn_harmful) / len(drawn_harmful)
    assert share == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("kind", "rule"),
    [(HEAT, "heat-cool-or-clean-first"), (LOOK, "use-the-lamp"),
     (TWO, "find-the-second"), ("pick_and_place_simple", None)],
)  # fmt: skip
def test_what_decides_a_task_is_drawn_more_often(kind, rule):
    one = {"kind": kind, "skilled": 1.0, "max_skills": 1, "helpful": 1.0}
    names = [bank.skills[0].name for bank in drawn(relevant=0.6, **one)]
    helpful = len(RULES) - len(HARMFUL)
    for name in set(names):
        expected = 1 / helpful if rule is None else 0.4 / helpful + 0.6 * (name == rule)
        assert names.count(name) / 600 == pytest.approx(expected, abs=0.06)
    assert rule is None or rule in names


def test_a_slip_is_a_command_that_was_possible_and_is_not_any_more():
    state = world(played=[CLOSED])
    now = ["go to shelf 1", "open cabinet 1"]
    offered = [*now, "go to cabinet 1", "go to cabinet 2"]
    slips = {slip(random.Random(k), state, offered, now) for k in range(50)}
    assert slips == {"go to cabinet 1", "go to cabinet 2"}
    repeats = [slip(random.Random(k), state, offered, now) for k in range(200)]
    assert repeats.count("go to cabinet 1") > 120  # what was just done, more often
    assert slip(random.Random(0), state, now, now) is None
