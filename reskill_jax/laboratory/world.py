"""What a player of ALFWorld can know from the text alone.

The demonstrator decides with it whether a rule applies. It never looks behind doors:
all of it follows from the task, the observations and the commands played.
"""

import re
from dataclasses import dataclass, field

from reskill_jax.environments.protocol import Task

_THING = re.compile(r"\ban? ([a-z]+ \d+)")

PREPARE = {  # task kind -> (verb, where)
    "pick_heat_then_place_in_recep": ("heat", "microwave"),
    "pick_cool_then_place_in_recep": ("cool", "fridge"),
    "pick_clean_then_place_in_recep": ("clean", "sinkbasin"),
}
LOOK = "look_at_obj_in_light"
TWO = "pick_two_obj_and_place"


@dataclass
class World:
    """The state of one game as the text tells it.

    Attributes:
        kind: task kind.
        target: type of the wanted object, lower case.
        goal: type of the goal receptacle (the lamp, in look tasks).
        places: receptacles named by the first observation, in its order.
        at: where the agent stands, None at the start.
        before: where it stood before that.
        visited: places it has been to.
        contents: what was last seen at each place.
        holding: object in hand.
        ready: whether the object in hand needs no (more) preparation.
        placed: wanted objects put at the goal.
        last: the previous command.
        done: all previous commands.
    """

    kind: str
    target: str
    goal: str
    places: list[str] = field(default_factory=list)
    at: str | None = None
    before: str | None = None
    visited: set[str] = field(default_factory=set)
    contents: dict[str, list[str]] = field(default_factory=dict)
    holding: str | None = None
    ready: bool = False
    placed: int = 0
    last: str = ""
    done: set[str] = field(default_factory=set)

    @classmethod
    def start(cls, task: Task, observation: str) -> "World":
        """Read the first observation; target and goal follow from the task's name."""
        folder = task.id.split("/")[1]
        _, target, _, goal, _ = folder.split("-")
        return cls(
            kind=task.kind,
            target=target.lower(),
            goal=goal.lower(),
            places=_THING.findall(observation),
        )

    def advance(self, action: str, observation: str) -> None:
        """Follow one command and what came of it."""
        self.last = action
        self.done.add(action)
        if observation == "Nothing happens.":
            return
        if found := re.fullmatch(r"go to (.+)", action):
            self.before, self.at = self.at, found[1]
            self.visited.add(found[1])
            self._look(observation)
        elif re.fullmatch(r"open (.+)", action):
            self._look(observation)
        elif found := re.fullmatch(r"take (.+) from (.+)", action):
            self.holding, self.ready = found[1], self.kind not in PREPARE
            self.contents[found[2]] = [
                thing for thing in self.contents.get(found[2], []) if thing != found[1]
            ]
            if self.is_goal(found[2]) and self.is_target(found[1]):
                self.placed = max(0, self.placed - 1)
        elif found := re.fullmatch(r"move (.+) to (.+)", action):
            self.contents.setdefault(found[2], []).append(found[1])
            if self.is_goal(found[2]) and self.is_target(found[1]):
                self.placed += 1
            self.holding = None
        elif found := re.fullmatch(r"(heat|cool|clean) .+", action):
            verb, _ = PREPARE.get(self.kind, (None, None))
            self.ready |= found[1] == verb

    def _look(self, observation: str) -> None:
        if self.at is not None and "you see" in observation:
            seen = observation.split("you see", 1)[1]
            self.contents[self.at] = _THING.findall(seen)

    def is_target(self, thing: str | None) -> bool:
        """Tell whether a thing such as ``mug 2`` is of the wanted type."""
        return thing is not None and thing.rsplit(" ", 1)[0] == self.target

    def is_goal(self, place: str | None) -> bool:
        """Tell whether a place such as ``shelf 1`` is of the goal's type."""
        return place is not None and place.rsplit(" ", 1)[0] == self.goal

    def unvisited(self) -> list[str]:
        """List the commands that go to places not visited yet, in the room's order."""
        return [f"go to {place}" for place in self.places if place not in self.visited]

    def seen(self, kind: str) -> list[str]:
        """List the places where a thing of this type was last seen."""
        return [
            place
            for place, things in self.contents.items()
            if any(thing.rsplit(" ", 1)[0] == kind for thing in things)
        ]

    @property
    def carries_target(self) -> bool:
        """Whether the wanted object is in hand."""
        return self.is_target(self.holding)
