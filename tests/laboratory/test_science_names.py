"""Names of animals and plants exchanged: what is asked for stays true."""

import random
import re

from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.environments.protocol import Observation
from reskill_jax.laboratory.recipe import RECIPES
from reskill_jax.laboratory.science import LONG_LIVED, SHORT_LIVED, Situation, script
from reskill_jax.laboratory.science_names import ScienceNames
from reskill_jax.rollout.demonstration import DemonstratedTurn, Demonstration

LONGEST = (
    "Your task is to find the animal with the longest life span.  The animals are in "
    "the 'outside' location.  Focus on the animal with the longest life span."
)
BOX = "First, focus on the thing. Then, move it to the red box in the kitchen."
ANIMAL = f"Your task is to find a(n) animal. {BOX}"
PLANT = f"Your task is to find a(n) plant. {BOX}"
HALL = "This room is called the hallway. In it, you see: \n\tthe agent"
GARDEN = (
    "This outside location is called the outside. Here you see: \n\tthe agent\n"
    "\tan axe\n\ta {}\n\tthe ground\n\ta {}\n\ta {}\n\ta substance called wood"
)
GREENHOUSE = (
    "This room is called the greenhouse. In it, you see: \n\tthe agent\n"
    "\ta flower pot 2 (containing nothing)\n"
    "\ta flower pot 4 (containing a pea plant in the adult stage, soil)\n"
    "\ta flower pot 7 (containing a apple tree in the adult stage, soil)"
)
SCENES = {
    LONGEST: ("outside", GARDEN.format("baby wolf", "giant tortoise egg", "baby ant")),
    ANIMAL: ("outside", GARDEN.format("dove egg", "baby elephant", "frog egg")),
    PLANT: ("greenhouse", GREENHOUSE),
}
MORE = GARDEN.format("parrot egg", "baby mouse", "baby rabbit")


def play(goal):
    """Play a goal with the script, as far as the scene goes."""
    place, listing = SCENES[goal]
    texts = [HALL, f"You teleport to the {place}.", listing, "You focus on the thing."]
    state, turns = Situation(goal), []
    state.see("", HALL)
    for text, following in zip(texts, [*texts[1:], ""], strict=True):
        action, _ = script(state)
        turns.append(DemonstratedTurn(Observation(text), action, action))
        state.see(action, following)
    return Demonstration(None, goal, tuple(turns))


PLAYED = {goal: play(goal) for goal in SCENES}
EXTRA = Demonstration(
    None, LONGEST, (DemonstratedTurn(Observation(MORE), "look around", None),)
)
NAMES = ScienceNames.of([*PLAYED.values(), EXTRA])


def test_it_collects_names_as_listings_have_them():
    assert NAMES.animals["wolf"] == "baby wolf"
    assert NAMES.animals["giant tortoise"] == "giant tortoise egg"
    assert "axe" not in NAMES.animals
    assert NAMES.plants == ("apple tree", "pea plant")


@given(st.sampled_from(sorted(SCENES)), st.integers(0, 10_000))
def test_the_script_plays_the_exchanged_world_by_the_same_moves(goal, seed):
    original = PLAYED[goal]
    exchanged = NAMES.shuffle(original, random.Random(seed))
    state = Situation(exchanged.goal)
    action = ""
    for turn in exchanged.turns:
        state.see(action, turn.observation.text)
        action, _ = script(state)
        assert action == turn.action == turn.response
    # What it focuses on is what it sees.
    focus = exchanged.turns[2].action.removeprefix("focus on ")
    assert re.search(rf"\ba {focus}\b", exchanged.turns[2].observation.text)
    assert exchanged == NAMES.shuffle(original, random.Random(seed))


def test_animals_change_but_their_rank_in_a_life_span_does_not():
    seen = set()
    for seed in range(40):
        exchanged = NAMES.shuffle(PLAYED[LONGEST], random.Random(seed))
        listing = exchanged.turns[2].observation.text
        animals = re.findall(r"\ta ((?:baby )?[a-z ]+?(?: egg)?)$", listing, re.M)
        kinds = [re.sub(r"baby | egg", "", name) for name in animals][:3]
        ranks = [(k in LONG_LIVED) - (k in SHORT_LIVED) for k in kinds]
        assert ranks == [0, 1, -1]
        seen.add(tuple(kinds))
    assert len(seen) > 10


def test_names_without_a_stage_follow_the_kind():
    turn = DemonstratedTurn(
        Observation("You move the dove to the inventory."), "pick up dove egg", None
    )
    exchanged = NAMES.shuffle(Demonstration(None, ANIMAL, (turn,)), random.Random(3))
    kind = exchanged.turns[0].observation.text.split("the ")[1].removesuffix(" to ")
    assert exchanged.turns[0].action == f"pick up {NAMES.animals[kind]}"


def test_the_recipe_exchanges_names_and_begins_with_what_copies_them():
    recipe = RECIPES["scienceworld-renamed"]
    assert recipe.world.names is not RECIPES["scienceworld-short"].world.names
    assert all(phase.shuffled >= 0.8 for phase in recipe.phases)
    assert recipe.start is RECIPES["alfworld-small"]
