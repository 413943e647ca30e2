"""What each rule of `environments.alfworld.rules` asks for, as code.

``OBEY[name](state, admissible, expert)`` returns the command that the rule asks for, or
None where it does not apply. `expert` is the command that the expert would play now:
where a rule leaves a choice and the expert's command fits it, the expert's is taken.
"""

import re
from collections.abc import Callable, Iterable, Sequence

from reskill_jax.environments.alfworld.tracker import (
    LOOK,
    PREPARATIONS,
    TWO,
    Tracker,
)

# (what is known, admissible commands, the expert's command) -> what the rule asks for
Obey = Callable[[Tracker, Sequence[str], str], str | None]


def open_what_is_closed(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Open the closed thing in front of you."""
    return _possible(admissible, f"open {state.location}")


def search_new_places(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Go to a place not visited yet, while nothing is in hand, in sight or closed."""
    busy = state.held or take_it_on_sight(state, admissible, expert)
    if busy or f"open {state.location}" in admissible:
        return None
    return _choose(_go_to(admissible, state.unvisited), expert)


def take_it_on_sight(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Take the wanted object as soon as it is seen, unless it lies where it belongs."""
    if state.held or state.is_goal(state.location):
        return None
    takes = [c for c in admissible if c.startswith(f"take {state.target} ")]
    return _choose(takes, expert)


def heat_cool_or_clean_first(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Heat, cool or clean what is in hand before it is placed."""
    if not state.holds_target or state.is_ready:
        return None
    verb, where = PREPARATIONS[state.kind]
    do = [c for c in admissible if c.startswith(f"{verb} {state.held} with")]
    return _choose(do or _go_to_type(admissible, where), expert)


def use_the_lamp(state: Tracker, admissible: Sequence[str], expert: str) -> str | None:
    """With the object in hand, use the lamp, or go where it was seen."""
    if state.kind != LOOK or not state.holds_target:
        return None
    uses = [c for c in admissible if c.startswith(f"use {state.goal} ")]
    return _choose(uses, expert) or _first(
        _go_to(admissible, state.places_with(state.goal))
    )


def carry_it_to_the_target(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Carry the finished object to its target."""
    if not state.holds_target or not state.is_ready or state.kind == LOOK:
        return None
    if place_it_at_the_target(state, admissible, expert):
        return None
    if state.is_goal(state.location) and f"open {state.location}" in admissible:
        return None
    return _choose(_go_to_type(admissible, state.goal), expert)


def place_it_at_the_target(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Put the finished object down at its target."""
    ready = state.holds_target and state.is_ready
    if not ready or not state.is_goal(state.location):
        return None
    return _possible(admissible, f"move {state.held} to {state.location}")


def find_the_second(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """After the first of two is placed, take another, or go and look for it."""
    if state.kind != TWO or state.placed != 1 or state.held:
        return None
    if take := take_it_on_sight(state, admissible, expert):
        return take
    if f"open {state.location}" in admissible:
        return None
    seen = [p for p in state.places_with(state.target) if not state.is_goal(p)]
    return _first(_go_to(admissible, seen)) or _choose(
        _go_to(admissible, state.unvisited), expert
    )


def examine_everything(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Examine what was not examined yet."""
    examine = [c for c in admissible if c.startswith("examine ")]
    return _first([c for c in examine if c not in state.actions])


def look_around_again(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Look around after everything else."""
    done = state.last_action == "look"
    return None if done else _possible(admissible, "look")


def check_the_inventory(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Check what is carried after everything else."""
    done = state.last_action == "inventory"
    return None if done else _possible(admissible, "inventory")


def go_back(state: Tracker, admissible: Sequence[str], expert: str) -> str | None:
    """Return to the place one came from."""
    return _possible(admissible, f"go to {state.previous_location}")


def close_it_again(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Close what is open."""
    return _first([c for c in admissible if c.startswith("close ")])


def put_it_down_here(
    state: Tracker, admissible: Sequence[str], expert: str
) -> str | None:
    """Put down what is in hand."""
    return _first([c for c in admissible if c.startswith("move ")])


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


def _possible(admissible: Sequence[str], command: str) -> str | None:
    return command if command in admissible else None


def _first(commands: Sequence[str]) -> str | None:
    return commands[0] if commands else None


def _choose(commands: Sequence[str], expert: str) -> str | None:
    return expert if expert in commands else _first(commands)


def _go_to(admissible: Sequence[str], places: Iterable[str]) -> list[str]:
    """Return the possible commands that go to one of these places, in their order."""
    return [c for c in (f"go to {place}" for place in places) if c in admissible]


def _go_to_type(admissible: Sequence[str], kind: str) -> list[str]:
    """Return the possible commands that go to a place of a type."""
    return [c for c in admissible if re.fullmatch(rf"go to {kind} \d+", c)]
