"""An expert for ALFWorld that searches like an agent and can take over at any turn.

The `alfworld` package has a hand-coded expert whose policies decide which subgoal comes
next (find, take, heat, put, ...). They are kept. What they see and how a subgoal is
carried out is ours, because the shipped expert needs a ``traj_data.json`` beside the
game and the simulator's facts, draws from the global random generator, begins with
`look`, closes what it opens, forgets where it has been, raises when it is lost, and
misses every put-down since the engine's verb for it became `move`.

This one knows the texts and command lists that the agent sees, nothing else; it draws
nothing at random; and whoever chose the last action, it goes on from there.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from reskill_jax.environments.alfworld import engine
from reskill_jax.environments.protocol import Observation, Task

with engine.undisturbed():
    from alfworld.agents.expert import HandCodedTWAgent

_ITEM = r"(\w+ \d+)"
_ROOM = re.compile(r"Looking quickly around you, you see (.*)\.")
_CONTENTS = re.compile(
    rf"(?:On the {_ITEM}|The {_ITEM} is open\. In it), you see (.*)\."
)
_CLOSED = re.compile(rf"(?:The {_ITEM} is closed|You close the {_ITEM})\.")
_TAKEN = re.compile(rf"You pick up the {_ITEM} from the {_ITEM}\.")
_MOVED = re.compile(rf"You move the {_ITEM} to the {_ITEM}\.")
_CHANGED = re.compile(rf"You (heat|cool|clean) the {_ITEM} using")
_BECOMES = {"heat": "ishot", "cool": "iscool", "clean": "isclean"}
# The package has no prior for lamps: they stand where an alarm clock may.
_SEARCHED_LIKE = {"desklamp": "alarmclock"}


@dataclass
class Beliefs:
    """What the texts so far have told; names are the engine's, e.g. ``drawer 2``.

    Attributes:
        receptacles: all, in the order of the room's description.
        contents: things known to be in or on a receptacle; a key per inspected one.
        closed: receptacles that were last seen closed.
        held: the thing in the agent's hand, or nothing.
        origin: where the held thing was taken from.
        changes: thing to the facts that heating, cooling and cleaning made true of it.
    """

    receptacles: tuple[str, ...]
    contents: dict[str, list[str]] = field(default_factory=dict)
    closed: set[str] = field(default_factory=set)
    held: str = ""
    origin: str = ""
    changes: dict[str, set[str]] = field(default_factory=dict)

    def read(self, text: str) -> None:
        """Take in one observation, whatever action it answers."""
        for on, within, listing in _CONTENTS.findall(text):
            self.contents[on or within] = re.findall(_ITEM, listing)
            self.closed.discard(on or within)
        for seen, shut in _CLOSED.findall(text):
            self.closed.add(seen or shut)
        for thing, place in _TAKEN.findall(text):
            self.held, self.origin = thing, place
            things = self.contents.get(place, [])
            self.contents[place] = [other for other in things if other != thing]
        for thing, place in _MOVED.findall(text):
            self.held = ""
            self.contents.setdefault(place, []).append(thing)
        for verb, thing in _CHANGED.findall(text):
            facts = self.changes.setdefault(thing, set())
            facts.add(_BECOMES[verb])
            facts -= {"heat": {"iscool"}, "cool": {"ishot"}, "clean": set()}[verb]


class Expert:
    """Proposes the next action of an episode that anyone may be playing.

    Call `reset` with the first observation, `observe` with every later one, `propose`
    whenever an action is wanted.
    """

    def reset(self, task: Task, observation: Observation) -> None:
        """Start an episode.

        Raises:
            ValueError: if the task's id or the text is not of an ALFWorld game.
        """
        parts = task.id.split("/")[1].split("-") if "/" in task.id else []
        room = _ROOM.search(observation.text)
        if len(parts) != 5 or room is None:
            raise ValueError(
                f"task {task.id!r} is no ALFWorld game: its id must be <split>/<kind>-"
                "<object>-<movable>-<receptacle>-<scene>/<trial> and its first text "
                f"list the room's receptacles, not {observation.text!r}"
            )
        kind, self._target, _, self._goal, _ = (part.lower() for part in parts)
        params = {
            "object_target": self._target,
            "parent_target": self._goal,
            "toggle_target": self._goal,
        }
        self._memory = Beliefs(tuple(re.findall(_ITEM, room[1])))
        policy_class = HandCodedTWAgent().get_task_policy({"task_type": kind})
        self._policy = policy_class(params, max_steps=0)
        self._policy.receptacles = {
            name: _kind(name) for name in self._memory.receptacles
        }
        self._both_in_one = kind == "pick_two_obj_and_place"
        self._now = observation

    def observe(self, observation: Observation) -> None:
        """Take in what the last action brought, whoever chose it."""
        self._memory.read(observation.text)
        self._now = observation

    def propose(self) -> str | None:
        """Return an admissible action, or None when nothing is left to do or to try."""
        if self._now.done:
            return None
        action, kind = self._next_subgoal()
        if action in ("find", "goto"):
            return self._find(kind)
        if action == "take":
            return self._take(kind)
        if action == "put":
            return self._put(kind)
        held = self._memory.held
        return self._command(f"use {kind} " if action == "use" else f"{action} {held} ")

    def _next_subgoal(self) -> tuple[str, str]:
        """Ask the package's policy, in its own terms, what is to be done."""
        memory, policy = self._memory, self._policy
        here = [r for r in memory.receptacles if f"examine {r}" in self._now.choices]
        seen = [thing for r in here for thing in memory.contents.get(r, ())]
        policy.curr_recep = ", ".join(here)  # several may share a location
        policy.obs_at_recep = {policy.curr_recep: f"you see a {' a '.join(seen)} "}
        policy.inventory = [memory.held] if memory.held else []
        policy.subgoal_idx = policy.check_subgoal_completion(
            {"facts": self._facts(), "admissible_commands": self._now.choices}
        )
        action, kind, _ = policy.get_next_subgoal()
        return action, kind

    def _facts(self) -> list[Any]:
        """State what the memory holds in the form of the engine's facts."""
        memory = self._memory
        facts: list[tuple[str, ...]] = []
        if memory.held:
            facts.append(("holds", "agent", memory.held))
        facts += [(f, thing) for thing, made in memory.changes.items() for f in made]
        placed = self._placed()
        everything = [(t, r) for r, things in memory.contents.items() for t in things]
        # Those that the policy need not move again come first: it looks at one only.
        for thing, place in sorted(everything, key=lambda pair: pair[0] not in placed):
            facts.append(("inreceptacle", thing, place))
        return [SimpleNamespace(name=name, names=names) for name, *names in facts]

    def _home(self) -> str:
        """Return the receptacle that two targets are being gathered in, if any yet."""

        def count(place: str) -> int:
            return sum(_kind(t) == self._target for t in self._memory.contents[place])

        places = [r for r in self._memory.contents if _kind(r) == self._goal]
        best = max(places, key=count, default="")
        return best if self._both_in_one and best and count(best) else ""

    def _placed(self) -> list[str]:
        """Things that are where they should be."""
        return self._memory.contents.get(self._home(), [])

    def _wanted(self, kind: str) -> Callable[[str], bool]:
        placed = self._placed()
        return lambda thing: _kind(thing) == kind and thing not in placed

    def _find(self, kind: str) -> str | None:
        if self._memory.held and not self._policy.is_agent_holding_right_object:
            return self._put_back()
        if kind in self._policy.receptacles.values():
            return self._approach(kind)
        return self._search(kind)

    def _put(self, kind: str) -> str | None:
        held, home = self._memory.held, self._home()
        if home and f"move {held} to {home}" not in self._now.choices:
            return self._first_way([home])
        return self._command(f"move {held} to {home or kind}")

    def _take(self, kind: str) -> str | None:
        wanted = self._wanted(kind)
        for command in self._now.choices:
            thing, _, _ = command.removeprefix("take ").partition(" from ")
            if command.startswith("take ") and wanted(thing):
                return command
        return None

    def _search(self, kind: str) -> str | None:
        """Go where such a thing is known to be, else where it may be, else anywhere."""
        memory, wanted = self._memory, self._wanted(kind)
        known = [r for r, things in memory.contents.items() if any(map(wanted, things))]
        likely = self._policy.OBJECT_TO_VAL_RECEPTACLE[_SEARCHED_LIKE.get(kind, kind)]
        unseen = [r for r in memory.receptacles if r not in memory.contents]
        # What stands open costs one action, what is shut two.
        unseen.sort(key=lambda r: (_kind(r) not in likely, self._openable(r)))
        return self._take(kind) or self._first_way(known + unseen)

    def _approach(self, kind: str) -> str | None:
        """Go to a receptacle of a kind and open it: the one in use, then any seen."""
        memory, home = self._memory, self._home()
        places = [r for r in memory.receptacles if _kind(r) == kind]
        places.sort(
            key=lambda r: (r != home, r in memory.closed, r not in memory.contents)
        )
        return self._first_way(places)

    def _put_back(self) -> str | None:
        """Get rid of a thing that the task does not ask for."""
        memory = self._memory
        here = self._command(f"move {memory.held} to ")
        return here or self._first_way([memory.origin, *memory.receptacles])

    def _openable(self, receptacle: str) -> bool:
        return self._policy.is_receptacle_openable(receptacle)

    def _first_way(self, receptacles: Iterable[str]) -> str | None:
        """Return the action that leads to (then into) the first that can be reached."""
        for receptacle in receptacles:
            for verb in ("go to", "open"):
                if f"{verb} {receptacle}" in self._now.choices:
                    return f"{verb} {receptacle}"
            # Beside the last one, and not looked at: it is never gone to from there.
            if receptacle not in self._memory.contents:
                return self._command(f"examine {receptacle}")
        return None

    def _command(self, prefix: str) -> str | None:
        """Return the first admissible command that begins like this."""
        return next((c for c in self._now.choices if c.startswith(prefix)), None)


def _kind(name: str) -> str:
    return name.split(maxsplit=1)[0]
