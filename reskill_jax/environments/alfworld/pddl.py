"""A house as text: the PDDL problem, its commands' names and a plan that solves it.

ALFWorld's engine plays a planning problem (domain, objects, initial facts, goal) and
words it by a grammar. Domain, grammar, goal formulas and the tables of what can be
heated, cleaned and so on come from the installed `alfworld` package; this module adds
the one part that the package does not ship, a house. All of it is deterministic.
"""

import functools
import pathlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from reskill_jax.environments.alfworld import engine

with engine.undisturbed():
    import alfworld.info as info  # noqa: PLR0402 (not an attribute to type checkers)
    from alfworld.gen import constants
    from alfworld.gen.goal_library import gdict

LAMP = "DeskLamp"
OPENABLE = frozenset({"Cabinet", "Drawer", "Fridge", "Microwave", "Safe"})
# Task type -> (verb, kind of receptacle) of the change that it asks for.
TOOLS = {
    "pick_clean_then_place_in_recep": ("clean", "SinkBasin"),
    "pick_heat_then_place_in_recep": ("heat", "Microwave"),
    "pick_cool_then_place_in_recep": ("cool", "Fridge"),
}
# The domain's actions name these types, so that every problem has to declare them.
_DOMAIN_RECEPTACLES = frozenset({"SinkBasin", "Microwave", "Fridge"})
_DOMAIN_OBJECTS = frozenset({"Knife", "ButterKnife"})


@dataclass(frozen=True)
class Receptacle:
    """A piece of furniture.

    Attributes:
        id: simulator id, e.g. ``Cabinet|+00.68|+00.50|-02.20``; unique. Basins are
            ``Sink|..|SinkBasin``.
        kind: e.g. ``Cabinet``.
        location: (x, z, rotation, horizon) of the place from which it is used.
    """

    id: str
    kind: str
    location: tuple[int, int, int, int]


@dataclass(frozen=True)
class Thing:
    """A small object and the receptacle that it lies in or on."""

    id: str
    kind: str
    place: Receptacle


@dataclass(frozen=True)
class House:
    """One game's world and goal.

    Attributes:
        task: one of ALFWorld's six task types.
        target: kind of the object that the goal is about.
        goal: kind of receptacle that it belongs in, `LAMP` for the look task.
        scene: number of the floor plan.
        receptacles: all receptacles.
        things: all small objects; those of kind `target` in the order of the plan.
        start: location of the agent, away from every receptacle.
    """

    task: str
    target: str
    goal: str
    scene: int
    receptacles: tuple[Receptacle, ...]
    things: tuple[Thing, ...]
    start: tuple[int, int, int, int]

    @property
    def folder(self) -> str:
        """Name of the task's folder in ALFWorld's published layout."""
        return f"{self.task}-{self.target}-None-{self.goal}-{self.scene}"


@functools.cache
def package_text(name: str) -> str:
    """Return a file of the `alfworld` package's data folder."""
    return pathlib.Path(info.BUILTIN_DATA_PATH, name).read_text(encoding="utf-8")


def game(house: House, template: int) -> dict[str, Any]:
    """Compose the content of a ``game.tw-pddl`` file.

    Args:
        house: the world and its goal.
        template: which of the goal library's task sentences to use (0 or 1).
    """
    goal = gdict[house.task]
    words = {"obj": house.target, "recep": house.goal, "toggle": LAMP}
    sentence = goal["templates"][template].format(
        **{field: word.lower() for field, word in words.items()}
    )
    return {
        "pddl_domain": package_text("alfred.pddl"),
        "pddl_problem": problem(house, goal["pddl"].replace("#", "-").format(**words)),
        "grammar": package_text("alfred.twl2").replace("UNKNOWN GOAL", sentence),
        "walkthrough": plan(house),
        "solvable": True,
    }


def traj_data(house: House) -> dict[str, Any]:
    """Compose what the stock game collector and expert read beside a game."""
    look = house.goal == LAMP
    return {
        "task_type": house.task,
        "pddl_params": {
            "object_target": house.target,
            "parent_target": "" if look else house.goal,
            "toggle_target": LAMP if look else "",
            "mrecep_target": "",
            "object_sliced": False,
        },
        "scene": {
            "scene_num": house.scene,
            "floor_plan": f"FloorPlan{house.scene}",
        },
    }


def problem(house: House, goal: str) -> str:
    """Write the PDDL problem; `goal` is the formula with its closing bracket."""
    places = [receptacle.location for receptacle in house.receptacles]
    declared = ["agent1 - agent"]
    declared += [f"{kind}Type - otype" for kind in sorted(_object_kinds(house))]
    declared += [f"{kind}Type - rtype" for kind in sorted(_receptacle_kinds(house))]
    declared += [f"{_mangle(thing.id)} - object" for thing in house.things]
    declared += [f"{_mangle(recep.id)} - receptacle" for recep in house.receptacles]
    declared += [f"{_loc(at)} - location" for at in sorted({house.start, *places})]
    facts = [f"({fact})" for fact in _facts(house)]
    return (
        f"\n(define (problem plan_{house.target.lower()}_{house.scene})\n"
        "(:domain alfred)\n(:objects\n"
        + _lines(declared)
        + ")\n(:init\n"
        + _lines(facts)
        + f")\n{goal}"
    )


