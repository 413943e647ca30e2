"""Draws houses, and keeps those whose plan wins in the real engine.

Floor plans (which receptacles and types of objects a scene has) are those of the
`alfworld` package, their contents are drawn. Every draw is a function of the settings
and the game's number alone, not of other games, the process or the hash seed.
"""

import functools
import hashlib
import json
import pathlib
import random
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from reskill_jax.environments.alfworld import engine
from reskill_jax.environments.alfworld.house_settings import HouseSettings
from reskill_jax.environments.alfworld.pddl import (
    LAMP,
    TOOLS,
    House,
    Receptacle,
    Thing,
    changes,
    fits,
    game,
    traj_data,
)

with engine.undisturbed():
    import alfworld.gen
    from alfworld.gen import constants


# The scenes of ALFWorld's published valid_unseen games: kept out of generated training
# houses, so that a policy trained on those can be tested on the published split.
OFFICIAL_UNSEEN_SCENES = (10, 219, 308, 424)
_UNSEEN_SCENES_PER_ROOM = 6  # of 30
_HELD_OUT_PAIRS = 0.25
# Kept wherever a plan has them, so that a room's furniture does not give the task away.
_FIXTURES = ("Fridge", "Microwave", "SinkBasin")
_MAX_COPIES = 3  # instances of one kind of object, as in ALFRED
_MAX_ATTEMPTS = 40


class NoFitError(Exception):
    """A drawn house has no room for its task; another draw may."""


@dataclass(frozen=True)
class MadeGame:
    """One game that was built and won.

    Attributes:
        path: its folder, relative to the split's.
        files: file name to text.
        redrawn: how many draws before it failed the check.
    """

    path: str
    files: dict[str, str]
    redrawn: int


@dataclass(frozen=True)
class FloorPlan:
    """A scene's receptacles, and the kinds of small objects that occur in it."""

    scene: int
    receptacles: tuple[Receptacle, ...]
    kinds: tuple[str, ...]


