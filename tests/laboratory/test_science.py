"""The script of ScienceWorld's short tasks: its rules, its mistakes, its success."""

import importlib.util
import random
from dataclasses import replace

import pytest

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.scienceworld.tasks import CHOICES, panel
from reskill_jax.laboratory.demonstrator import (
    DemonstrationSettings,
    PlayedEpisode,
    bank_of_episode,
    correct,
    demonstrate,
)
from reskill_jax.laboratory.recipe import RECIPES
from reskill_jax.laboratory.science import (
    OBEY,
    TAUGHT,
    ScienceDemonstrator,
    ScienceMistakes,
    Situation,
    script,
)

PLANT = (
    "Your task is to find a(n) plant. First, focus on the thing. Then, move it to the "
    "red box in the living room."
)
LONGEST = "Your task is to find the animal with the longest life span."
HALL = "This room is called the hallway. In it, you see: \n\tthe agent"
GREENHOUSE = (
    "This room is called the greenhouse. In it, you see: \n\tthe agent\n"
    "\ta flower pot 2 (containing nothing)\n"
    "\ta flower pot 4 (containing a pea plant in the adult stage with a tall height)"
)
GARDEN = (
    "This outside location is called the outside. Here you see: \n\tthe agent\n"
    "\ta baby wolf\n\ta giant tortoise egg\n\ta baby mouse"
)
POT = ("pick up flower pot 4", "You move the flower pot 4 to the inventory.")
THERE = ("teleport to greenhouse", "You teleport to the greenhouse.")
SEEN = ("look around", GREENHOUSE)
FOCUS = ("focus on pea plant", "You focus on the pea plant.")
AT_BOX = ("teleport to living room", "You teleport to the living room.")
NEVER = ScienceMistakes(0, 0, 0, 0, 0)
PERFECT = DemonstrationSettings(max_turns=8, skilled=0.0, slips=0.0, habits=NEVER)
TRAVEL = "teleport to living room"


def situation(goal=PLANT, *played):
    state = Situation(goal)
    state.see("", HALL)
    for action, text in played:
        state.see(action, text)
    return state


@pytest.mark.parametrize(
    ("played", "command", "habit"),
    [
        ((), "teleport to greenhouse", "travel"),
        ((THERE,), "look around", "look"),
        ((THERE, SEEN), "focus on pea plant", "focus"),
        ((THERE, SEEN, FOCUS), "pick up flower pot 4", "pick"),
        ((THERE, SEEN, FOCUS, POT), TRAVEL, "travel"),
        ((THERE, SEEN, FOCUS, POT, AT_BOX), "move flower pot 4 to red box", "move"),
        # It has left without the thing, or has it without the focus.
        ((THERE, SEEN, FOCUS, AT_BOX), "teleport to greenhouse", "travel"),
        ((THERE, SEEN, POT, AT_BOX), "focus on pea plant", "focus"),
    ],
)
def test_the_script_has_an_answer_wherever_it_is(played, command, habit):
    assert script(situation(PLANT, *played)) == (command, habit)


def test_it_knows_which_animals_live_long():
    arrival = ("teleport to outside", "You teleport to the outside.")
    state = situation(LONGEST, arrival, ("look around", GARDEN))
    assert script(state) == ("focus on giant tortoise egg", "focus")
    assert set(state.others()) == {"baby wolf", "baby mouse"}


def test_rules_are_silent_where_their_condition_does_not_hold():
    start, there = situation(), situation(PLANT, THERE, SEEN)
    held = situation(PLANT, THERE, SEEN, FOCUS, POT)
    boxed = situation(PLANT, THERE, SEEN, FOCUS, POT, AT_BOX)
    asked = {
        name: [obey(state) for state in (start, there, held, boxed)]
        for name, obey in OBEY.items()
    }
    pot = "flower pot 4"
    assert asked == {
        "go-where-it-is": ["teleport to greenhouse", None, None, None],
        "focus-first": [None, "focus on pea plant", None, None],
        "pick-it-up": [None, None, None, None],
        "carry-it-to-the-room": [None, None, TRAVEL, None],
        "move-it-to-the-box": [None, None, None, f"move {pot} to red box"],
        "look-around-again": ["look around", None, "look around", "look around"],
        "check-the-inventory": ["inventory"] * 4,
        "return-to-the-hallway": [None, *["teleport to hallway"] * 3],
        "wait-and-see": ["wait1"] * 4,
        "put-it-down-here": [None, None, f"put down {pot}", f"put down {pot}"],
    }
    focused = situation(PLANT, THERE, SEEN, FOCUS)
    assert OBEY["pick-it-up"](focused) == f"pick up {pot}"
    assert {rule.name for rule in TAUGHT} == set(OBEY)


def test_it_errs_as_often_as_it_is_told_and_obeys_a_skill():
    task = panel(("find-plant",), (), "train", 1, simplifications="easy").tasks[0]
    always = replace(PERFECT, habits=ScienceMistakes(1, 1, 1, 1, 1))
    for seed in range(20):
        rng = random.Random(seed)
        bank = ScienceDemonstrator.draw_bank(
            rng, replace(always, skilled=1.0, helpful=1.0), task.kind
        )
        assert all(skill.name in OBEY for skill in bank.skills)
        player = ScienceDemonstrator(task, Observation(HALL), bank, always, rng, PLANT)
        shown = {skill.name for skill in player.skills}
        obeys = player.advise() == "teleport to greenhouse"
        assert obeys == ("go-where-it-is" in shown)
        assert player.harmful_actions == 0


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("scienceworld") is None,
    reason="the extra `scienceworld` is not installed",
)
def test_on_the_simulator_it_reaches_every_goal_and_corrects():
    from reskill_jax.environments.scienceworld.environment import (
        ScienceWorldEnvironment,
    )

    names, unseen = CHOICES["short"]
    player = ScienceWorldEnvironment(heap_mb=512)
    held_out = panel((*names, *unseen), (), "test", 36, simplifications="easy")
    for task in held_out:
        shown = demonstrate(player, task, PERFECT, 0, ScienceDemonstrator)
        assert shown.success, (task.id, [turn.action for turn in shown.turns])
        assert shown.final_observation
    teaching = RECIPES["scienceworld-short"].teaching
    task = held_out.tasks[0]
    played = PlayedEpisode(task, 5, ("look around", "wait1", "inventory"))
    corrected = correct(player, played, teaching, ScienceDemonstrator)
    assert [turn.action for turn in corrected.turns] == list(played.actions)
    bank = bank_of_episode(task, teaching, 5, ScienceDemonstrator)
    assert corrected.turns[0].skills == bank.active(None)