def names(house: House) -> dict[str, str]:
    """Map ids to the names that the engine shows, e.g. ``cabinet 3``.

    The package calls a thing by its id up to the first bar, and numbers those of one
    name downwards in the order of their mangled ids.
    """
    called: dict[str, list[tuple[str, str]]] = {}
    entities: tuple[Thing | Receptacle, ...] = (*house.things, *house.receptacles)
    for entity in entities:
        mangled = _mangle(entity.id).lower()
        name = mangled.split("_bar_", 1)[0] + ("basin" if "basin" in mangled else "")
        called.setdefault(name, []).append((mangled, entity.id))
    return {
        key: f"{name} {len(ids) - rank}"
        for name, ids in called.items()
        for rank, (_, key) in enumerate(sorted(ids))
    }


def plan(house: House) -> list[str]:
    """Return a shortest solution, knowing where everything is.

    It is composed, not searched for, so it must be checked by playing it.
    """
    name = names(house)
    commands: list[str] = []
    opened: set[str] = set()
    here = house.start

    def visit(place: Receptacle, entered: bool) -> str:
        nonlocal here
        if here != place.location:
            commands.append(f"go to {name[place.id]}")
            here = place.location
        if entered and place.kind in OPENABLE and place.id not in opened:
            commands.append(f"open {name[place.id]}")
            opened.add(place.id)
        return name[place.id]

    targets = [thing for thing in house.things if thing.kind == house.target]
    for thing in targets[: 2 if house.task == "pick_two_obj_and_place" else 1]:
        where = visit(thing.place, entered=True)
        commands.append(f"take {name[thing.id]} from {where}")
        if house.task in TOOLS:
            verb, kind = TOOLS[house.task]
            tool = visit(_first(house.receptacles, kind), entered=False)
            commands.append(f"{verb} {name[thing.id]} with {tool}")
        if house.goal == LAMP:
            lamp = next(thing for thing in house.things if thing.kind == LAMP)
            visit(lamp.place, entered=False)
            commands.append(f"use {name[lamp.id]}")
        else:
            there = visit(_first(house.receptacles, house.goal), entered=True)
            commands.append(f"move {name[thing.id]} to {there}")
    return commands


def fits(receptacle: str, thing: str) -> bool:
    """Whether a kind of receptacle may hold a kind of object.

    The package's table leaves out lamps: they stand where an alarm clock may.
    """
    if thing == LAMP:
        return receptacle not in OPENABLE and fits(receptacle, "AlarmClock")
    return thing in constants.VAL_RECEPTACLE_OBJECTS.get(receptacle, ())


def changes(verb: str, thing: str) -> bool:
    """Whether a kind of object can be subject of `clean`, `heat` or `cool`."""
    return thing in constants.VAL_ACTION_OBJECTS[f"{verb.title()}able"]


def _facts(house: House) -> Iterator[str]:
    """Yield the facts of the initial state."""
    for recep in house.receptacles:
        mangled = _mangle(recep.id)
        yield f"receptacleType {mangled} {recep.kind}Type"
        yield f"receptacleAtLocation {mangled} {_loc(recep.location)}"
        if recep.kind in OPENABLE:
            yield f"openable {mangled}"
    for thing in house.things:
        mangled = _mangle(thing.id)
        yield f"objectType {mangled} {thing.kind}Type"
        yield f"objectAtLocation {mangled} {_loc(thing.place.location)}"
        yield f"inReceptacle {mangled} {_mangle(thing.place.id)}"
        if thing.kind != LAMP:
            yield f"pickupable {mangled}"
        if thing.kind in constants.MOVABLE_RECEPTACLES:
            yield f"isReceptacleObject {mangled}"
        for able, kinds in sorted(constants.VAL_ACTION_OBJECTS.items()):
            if thing.kind in kinds:
                yield f"{able.lower()} {mangled}"
        if thing.place.kind == "Fridge" and not _to_be_cooled(house, thing):
            yield f"isCool {mangled}"
    for recep_kind in sorted(_receptacle_kinds(house)):
        for kind in sorted(_object_kinds(house)):
            if kind != LAMP and fits(recep_kind, kind):
                yield f"canContain {recep_kind}Type {kind}Type"
    yield f"atLocation agent1 {_loc(house.start)}"


def _to_be_cooled(house: House, thing: Thing) -> bool:
    """Whether a thing must not be cool from the start, or the task would be void."""
    verb, _ = TOOLS.get(house.task, ("", ""))
    return verb == "cool" and thing.kind == house.target


def _object_kinds(house: House) -> set[str]:
    return {thing.kind for thing in house.things} | _DOMAIN_OBJECTS


def _receptacle_kinds(house: House) -> set[str]:
    return {recep.kind for recep in house.receptacles} | _DOMAIN_RECEPTACLES


def _first(receptacles: Iterable[Receptacle], kind: str) -> Receptacle:
    return next(recep for recep in receptacles if recep.kind == kind)


def _mangle(text: str) -> str:
    """Rewrite a simulator id in the letters that PDDL allows."""
    for char, word in (("|", "bar"), ("+", "plus"), ("-", "minus"), (".", "dot")):
        text = text.replace(char, f"_{word}_")
    return text


def _loc(location: tuple[int, int, int, int]) -> str:
    return _mangle("|".join(("loc", *map(str, location))))


def _lines(items: Iterable[str]) -> str:
    return "".join(f"    {item}\n" for item in items)
