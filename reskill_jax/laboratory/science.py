"""A scripted player of ScienceWorld's short tasks that errs, and obeys skills.

Gold paths would not do as demonstrations: they open doors that are open, name objects
as nobody would, and say nothing about what to do where a policy has left them. The
script knows the few steps that such tasks take, reads the rest from what was seen, and
so has an answer everywhere.
"""

import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from reskill_jax.environments.protocol import Observation, Task
from reskill_jax.environments.scienceworld.rules import HARMFUL, HELPFUL
from reskill_jax.laboratory.demonstrator import DemonstrationSettings
from reskill_jax.skills.skill import Skill, SkillBank

LOOK = "look around"
ROOMS = (
    *("art studio", "bathroom", "bedroom", "foundry", "greenhouse", "hallway"),
    *("kitchen", "living room", "outside", "workshop"),
)
# Of the animals that a garden has, those that live longest and shortest.
LONG_LIVED = ("giant tortoise", "parrot", "crocodile", "elephant", "brown bear")
SHORT_LIVED = ("chameleon", "mouse", "hedgehog", "ant", "dragonfly")
# What does not live and stands in every room that has a box.
_LIFELESS = ("table", "desk", "bed", "counter", "glass cup", "chair")
# What a careless agent takes for an animal, a plant, or something that does not live.
_WRONG = {
    "animal": ("axe", "fountain", "wood"),
    "plant": ("shovel", "jug", "sink"),
    "non-living thing": ("agent", "air"),
}
_STAGES = r"egg|baby"
_ROOM = re.compile(r"^This (?:room|outside location) is called the ([a-z ]+)\.")
_ARRIVAL = re.compile(r"^You (?:move|teleport) to the ([a-z ]+)\.$")
_MOVED = re.compile(r"^You move the (.+) to the ([a-z ]+)\.$")
_ANIMAL = re.compile(rf"^\ta ((?:{_STAGES}) [a-z ]+|[a-z ]+ (?:{_STAGES}))$", re.M)
_PLANT = re.compile(r"^\ta (flower pot \d+) \(containing an? ([a-z ]+) in the ", re.M)
_GOAL = re.compile(
    r"find a\(n\) ([a-z-]+(?: thing)?)\..* to the ([a-z]+ box) in the (.*)\.$"
)


@dataclass(frozen=True)
class ScienceMistakes:
    """How often the script does something worse, by what it would do."""

    travel: float = 0.15  # going to the right place
    look: float = 0.1  # looking around there
    focus: float = 0.55  # focusing before touching; on the right animal
    pick: float = 0.5  # taking the thing along
    move: float = 0.1  # moving it to the box