def make_game(settings: HouseSettings, split: str, index: int) -> MadeGame:
    """Draw game `index` of a split until its plan wins in the real engine.

    Raises:
        RuntimeError: no draw did.
    """
    reason = ""
    for attempt in range(_MAX_ATTEMPTS):
        try:
            house = draw_house(settings, split, index, attempt)
        except NoFitError as error:
            reason = str(error)
            continue
        content = game(house, template=(index // len(settings.tasks)) % 2)
        reason = flaw(content)
        if not reason:
            text = json.dumps(content)
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            return MadeGame(
                path=f"{house.folder}/trial_G{index:05d}_{digest}",
                files={
                    "game.tw-pddl": text,
                    "traj_data.json": json.dumps(traj_data(house)),
                },
                redrawn=attempt,
            )
    raise RuntimeError(
        f"{_MAX_ATTEMPTS} draws of game {index} of {split} failed, the last one "
        f"because {reason}; change seed or sizes in {settings}"
    )


def flaw(content: dict[str, Any]) -> str:
    """Play a game's walkthrough; return what is wrong with it, empty if it wins."""
    player = _player()
    player.start(engine.Game(content))
    for command in content["walkthrough"]:
        if player.won:
            return f"it is won before {command!r}"
        if command not in player.commands:
            return f"{command!r} is not admissible"
        player.play(command)
    return "" if player.won else "its plan does not win"


def draw_house(settings: HouseSettings, split: str, index: int, attempt: int) -> House:
    """Draw game number `index` of a split; every `attempt` is another draw.

    Raises:
        NoFitError: this draw cannot hold its task; ask for the next attempt.
    """
    rng = random.Random(f"{settings.seed}/{split}/{index}/{attempt}")
    task = settings.tasks[index % len(settings.tasks)]
    hosts = [
        s for s in scenes(settings.seed, split) if _goals(settings.seed, task, split, s)
    ]
    plan = floor_plan(rng.choice(hosts))
    pairs = _goals(settings.seed, task, split, plan.scene)
    # The receptacle first: among pairs, tables would dominate, since they hold most.
    goal = rng.choice(sorted({goal for _, goal in pairs}))
    target = rng.choice([kind for kind, other in pairs if other == goal])
    receptacles = _draw_receptacles(rng, settings, plan, target, goal)
    empty = House(task, target, goal, plan.scene, receptacles, (), start=_off_grid(0))
    return replace(empty, things=_draw_things(rng, settings, plan, empty))


def scenes(seed: int, split: str) -> tuple[int, ...]:
    """Floor plans of a split: train and valid_seen share theirs."""
    unseen: set[int] = set()
    for official in OFFICIAL_UNSEEN_SCENES:
        room = next(r for r in constants.SCENE_TYPE.values() if official in r)
        others = [scene for scene in room if scene != official]
        rng = random.Random(f"{seed}/scenes/{official}")
        unseen.update([official, *rng.sample(others, _UNSEEN_SCENES_PER_ROOM - 1)])
    if split == "valid_unseen":
        return tuple(sorted(unseen))
    return tuple(scene for scene in _all_scenes() if scene not in unseen)


@functools.cache
def held_out_pairs(seed: int) -> frozenset[tuple[str, str]]:
    """Goal pairs (object, receptacle) of valid_unseen, never of the other splits."""
    objects = sorted({kind for s in _all_scenes() for kind in floor_plan(s).kinds})
    pairs: set[tuple[str, str]] = set()
    for goal in (LAMP, *sorted(constants.VAL_RECEPTACLE_OBJECTS)):
        targets = [kind for kind in objects if _may_be_asked(kind, goal)]
        rng = random.Random(f"{seed}/pairs/{goal}")
        held_out = rng.sample(targets, round(_HELD_OUT_PAIRS * len(targets)))
        pairs.update((kind, goal) for kind in held_out)
    return frozenset(pairs)


@functools.cache
def floor_plan(scene: int) -> FloorPlan:
    """Read a scene's poses and type list from the package."""
    folder = pathlib.Path(alfworld.gen.__path__[0], "layouts")
    poses = json.loads((folder / f"FloorPlan{scene}-openable.json").read_text())
    listed = json.loads((folder / f"FloorPlan{scene}-objects.json").read_text())
    places: list[Receptacle] = []
    for key, (x, z, rotation, horizon) in sorted(poses.items()):
        # By the name that is shown: plan 420's bathtub ends in SinkBasin, but is none.
        kind = key.split("|")[0] + ("Basin" if key.endswith("Basin") else "")
        location = (round(x / 0.25), round(z / 0.25), rotation // 90, horizon)
        places.append(Receptacle(key, kind, location))
    furniture = {place.kind for place in places}
    # Listed receptacles without a pose (stove burners, toasters, ...) stand anywhere.
    static = constants.RECEPTACLES - constants.MOVABLE_RECEPTACLES_SET
    for kind in sorted((static - furniture) & set(listed)):
        for copy in range(4 if kind == "StoveBurner" else 1):
            key = f"{kind}|{copy:+06.2f}"
            if kind.endswith("Basin"):
                key = f"{kind.removesuffix('Basin')}|{copy:+06.2f}|{kind}"
            places.append(Receptacle(key, kind, _off_grid(len(places) + 1)))
    furniture = {place.kind for place in places}
    small = (kind for kind in set(listed) if any(fits(f, kind) for f in furniture))
    return FloorPlan(scene, tuple(places), tuple(sorted(small)))


@functools.cache
def _goals(seed: int, task: str, split: str, scene: int) -> list[tuple[str, str]]:
    """Goal pairs that a task may have in a scene, sorted."""
    plan = floor_plan(scene)
    furniture = {place.kind for place in plan.receptacles}
    verb, tool = TOOLS.get(task, ("", ""))
    if task == "look_at_obj_in_light":
        goals = {LAMP} & set(plan.kinds)
    else:
        goals = furniture - {tool}
    if tool and tool not in furniture:
        return []
    return [
        (kind, goal)
        for kind in plan.kinds
        for goal in sorted(goals)
        if _may_be_asked(kind, goal)
        and (not verb or changes(verb, kind))
        and any(fits(place, kind) for place in furniture - {goal})
        and ((kind, goal) in held_out_pairs(seed)) == (split == "valid_unseen")
    ]


def _may_be_asked(kind: str, goal: str) -> bool:
    return kind != LAMP and (goal == LAMP or fits(goal, kind))


def _draw_receptacles(
    rng: random.Random, settings: HouseSettings, plan: FloorPlan, target: str, goal: str
) -> tuple[Receptacle, ...]:
    """Keep what the task needs, then others at random; sorted by id."""
    shuffled = rng.sample(plan.receptacles, len(plan.receptacles))
    needed = [place for place in shuffled if place.kind == goal][:1]
    needed += [p for p in shuffled if p.kind != goal and fits(p.kind, target)][:1]
    if LAMP in plan.kinds:
        needed += [place for place in shuffled if fits(place.kind, LAMP)][:1]
    for kind in _FIXTURES:
        needed += [place for place in shuffled if place.kind == kind][:1]
    count = rng.randint(*settings.receptacles)
    kept: dict[str, Receptacle] = {}
    kinds: Counter[str] = Counter()
    taken = set()
    for place in needed + shuffled:
        if place.id in kept or kinds[place.kind] == settings.same_kind:
            continue
        if len(kept) == count:
            break
        if place.location in taken and not settings.shared_locations:
            place = replace(place, location=_off_grid(100 + len(kept)))  # noqa: PLW2901
        kept[place.id] = place
        kinds[place.kind] += 1
        taken.add(place.location)
    return tuple(kept[key] for key in sorted(kept))


def _draw_things(
    rng: random.Random, settings: HouseSettings, plan: FloorPlan, house: House
) -> tuple[Thing, ...]:
    """Draw small objects and their places; the targets lie away from the goal."""
    lamps = [LAMP] if LAMP in plan.kinds else []
    least = 2 if house.task == "pick_two_obj_and_place" else 1
    targets = [house.target] * rng.randint(least, least + 1)
    others = [kind for kind in plan.kinds if kind not in (house.target, LAMP)]
    pool = rng.sample(others * _MAX_COPIES, len(others) * _MAX_COPIES)
    furniture = {place.kind for place in house.receptacles}
    pool = [kind for kind in pool if any(fits(place, kind) for place in furniture)]
    kinds = [*lamps, *targets, *pool][: rng.randint(*settings.objects)]
    things: list[Thing] = []
    for kind, x in zip(kinds, rng.sample(range(1000), len(kinds)), strict=True):
        places = [place for place in house.receptacles if fits(place.kind, kind)]
        if kind == house.target:
            goals = {thing.place for thing in things if thing.kind == house.goal}
            goals.update(place for place in places if place.kind == house.goal)
            places = [place for place in places if place not in goals]
        if not places:
            raise NoFitError(f"scene {plan.scene} has no place for {kind}")
        things.append(Thing(f"{kind}|{x / 100:+06.2f}", kind, rng.choice(places)))
    return tuple(things)


def _all_scenes() -> list[int]:
    return [scene for room in constants.SCENE_TYPE.values() for scene in room]


def _off_grid(number: int) -> tuple[int, int, int, int]:
    """Return a location that is in no floor plan."""
    return (1000 + number, 0, 0, 30)


@functools.cache
def _player() -> engine.Player:
    """Return this process's player; each one keeps a copy of the engine's library."""
    return engine.Player()
