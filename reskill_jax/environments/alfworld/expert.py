"""An expert for ALFWorld that searches like an agent and can take over at any turn.

The `alfworld` package has a hand-coded expert whose policies decide which subgoal comes
next (find, take, heat, put, ...). We use those policies. What they see and how a
subgoal is carried out is ours, because the shipped expert needs a ``traj_data.json``
beside the game and the simulator's facts, draws from the global random generator,
begins with `look`, closes what it opens, forgets where it has been, raises when it is
lost, and never notices that something was put down, since the engine's verb for that
became `move`.

This one knows only the texts and command lists that the agent sees. It is
deterministic, and continues from any state, whoever chose the last action.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from reskill_jax.environments.alfworld import engine
from reskill_jax.environments.alfworld.tracker import TWO, Tracker, type_of
from reskill_jax.environments.protocol import Observation, Task

with engine.undisturbed():
    from alfworld.agents.expert import HandCodedTWAgent

# The package has no prior for lamps: they stand where an alarm clock may.
_SEARCHED_LIKE = {"desklamp": "alarmclock"}


class Expert:
    """Proposes the next action in an episode that it need not be playing itself.

    Call `reset` with the first observation, `observe` with every later one, `propose`
    whenever an action is needed.
    """

    def reset(self, task: Task, observation: Observation) -> None:
        """Start an episode.

        Raises:
            ValueError: if the task's id or the text is not of an ALFWorld game.
        """
        tracker = self._tracker = Tracker.start(task, observation.text)
        params = {
            "object_target": tracker.target,
            "parent_target": tracker.goal,
            "toggle_target": tracker.goal,
        }
        policy_class = HandCodedTWAgent().get_task_policy({"task_type": tracker.kind})
        self._policy = policy_class(params, max_steps=0)
        self._policy.receptacles = {name: type_of(name) for name in tracker.receptacles}
        self._now = observation

    def observe(self, observation: Observation) -> None:
        """Take in the observation after the last action, whoever chose it."""
        self._tracker.read(observation.text)
        self._now = observation

    def propose(self) -> str | None:
        """Return an admissible action; None when done or when all was searched."""
        if self._now.done:
            return None
        action, kind = self._next_subgoal()
        if action in ("find", "goto"):
            return self._find(kind)
        if action == "take":
            return self._take(kind)
        if action == "put":
            return self._put(kind)
        held = self._tracker.held
        return self._command(f"use {kind} " if action == "use" else f"{action} {held} ")

    def _next_subgoal(self) -> tuple[str, str]:
        """Ask the package's policy, in its own terms, for the next subgoal."""
        tracker, policy = self._tracker, self._policy
        here = [r for r in tracker.receptacles if f"examine {r}" in self._now.choices]
        seen = [thing for r in here for thing in tracker.contents.get(r, ())]
        policy.curr_recep = ", ".join(here)  # several may share a location
        policy.obs_at_recep = {policy.curr_recep: f"you see a {' a '.join(seen)} "}
        policy.inventory = [tracker.held] if tracker.held else []
        policy.subgoal_idx = policy.check_subgoal_completion(
            {"facts": self._facts(), "admissible_commands": self._now.choices}
        )
        action, kind, _ = policy.get_next_subgoal()
        return action, kind

    def _facts(self) -> list[Any]:
        """State what is known in the form of the engine's facts."""
        tracker = self._tracker
        facts: list[tuple[str, ...]] = []
        if tracker.held:
            facts.append(("holds", "agent", tracker.held))
        facts += [(f, thing) for thing, made in tracker.changes.items() for f in made]
        placed = self._placed()
        everything = [(t, r) for r, things in tracker.contents.items() for t in things]
        # Objects that are in place come first, since the policy looks at one only.
        for thing, place in sorted(everything, key=lambda pair: pair[0] not in placed):
            facts.append(("inreceptacle", thing, place))
        return [SimpleNamespace(name=name, names=names) for name, *names in facts]

    def _home(self) -> str:
        """Return the receptacle that two targets are being put in, or an empty name."""
        tracker = self._tracker

        def count(place: str) -> int:
            return sum(map(tracker.is_target, tracker.contents[place]))

        places = [r for r in tracker.contents if tracker.is_goal(r)]
        best = max(places, key=count, default="")
        return best if tracker.kind == TWO and best and count(best) else ""

    def _placed(self) -> list[str]:
        """Objects that are where the task wants them."""
        return self._tracker.contents.get(self._home(), [])

    def _wanted(self, kind: str) -> Callable[[str], bool]:
        placed = self._placed()
        return lambda thing: type_of(thing) == kind and thing not in placed

    def _find(self, kind: str) -> str | None:
        if self._tracker.held and not self._policy.is_agent_holding_right_object:
            return self._put_back()
        if kind in self._policy.receptacles.values():
            return self._approach(kind)
        return self._search(kind)

    def _put(self, kind: str) -> str | None:
        held, home = self._tracker.held, self._home()
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
        """Go where such an object was seen, else where it is likely, else anywhere."""
        tracker, wanted = self._tracker, self._wanted(kind)
        known = [r for r, held in tracker.contents.items() if any(map(wanted, held))]
        likely = self._policy.OBJECT_TO_VAL_RECEPTACLE[_SEARCHED_LIKE.get(kind, kind)]
        unseen = [r for r in tracker.receptacles if r not in tracker.contents]
        # Looking into an open receptacle takes one action, into a closed one two.
        unseen.sort(key=lambda r: (type_of(r) not in likely, self._openable(r)))
        return self._take(kind) or self._first_way(known + unseen)

    def _approach(self, kind: str) -> str | None:
        """Go to a receptacle of a type and open it: the one in use, then seen ones."""
        tracker, home = self._tracker, self._home()
        places = [r for r in tracker.receptacles if type_of(r) == kind]
        places.sort(
            key=lambda r: (r != home, r in tracker.closed, r not in tracker.contents)
        )
        return self._first_way(places)

    def _put_back(self) -> str | None:
        """Put down an object that the task does not ask for."""
        tracker = self._tracker
        here = self._command(f"move {tracker.held} to ")
        return here or self._first_way([tracker.origin, *tracker.receptacles])

    def _openable(self, receptacle: str) -> bool:
        return self._policy.is_receptacle_openable(receptacle)

    def _first_way(self, receptacles: Iterable[str]) -> str | None:
        """Return the action that reaches, or opens, the first that can be reached."""
        for receptacle in receptacles:
            for verb in ("go to", "open"):
                if f"{verb} {receptacle}" in self._now.choices:
                    return f"{verb} {receptacle}"
            # It is beside the agent and not looked at, and `go to` is impossible.
            if receptacle not in self._tracker.contents:
                return self._command(f"examine {receptacle}")
        return None

    def _command(self, prefix: str) -> str | None:
        """Return the first admissible command that begins like this."""
        return next((c for c in self._now.choices if c.startswith(prefix)), None)
