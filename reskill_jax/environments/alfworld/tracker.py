"""Tracks an ALFWorld episode from the texts that a player sees.

The expert decides with it where to go, the demonstrator whether a skill applies.
Nothing comes from the engine's state: what was not seen is not known.
"""

import re
from dataclasses import dataclass, field

from reskill_jax.environments.protocol import Task

LOOK = "look_at_obj_in_light"
TWO = "pick_two_obj_and_place"
# Task kind -> (command that the object needs before it is placed, receptacle for it).
PREPARATIONS = {
    "pick_heat_then_place_in_recep": ("heat", "microwave"),
    "pick_cool_then_place_in_recep": ("cool", "fridge"),
    "pick_clean_then_place_in_recep": ("clean", "sinkbasin"),
}

_NAME = r"(\w+ \d+)"
_ROOM = re.compile(r"Looking quickly around you, you see (.*)\.")
_ARRIVED = re.compile(rf"You arrive at {_NAME}\.")
_CONTENTS = re.compile(
    rf"(?:On the {_NAME}|The {_NAME} is open\. In it), you see (.*)\."
)
_CLOSED = re.compile(rf"(?:The {_NAME} is closed|You close the {_NAME})\.")
_TAKEN = re.compile(rf"You pick up the {_NAME} from the {_NAME}\.")
_MOVED = re.compile(rf"You move the {_NAME} to the {_NAME}\.")
_CHANGED = re.compile(rf"You (heat|cool|clean) the {_NAME} using")
# Verb -> (the engine's fact that becomes true, the fact that ends).
_EFFECTS = {"heat": ("ishot", "iscool"), "cool": ("iscool", "ishot")}
_EFFECTS |= {"clean": ("isclean", "")}


@dataclass
class Tracker:
    """One episode as its texts tell it; names are the engine's, e.g. ``drawer 2``.

    Attributes:
        kind: task kind, e.g. ``pick_heat_then_place_in_recep``.
        target: type of the wanted object, lower case.
        goal: type of the receptacle that it belongs in; of the lamp in look tasks.
        receptacles: all, in the order of the room's description.
        location: where the agent stands; empty at the start.
        previous_location: where it stood before that.
        visited: receptacles that it went to.
        contents: what was last seen in or on each receptacle that was looked into.
        closed: receptacles that were last seen closed.
        held: the object in hand, or empty.
        origin: the receptacle that the held object was taken from.
        changes: object -> what heating, cooling and cleaning made true of it.
        treatments: verbs of those, done since the held object was taken.
        placed: how many wanted objects were moved to a receptacle of the goal's type.
        last_action: the command before this turn, whether it changed anything or not.
        actions: all commands so far.
    """

    kind: str
    target: str
    goal: str
    receptacles: tuple[str, ...]
    location: str = ""
    previous_location: str = ""
    visited: set[str] = field(default_factory=set)
    contents: dict[str, list[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    held: str = ""
    origin: str = ""
    changes: dict[str, set[str]] = field(default_factory=dict)
    treatments: set[str] = field(default_factory=set)
    placed: int = 0
    last_action: str = ""
    actions: set[str] = field(default_factory=set)

    @classmethod
    def start(cls, task: Task, observation: str) -> "Tracker":
        """Begin with an episode's first text; kind, target and goal are in the task id.

        Raises:
            ValueError: the id or the text is not that of an ALFWorld game.
        """
        parts = task.id.split("/")[1].split("-") if "/" in task.id else []
        room = _ROOM.search(observation)
        if len(parts) != 5 or room is None:
            raise ValueError(
                f"task {task.id!r} is not an ALFWorld game: its id must be <split>/"
                "<kind>-<object>-<movable>-<receptacle>-<scene>/<trial>, and its first "
                f"text must list the room's receptacles, which {observation!r} does not"
            )
        kind, target, _, goal, _ = (part.lower() for part in parts)
        return cls(kind, target, goal, tuple(re.findall(_NAME, room[1])))

    def advance(self, action: str, text: str) -> None:
        """Take in a command and the observation that answered it."""
        self.last_action = action
        self.actions.add(action)
        self.read(text)

    def read(self, text: str) -> None:
        """Take in an observation, whatever command it answered."""
        for place in _ARRIVED.findall(text):
            self.previous_location, self.location = self.location, place
            self.visited.add(place)
        for on, within, listing in _CONTENTS.findall(text):
            self.contents[on or within] = re.findall(_NAME, listing)
            self.closed.discard(on or within)
        for seen, shut in _CLOSED.findall(text):
            self.closed.add(seen or shut)
        for thing, place in _TAKEN.findall(text):
            self.held, self.origin, self.treatments = thing, place, set()
            things = self.contents.get(place, [])
            self.contents[place] = [other for other in things if other != thing]
            if self.is_target(thing) and self.is_goal(place):
                self.placed = max(0, self.placed - 1)
        for thing, place in _MOVED.findall(text):
            self.held = ""
            self.contents.setdefault(place, []).append(thing)
            self.placed += self.is_target(thing) and self.is_goal(place)
        for verb, thing in _CHANGED.findall(text):
            self.treatments.add(verb)
            added, ended = _EFFECTS[verb]
            facts = self.changes.setdefault(thing, set())
            facts.add(added)
            facts.discard(ended)

    def is_target(self, name: str) -> bool:
        """Tell whether a name such as ``mug 2`` is of the wanted type."""
        return type_of(name) == self.target

    def is_goal(self, name: str) -> bool:
        """Tell whether a name such as ``shelf 1`` is of the goal's type."""
        return type_of(name) == self.goal

    @property
    def holds_target(self) -> bool:
        """Whether the object in hand is of the wanted type."""
        return self.is_target(self.held)

    @property
    def is_ready(self) -> bool:
        """Whether the object in hand needs no (more) preparation."""
        verb, _ = PREPARATIONS.get(self.kind, ("", ""))
        return not verb or verb in self.treatments

    @property
    def unvisited(self) -> list[str]:
        """Receptacles that the agent did not go to yet, in the room's order."""
        return [place for place in self.receptacles if place not in self.visited]

    def places_with(self, kind: str) -> list[str]:
        """List the receptacles where an object of this type was last seen."""
        return [
            place
            for place, things in self.contents.items()
            if any(type_of(thing) == kind for thing in things)
        ]


def type_of(name: str) -> str:
    """Return the type of a named thing: ``mug`` of ``mug 2``."""
    return name.partition(" ")[0]