@dataclass
class Situation:
    """What is known in one episode.

    Attributes:
        goal: its sentence.
        location: the room of the agent.
        listings: what was seen in each room.
        focused: whether the focus is on the thing.
        held: whether the thing is in the inventory.
        thing_at: the room where the thing lies, once it has been seen.
        last_action: the last command.
    """

    goal: str
    location: str = ""
    listings: dict[str, str] = field(default_factory=dict)
    focused: bool = False
    held: bool = False
    thing_at: str = ""
    last_action: str = ""

    def __post_init__(self) -> None:
        """Read the goal."""
        found = _GOAL.search(self.goal)
        self.wanted, self.box, self.room = found.groups() if found else ("", "", "")
        self.ranks = LONG_LIVED if "longest" in self.goal else SHORT_LIVED

    def see(self, action: str, text: str) -> None:
        """Take in what a command has led to."""
        self.last_action = action
        if place := _ROOM.match(text):
            self.location = place[1]
            self.listings[self.location] = text
        elif arrival := _ARRIVAL.match(text):
            self.location = arrival[1]
        elif text.startswith("You focus on "):
            self.focused = True
        elif (moved := _MOVED.match(text)) and self._is_thing(action):
            self.held = moved[2] == "inventory"
            if not self.held:
                self.thing_at = self.location

    @property
    def place(self) -> str:
        """Where the thing is, or should be."""
        if self.thing_at:
            return self.thing_at
        outside = {"plant": "greenhouse", "non-living thing": self.room}
        return outside.get(self.wanted, "outside")

    @property
    def thing(self) -> tuple[str, str]:
        """What to focus on, and what to pick up and move; empty while not seen."""
        first_place = Situation(self.goal).place
        listing = self.listings.get(first_place, "")
        if self.wanted == "plant":
            plants = _PLANT.findall(listing)
            return (plants[0][1], plants[0][0]) if plants else ("", "")
        if self.wanted == "non-living thing":
            here = [t for t in _LIFELESS if re.search(rf"^\tan? {t}\b", listing, re.M)]
            return (here[0], here[0]) if here else ("", "")
        animals = _ANIMAL.findall(listing)
        if not self.wanted:
            animals = [a for a in animals if _bare(a) in self.ranks]
        return (animals[0], animals[0]) if animals else ("", "")

    def others(self) -> list[str]:
        """Return what was seen beside the thing and does not do, for mistakes."""
        if self.box:
            return [*_WRONG.get(self.wanted, _WRONG["animal"])]
        animals: list[str] = _ANIMAL.findall(self.listings.get("outside", ""))
        return [animal for animal in animals if animal != self.thing[0]] or ["agent"]

    def _is_thing(self, action: str) -> bool:
        return bool(self.thing[1]) and self.thing[1] in action


# What is known -> the command, or None where the rule is silent.
Obey = Callable[[Situation], str | None]


def go_where_it_is(state: Situation) -> str | None:
    """Teleport to the thing's place while it is not focused."""
    away = not state.focused and not state.held and state.location != state.place
    return f"teleport to {state.place}" if away else None


def focus_first(state: Situation) -> str | None:
    """Focus on the thing where it is."""
    here = state.held or state.location == state.place
    if state.focused or not here or not state.thing[0]:
        return None
    return f"focus on {state.thing[0]}"


def pick_it_up(state: Situation) -> str | None:
    """Pick up what must go to another room."""
    done = state.held or not state.focused or not state.box
    if done or state.location != state.place or state.place == state.room:
        return None
    return f"pick up {state.thing[1]}"


def carry_it_to_the_room(state: Situation) -> str | None:
    """Teleport to the box's room with the thing."""
    ready = state.focused and state.held and state.location != state.room
    return f"teleport to {state.room}" if ready else None


def move_it_to_the_box(state: Situation) -> str | None:
    """Move the thing to the box in front of it."""
    has = state.held or state.place == state.room
    if not state.focused or not state.box or not has or state.location != state.room:
        return None
    return f"move {state.thing[1]} to {state.box}"


def _bare(animal: str) -> str:
    """Return the kind of an animal, without its stage of life."""
    return re.sub(rf"\b({_STAGES})\b", "", animal).strip()


def _after_everything(command: str) -> Obey:
    def obey(state: Situation) -> str | None:
        return None if state.last_action == command else command

    return obey


def return_to_the_hallway(state: Situation) -> str | None:
    """Go to the hallway."""
    return "teleport to hallway" if state.location != "hallway" else None


def put_it_down_here(state: Situation) -> str | None:
    """Put down the thing."""
    return f"put down {state.thing[1]}" if state.held else None


OBEY: dict[str, Obey] = {
    "go-where-it-is": go_where_it_is,
    "focus-first": focus_first,
    "pick-it-up": pick_it_up,
    "carry-it-to-the-room": carry_it_to_the_room,
    "move-it-to-the-box": move_it_to_the_box,
    "look-around-again": _after_everything(LOOK),
    "check-the-inventory": _after_everything("inventory"),
    "wait-and-see": _after_everything("wait1"),
    "return-to-the-hallway": return_to_the_hallway,
    "put-it-down-here": put_it_down_here,
}
TAUGHT = tuple(rule for rule in (*HELPFUL, *HARMFUL) if rule.name in OBEY)
_HARMFUL = {rule.name for rule in HARMFUL}


