"""What each rule of `creator.rules` makes its follower do, as code.

``OBEY[name](world, admissible, expert)`` returns the command that the rule asks for, or
None where it does not apply. `expert` is what the expert would play now: where a rule
leaves a choice and the expert's command fits it, the expert's is taken.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from reskill_jax.laboratory.world import LOOK, PREPARE, TWO, World

_Do = str | None
Obey = Callable[[World, Sequence[str], str], _Do]


def open_what_is_closed(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Open the closed thing in front of you."""
    return _first(admissible, [f"open {world.at}"])


def search_new_places(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Go to a place not visited yet, while nothing is in hand, in sight or closed."""
    busy = world.holding is not None or take_it_on_sight(world, admissible, expert)
    if busy or f"open {world.at}" in admissible:
        return None
    return _choose([go for go in world.unvisited() if go in admissible], expert)


def take_it_on_sight(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Take the wanted object as soon as it is seen, unless it lies where it belongs."""
    if world.holding is not None or world.is_goal(world.at):
        return None
    takes = [c for c in admissible if c.startswith(f"take {world.target} ")]
    return _choose(takes, expert)


def heat_cool_or_clean_first(
    world: World, admissible: Sequence[str], expert: str
) -> _Do:
    """Heat, cool or clean what is in hand before it is placed."""
    if not world.carries_target or world.ready:
        return None
    verb, where = PREPARE[world.kind]
    do = [c for c in admissible if c.startswith(f"{verb} {world.holding} with")]
    return _choose(do or _goes_to(admissible, where), expert)


def use_the_lamp(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """With the object in hand, use the lamp, or go where it was seen."""
    if world.kind != LOOK or not world.carries_target:
        return None
    uses = [c for c in admissible if c.startswith(f"use {world.goal} ")]
    return _choose(uses, expert) or _first(
        admissible, (f"go to {place}" for place in world.seen(world.goal))
    )


def carry_it_to_the_target(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Carry the finished object to its target."""
    if not world.carries_target or not world.ready or world.kind == LOOK:
        return None
    if place_it_at_the_target(world, admissible, expert):
        return None
    if world.is_goal(world.at) and f"open {world.at}" in admissible:
        return None
    return _choose(_goes_to(admissible, world.goal), expert)


def place_it_at_the_target(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Put the finished object down at its target."""
    if not world.carries_target or not world.ready or not world.is_goal(world.at):
        return None
    return _first(admissible, [f"move {world.holding} to {world.at}"])


def find_the_second(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """After the first of two is placed, take another, or go and look for it."""
    if world.kind != TWO or world.placed != 1 or world.holding is not None:
        return None
    if take := take_it_on_sight(world, admissible, expert):
        return take
    if f"open {world.at}" in admissible:
        return None
    seen = [f"go to {p}" for p in world.seen(world.target) if not world.is_goal(p)]
    return _first(admissible, seen) or _choose(
        [go for go in world.unvisited() if go in admissible], expert
    )


def examine_everything(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Examine what was not examined yet."""
    return next(
        (c for c in admissible if c.startswith("examine ") and c not in world.done),
        None,
    )


def look_around_again(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Look around after everything else."""
    return None if world.last == "look" else _first(admissible, ["look"])


def check_the_inventory(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Check what is carried after everything else."""
    return None if world.last == "inventory" else _first(admissible, ["inventory"])


def go_back(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Return to the place one came from."""
    return _first(admissible, [f"go to {world.before}"])


def close_it_again(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Close what is open."""
    return next((c for c in admissible if c.startswith("close ")), None)


def put_it_down_here(world: World, admissible: Sequence[str], expert: str) -> _Do:
    """Put down what is in hand."""
    return next((c for c in admissible if c.startswith("move ")), None)


OBEY: dict[str, Obey] = {
    function.__name__.replace("_", "-"): function
    for function in (
        open_what_is_closed,
        search_new_places,
        take_it_on_sight,
        heat_cool_or_clean_first,
        use_the_lamp,
        carry_it_to_the_target,
        place_it_at_the_target,
        find_the_second,
        examine_everything,
        look_around_again,
        check_the_inventory,
        go_back,
        close_it_again,
        put_it_down_here,
    )
}


def _first(admissible: Sequence[str], wanted: Iterable[str]) -> _Do:
    return next((command for command in wanted if command in admissible), None)


def _choose(commands: Sequence[str], expert: str) -> _Do:
    if not commands:
        return None
    return expert if expert in commands else commands[0]


def _goes_to(admissible: Sequence[str], kind: str) -> list[str]:
    return [c for c in admissible if re.fullmatch(rf"go to {kind} \d+", c)]
