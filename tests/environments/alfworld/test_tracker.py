"""What the texts of an episode tell about it."""

import pytest

from reskill_jax.environments.alfworld.tracker import Tracker
from reskill_jax.environments.protocol import Task

ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a drawer 1, "
    "a fridge 1, and a shelf 12."
)
HEAT = "pick_heat_then_place_in_recep"


def start(kind="pick_and_place_simple"):
    task = Task(f"train/{kind}-Egg-None-Shelf-3/t", kind, "train", "")
    return Tracker.start(task, ROOM)


def test_it_follows_the_texts():
    tracker = start()
    tracker.read("You arrive at drawer 1. The drawer 1 is closed.")
    assert tracker.closed == {"drawer 1"}
    tracker.read(
        "You open the drawer 1. The drawer 1 is open. In it, you see a cup 1, a egg 2, "
        "and a pen 1."
    )
    assert tracker.closed == set()
    assert tracker.contents == {"drawer 1": ["cup 1", "egg 2", "pen 1"]}
    tracker.read("You pick up the egg 2 from the drawer 1.")
    assert (tracker.held, tracker.origin) == ("egg 2", "drawer 1")
    tracker.read("You close the drawer 1.")
    assert tracker.closed == {"drawer 1"}
    tracker.read("You heat the egg 2 using the microwave 1.")
    tracker.read("You cool the egg 2 using the fridge 1.")
    tracker.read("You clean the egg 2 using the sinkbasin 1.")
    assert tracker.changes == {"egg 2": {"iscool", "isclean"}}
    tracker.read("Nothing happens.")
    tracker.read("You arrive at shelf 12. On the shelf 12, you see nothing.")
    tracker.read("You move the egg 2 to the shelf 12.")
    assert tracker.held == ""
    assert tracker.contents == {"drawer 1": ["cup 1", "pen 1"], "shelf 12": ["egg 2"]}


def test_it_knows_where_the_agent_has_been():
    tracker = start()
    assert tracker.receptacles == ("drawer 1", "fridge 1", "shelf 12")
    assert (tracker.location, tracker.previous_location) == ("", "")
    tracker.advance("go to fridge 1", "You arrive at fridge 1. The fridge 1 is closed.")
    tracker.advance("go to nowhere 2", "Nothing happens.")
    tracker.advance(
        "go to shelf 12", "You arrive at shelf 12. On the shelf 12, you see nothing."
    )
    assert (tracker.location, tracker.previous_location) == ("shelf 12", "fridge 1")
    assert tracker.unvisited == ["drawer 1"]
    assert tracker.last_action == "go to shelf 12"
    assert tracker.actions == {"go to fridge 1", "go to nowhere 2", "go to shelf 12"}
    assert tracker.contents == {"shelf 12": []}


def test_an_object_is_ready_when_it_was_prepared_since_it_was_taken():
    tracker = start(HEAT)
    for again in (False, True):
        tracker.read("You pick up the egg 2 from the drawer 1.")
        assert tracker.holds_target
        assert not tracker.is_ready
        tracker.read("You cool the egg 2 using the fridge 1.")
        assert not tracker.is_ready
        tracker.read("You heat the egg 2 using the microwave 1.")
        assert tracker.is_ready
        tracker.read("You move the egg 2 to the drawer 1.")
        assert not tracker.holds_target
        assert tracker.places_with("egg") == ["drawer 1"], again
    tracker = start()
    tracker.read("You pick up the egg 2 from the drawer 1.")
    assert tracker.is_ready


def test_placed_objects_are_counted_where_they_belong():
    tracker = start()
    for number in (1, 2):
        tracker.read(f"You pick up the egg {number} from the drawer 1.")
        tracker.read(f"You move the egg {number} to the shelf 12.")
    assert tracker.placed == 2
    tracker.read("You pick up the egg 1 from the shelf 12.")
    assert tracker.placed == 1
    tracker.read("You move the egg 1 to the drawer 1.")
    tracker.read("You move the cup 1 to the shelf 12.")
    assert tracker.placed == 1


@pytest.mark.parametrize(
    ("task", "text"), [("boil/3", ROOM), ("train/a-b-c-d-e/t", "A lab.")]
)
def test_other_tasks_are_refused(task, text):
    with pytest.raises(ValueError, match="is not an ALFWorld game: its id must be"):
        Tracker.start(Task(task, "boil", "train", ""), text)