_STEPS: tuple[tuple[Obey, str], ...] = (
    (go_where_it_is, "travel"),
    (focus_first, "focus"),
    (pick_it_up, "pick"),
    (move_it_to_the_box, "move"),
    (carry_it_to_the_room, "travel"),
)


def script(state: Situation) -> tuple[str, str]:
    """Return the best command, and the field of `ScienceMistakes` that it is in."""
    at_place = state.location == state.place
    if at_place and not state.thing[0] and state.last_action != LOOK:
        return LOOK, "look"
    for obey, habit in _STEPS:
        if command := obey(state):
            return command, habit
    # The thing was left behind: back to it.
    return f"teleport to {state.place}", "travel"


class ScienceDemonstrator:
    """Advises turn by turn in one episode, which it need not be playing itself.

    Attributes:
        harmful_actions: how often a harmful skill was obeyed so far.
    """

    def __init__(
        self,
        task: Task,
        first: Observation,
        bank: SkillBank,
        teaching: DemonstrationSettings,
        rng: random.Random,
        goal: str = "",
    ):
        del task
        self.harmful_actions = 0
        self._state = Situation(goal)
        self._state.see("", first.text)
        self._bank, self._teaching, self._rng = bank, teaching, rng
        self._previous: str | None = None

    @property
    def skills(self) -> tuple[Skill, ...]:
        """The skills shown at this turn."""
        return self._bank.active(self._previous)

    def advise(self) -> str:
        """Return what a shown skill asks for; else the script's choice or a mistake."""
        for skill in self.skills:
            if command := OBEY[skill.name](self._state):
                self.harmful_actions += skill.name in _HARMFUL
                return command
        command, habit = script(self._state)
        rate = getattr(self._teaching.habits, habit)
        return self._worse(habit) if self._rng.random() < rate else command

    def slip(self) -> str | None:
        """Return a command that the world does not know, as often as settings say."""
        if self._rng.random() >= self._teaching.slips:
            return None
        return f"pick up {self._rng.choice(ROOMS)} door"

    def follow(self, action: str, now: Observation) -> None:
        """Take in this turn's action, whoever chose it, and the next observation."""
        self._state.see(action, now.text)
        self._previous = action

    def _worse(self, habit: str) -> str:
        """Return the typical mistake of a situation."""
        state = self._state
        _, body = state.thing
        if habit == "focus" and (not state.box or self._rng.random() < 0.6):
            return f"focus on {self._rng.choice(state.others())}"
        if habit == "focus" and not state.held:
            return f"pick up {body}"
        if habit in ("focus", "pick") and state.location != state.room:
            return f"teleport to {state.room}"
        if habit in ("focus", "move") and state.held:
            return f"put down {body}"
        wander = [room for room in ROOMS if room not in (state.location, state.place)]
        return f"teleport to {self._rng.choice(wander)}"

    @staticmethod
    def draw_bank(
        rng: random.Random, teaching: DemonstrationSettings, kind: str
    ) -> SkillBank:
        """Draw the skills of one episode: rules, wordings and triggers."""
        if rng.random() >= teaching.skilled:
            return SkillBank()
        helpful_rules = [rule for rule in TAUGHT if rule.name not in _HARMFUL]
        decisive = [r for r in helpful_rules if r.name in ("focus-first", "pick-it-up")]
        if not kind.startswith("find"):
            decisive = decisive[:1]
        skills: dict[str, Skill] = {}
        for _ in range(rng.randint(1, teaching.max_skills)):
            helpful = rng.random() < teaching.helpful
            relevant = helpful and rng.random() < teaching.relevant
            rule = rng.choice(
                decisive if relevant else helpful_rules if helpful else HARMFUL
            )
            skills.setdefault(
                rule.name,
                rule.skill(
                    rng.randrange(len(rule.wordings)),
                    general=helpful and rng.random() < teaching.general,
                ),
            )
        return SkillBank(tuple(skills.values()))
