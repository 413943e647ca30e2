"""The expert wins without knowing where things are, whoever plays in between."""

import json
import random

import pytest

pytest.importorskip("textworld")

from reskill_jax.environments.alfworld.environment import (
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.expert import Expert
from reskill_jax.environments.alfworld.games import generate
from reskill_jax.environments.alfworld.house_settings import HouseSettings
from reskill_jax.environments.alfworld.pddl import House, Receptacle, Thing, game
from reskill_jax.environments.protocol import Observation, Task

IDS = {"CounterTop": "CounterTop|+01.00", "SinkBasin": "Sink|+01.00|SinkBasin"}
IDS |= {kind: f"{kind}|+01.00" for kind in ("Fridge", "Microwave")}
PLACES = {
    kind: Receptacle(key, kind, (number, 0, 0, 30))
    for number, (kind, key) in enumerate(IDS.items())
}
START = (50, 0, 0, 0)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """Two small houses of each kind."""
    root = tmp_path_factory.mktemp("expert") / "games"
    generate(root, HouseSettings(train=12, valid_seen=0, valid_unseen=0, seed=2))
    return find_games(str(root), "train")


@pytest.fixture(scope="module")
def environment():
    environment = AlfworldEnvironment()
    yield environment
    environment.close()


def play(environment, task, *, deviate=lambda now, advice: None, limit=60):
    """Follow the expert but for deviations; return the actions and whether it won."""
    expert, actions = Expert(), list[str]()
    _, now = environment.reset(task)
    expert.reset(task, now)
    while not now.done and len(actions) < limit:
        advice = expert.propose()
        assert advice is not None
        assert advice in now.choices
        actions.append(deviate(now, advice) or advice)
        now = environment.step(actions[-1])
        expert.observe(now)
    return actions, now.success


def save(house, folder):
    """Write a house made by hand as a game file."""
    path = folder / "game.tw-pddl"
    path.write_text(json.dumps(game(house, template=0)))
    return Task(f"train/{house.folder}/trial_0", house.task, "train", str(path))


def test_it_wins_small_houses_within_twenty_turns_and_repeats_itself(
    environment, tasks
):
    for task in tasks:
        actions, won = play(environment, task, limit=20)
        assert won, (task.id, actions)
        assert (actions, True) == play(environment, task)


@pytest.mark.parametrize("seed", [0, 1])
def test_it_goes_on_after_random_actions(environment, tasks, seed):
    for task in tasks:
        rng = random.Random(f"{seed}/{task.id}")

        def stray(now, advice, rng=rng):
            return rng.choice(now.choices) if rng.random() < 0.4 else None

        actions, won = play(environment, task, deviate=stray, limit=150)
        assert won, (task.id, actions)


def test_it_takes_back_what_was_put_down_unprepared(environment, tasks):
    prepared = [task for task in tasks if "then_place" in task.kind]
    for task in prepared:
        goal = task.id.split("/")[1].split("-")[3].lower()
        slips: list[str] = []

        def slip(now, advice, goal=goal, slips=slips):
            """Once the target is in hand, straight to the goal with it."""
            holding = any(c.startswith("move ") for c in now.choices) or slips
            put = [c for c in now.choices if c.startswith("move ") and goal in c]
            if not holding or (slips and slips[-1].startswith("move ")):
                return None
            ways = [f"open {goal}", f"go to {goal}"]
            to_goal = [c for way in ways for c in now.choices if c.startswith(way)]
            slips.append((put + to_goal)[0])
            return slips[-1]

        actions, won = play(environment, task, deviate=slip)
        assert won, (task.id, actions)
        assert sum(action.startswith("move ") for action in actions) >= 2


def test_two_things_must_end_in_one_receptacle(environment, tmp_path):
    cabinets = [
        Receptacle(f"Cabinet|+0{n}.00", "Cabinet", (n, 1, 0, 0)) for n in (5, 6, 7)
    ]
    places = (*PLACES.values(), *cabinets)
    cups = tuple(
        Thing(f"Cup|+0{n}.00", "Cup", cabinet)
        for n, cabinet in enumerate(cabinets[:2], 1)
    )
    house = House(
        "pick_two_obj_and_place", "Cup", "Cabinet", 1, places, cups, start=START
    )
    actions, won = play(environment, save(house, tmp_path), limit=25)
    assert won, actions


def test_it_looks_into_receptacles_that_share_a_location(environment, tmp_path):
    drawers = [
        Receptacle(f"Drawer|+0{n}.00", "Drawer", (9, 1, 0, 0)) for n in (5, 6, 7)
    ]
    places = (*PLACES.values(), *drawers)
    for number, drawer in enumerate(drawers):
        folder = tmp_path / str(number)
        folder.mkdir()
        spoon = Thing("Spoon|+01.00", "Spoon", drawer)
        house = House(
            "pick_and_place_simple", "Spoon", "SinkBasin", 1, places, (spoon,), START
        )
        actions, won = play(environment, save(house, folder), limit=20)
        assert won, actions


def test_it_says_when_everything_was_searched_in_vain(environment, tmp_path):
    counter = PLACES["CounterTop"]
    hidden = Receptacle("Cabinet|+01.00", "Cabinet", (9, 1, 0, 0))
    things = (Thing("Egg|+01.00", "Egg", counter), Thing("Cup|+01.00", "Cup", hidden))
    house = House(
        "pick_and_place_simple",
        "Cup",
        "SinkBasin",
        1,
        (*PLACES.values(), hidden),
        things,
        START,
    )
    task = save(house, tmp_path)
    expert = Expert()
    _, now = environment.reset(task)
    # The same house, where the goal is about a thing that is not in it.
    expert.reset(Task(task.id.replace("Cup", "Plate"), task.kind, "train", ""), now)
    proposals = []
    while (advice := expert.propose()) is not None:
        proposals.append(advice)
        assert len(proposals) < 20
        now = environment.step(advice)
        expert.observe(now)
    gone_to = {action[6:] for action in proposals if action.startswith("go to ")}
    assert gone_to == {
        "countertop 1", "fridge 1", "microwave 1", "sinkbasin 1", "cabinet 1"
    }  # fmt: skip


def test_it_proposes_nothing_after_the_end(environment, tasks):
    expert = Expert()
    _, now = environment.reset(tasks[0])
    expert.reset(tasks[0], now)
    expert.observe(Observation("You won.", (), reward=1.0, done=True, success=True))
    assert expert.propose() is None


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match="'boil/3' is not an ALFWorld game"):
        Expert().reset(Task("boil/3", "boil", "train", ""), Observation("A lab.", ()))
