"""ALFWorld's own engine with its repeated work done once per game.

The stock stack (`PddlEnv`, `AlfredDemangler`, `AlfredInfos`) translates a game from
PDDL twice at every load and reset, and derives the text of every admissible command
anew at every step. Here a `Game` holds what never changes: the translation, the
entities' names, the initial facts and the command of each operator. It is made once per
process and game and shared by all players. A `Player` owns one copy of the planner's
library, which holds the true state and decides which operators apply, what they change
and when the goal is reached, exactly as in the stock engine. Texts and command lists
are the same.

This module needs the extra `alfworld`. It is the one place that imports the engine's
packages, because importing and using them has side effects (see `undisturbed`).
"""

import contextlib
import ctypes
import functools
import json
import os
import re
import sys
import tempfile
import weakref
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Undo the side effects that the engine's packages have on the process.

    `alfworld` creates the folder that the variable ALFWORLD_DATA names when it is
    imported, or sets the variable to one in the home directory; the translator
    overwrites `sys.argv`.
    """
    argv, data = sys.argv, os.environ.get("ALFWORLD_DATA")
    os.environ["ALFWORLD_DATA"] = tempfile.gettempdir()
    try:
        yield
    finally:
        sys.argv = argv
        del os.environ["ALFWORLD_DATA"]
        if data is not None:
            os.environ["ALFWORLD_DATA"] = data


try:
    with undisturbed():
        import fast_downward
        from alfworld.agents.utils.misc import Demangler
        from textworld.envs.pddl.logic import GameLogic
        from textworld.generator.game import EntityInfo
        from textworld.logic import Proposition, Variable

        from reskill_jax.environments.alfworld.narrator import (
            Binding,
            Facts,
            Narrator,
            Placeholder,
            Rows,
            Signature,
        )
except ImportError as error:
    raise ImportError(
        f"the ALFWorld engine cannot be imported ({error}); install it with "
        "pip install 'reskill_jax[alfworld]' (needs cmake, make and a C++ compiler)"
    ) from error

_KEYS = ("pddl_domain", "pddl_problem", "grammar")
# Only the goal differs between the grammars of games: without it, one parse serves all.
_TASK = "Your task is to: "
_GOAL = re.compile(rf"(?<={_TASK})[^\"\\#\[\]{{}}|;<>]+")
# What the translator writes in place of a task that has no solution, or needs none.
_TRIVIAL = "Atom dummy(val1)"
_NOTHING = "Nothing happens."


@dataclass(frozen=True)
class Operator:
    """A ground action: its command, and what the sentence about it needs."""

    command: str
    feedback: str
    binding: Binding


@dataclass(frozen=True)
class Effect:
    """A literal that becomes true; TextWorld states false ones too, with ``not_``."""

    added: Signature
    removed: Signature
    names: tuple[str, ...]


class Game:
    """The constant parts of one game, shared by all its players.

    Attributes:
        goal: the goal sentence.
        room: the description of the room that an episode begins with.
        sas: the translated task, as the planner's library loads it.
        facts: the initial facts.
    """

    def __init__(self, data: Mapping[str, Any]):
        """Translate a game file's content.

        Raises:
            ValueError: if the grammar has no goal, tells it elsewhere than at the end
                of the introduction, or has commands that depend on the state; or if the
                problem cannot be solved.
        """
        grammar = data["grammar"]
        goal = _GOAL.search(grammar)
        if goal is None:
            raise ValueError(f"the grammar has no sentence '{_TASK}<goal>'")
        # What an escape such as \" stands for, the grammar's parser knows.
        escapes = grammar[goal.end() : goal.end() + 1] == "\\"
        logic = _parse_grammar(grammar if escapes else _GOAL.sub("UNKNOWN", grammar))
        self._actions = logic.actions
        with undisturbed():
            task, sas = fast_downward.pddl2sas(
                data["pddl_domain"], data["pddl_problem"]
            )
        if _TRIVIAL in sas:
            raise ValueError(
                "its goal cannot be reached by any actions, or is reached by none"
            )
        _check_commands(logic.actions.values(), task.actions)
        self.sas = sas.encode()
        self._parameters: dict[str, list[Placeholder]] = {
            action.name: [
                (parameter.name.strip("?"), parameter.type_name)
                for parameter in action.parameters[: action.num_external_parameters]
            ]
            for action in task.actions
        }
        self._types = {entity.name: entity.type_name for entity in task.objects}
        self._operators: dict[int, Operator] = {}
        self._effects: dict[bytes, Effect] = {}
        self._propositions: dict[tuple[Signature, tuple[str, ...]], Proposition] = {}

        self.facts = self._initial_facts(task.init)
        self._entities = _name_entities(self.facts)
        self._narrator = Narrator(logic.grammar, self._entities, task.types)
        intro = self._narrator.narrate("#intro#", {}, self.facts)
        parts = intro.split("\n\n", 2)  # a greeting, the room and the goal
        if len(parts) < 3 or _TASK not in parts[2]:
            raise ValueError(
                "the grammar's introduction is not a greeting, the room and the goal, "
                f"with empty lines between: {intro!r:.200}"
            )
        self.room = parts[1]
        told = parts[2].partition(_TASK)[2] if escapes else goal[0]
        self.goal = told.strip()

    def operator(self, ground: Any) -> Operator:
        """Describe one of the library's ground operators; its command never changes."""
        operator = self._operators.get(ground.id)
        if operator is None:
            name, *arguments = ground.name.split()
            binding = dict(zip(self._parameters[name], arguments, strict=True))
            action = self._actions[name]
            command = self._narrator.narrate(action.template, binding, self.facts)
            operator = Operator(command, action.feedback_rule, binding)
            self._operators[ground.id] = operator
        return operator

    def effect(self, atom: bytes) -> Effect:
        """Parse the library's text of a literal, such as ``Atom opened(safe_1)``."""
        effect = self._effects.get(atom)
        if effect is None:
            kind, literal = atom.decode("cp1252").split(" ", 1)
            predicate, arguments = literal.removesuffix(")").split("(", 1)
            names = tuple(name for name in arguments.split(", ") if name)
            types = tuple(self._types[name] for name in names)
            pair = ((predicate, types), (f"not_{predicate}", types))
            added, removed = pair[::-1] if kind == "NegatedAtom" else pair
            effect = self._effects[atom] = Effect(added, removed, names)
        return effect

    def narrate(self, operator: Operator, facts: Facts) -> str:
        """Describe the effect of `operator`; `facts` are those after it."""
        return self._narrator.narrate(operator.feedback, operator.binding, facts)

    def proposition(self, signature: Signature, names: tuple[str, ...]) -> Proposition:
        """Return a fact as TextWorld's info `facts` has it, with entities' names."""
        proposition = self._propositions.get((signature, names))
        if proposition is None:
            predicate, types = signature
            arguments = [
                Variable(self._entities[name].name, type_name)
                for name, type_name in zip(names, types, strict=True)
            ]
            proposition = Proposition(predicate, arguments)
            self._propositions[signature, names] = proposition
        return proposition

    def _initial_facts(self, init: Iterable[Any]) -> dict[Signature, Rows]:
        """Collect what the problem states and what the library derives from it."""
        rows: dict[Signature, set[tuple[str, ...]]] = {}
        for atom in init:
            # Numbers (distances, costs) have no predicate; equality is not a fact.
            predicate = getattr(atom, "predicate", "=")
            if predicate != "=":
                types = tuple(self._types[name] for name in atom.args)
                rows.setdefault((predicate, types), set()).add(tuple(atom.args))
        library = _take_library()
        library.load_sas(self.sas)
        atoms = (fast_downward.Atom * library.get_state_size())()
        library.get_state(atoms)
        _free_libraries.append(library)
        for effect in (self.effect(atom._name) for atom in atoms):
            if not effect.added[0].startswith("not_"):
                rows.setdefault(effect.added, set()).add(effect.names)
        return {signature: tuple(sorted(names)) for signature, names in rows.items()}


class Player:
    """Plays games one at a time; owns a copy of the planner's library."""

    def __init__(self) -> None:
        self._library = _take_library()
        self._release = weakref.finalize(self, _free_libraries.append, self._library)
        self._game: Game
        self._facts: dict[Signature, Rows] = {}
        self._applicable: dict[str, tuple[int, int, Operator]] = {}

    def start(self, game: Game) -> None:
        """Put the library into the initial state of a game.

        Raises:
            RuntimeError: if the player was closed.
        """
        if not self._release.alive:
            raise RuntimeError("this player was closed; make a new one")
        self._library.load_sas(game.sas)
        self._game = game
        self._facts = dict(game.facts)
        self._list_commands()

    @property
    def commands(self) -> list[str]:
        """Commands that the engine accepts now, sorted as the stock engine does."""
        return sorted(self._applicable)

    @property
    def won(self) -> bool:
        """Whether the goal is reached."""
        return self._library.check_goal()

    @property
    def facts(self) -> tuple[Proposition, ...]:
        """What is true now, as TextWorld's info `facts`; empty before a game."""
        return tuple(
            self._game.proposition(signature, names)
            for signature, rows in self._facts.items()
            for names in rows
        )

    def play(self, command: str) -> str:
        """Apply a command and return the engine's text about it."""
        if command.strip() not in self._applicable:
            return _NOTHING
        index, effect_count, operator = self._applicable[command.strip()]
        atoms = (fast_downward.Atom * effect_count)()
        self._library.apply_operator(index, atoms)
        for effect in (self._game.effect(atom._name) for atom in atoms):
            _discard(self._facts, effect.removed, effect.names)
            _add(self._facts, effect.added, effect.names)
        self._list_commands()
        return self._game.narrate(operator, self._facts)

    def close(self) -> None:
        """Release the library for other players."""
        self._release()

    def _list_commands(self) -> None:
        count = self._library.get_applicable_operators_count()
        operators = (fast_downward.Operator * count)()
        self._library.get_applicable_operators(operators)
        self._applicable = {}
        for ground in operators:
            operator = self._game.operator(ground)
            # Several operators may share a command: the stock engine takes the first.
            self._applicable.setdefault(
                operator.command, (ground.id, ground.nb_effect_atoms, operator)
            )


@functools.lru_cache(maxsize=64)
def load_game(text: bytes) -> Game:
    """Return the game of a file's content; a cached one is not translated again.

    The content is the cache's key, so that a changed file is another game.

    Raises:
        ValueError: the content is not a game; the message says why.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    if not isinstance(data, dict):
        raise ValueError(f"it holds a JSON {type(data).__name__}, not an object")
    missing = [key for key in _KEYS if not isinstance(data.get(key), str)]
    if missing:
        raise ValueError(f"it lacks the text of {', '.join(missing)}")
    try:
        return Game(data)
    except (Exception, SystemExit) as error:  # the translator exits on some errors
        raise ValueError(f"its PDDL or grammar is broken ({error})") from error


@functools.lru_cache(maxsize=8)
def _parse_grammar(grammar: str) -> GameLogic:
    return GameLogic(domain="", grammar=grammar)


# Copies of the planner's library that no player uses. They are kept: a process that
# unloads one while others are loaded crashes later.
_free_libraries: list[ctypes.CDLL] = []


def _take_library() -> ctypes.CDLL:
    return _free_libraries.pop() if _free_libraries else fast_downward.load_lib()


def _check_commands(actions: Iterable[Any], tasks: Iterable[Any]) -> None:
    """Raise ValueError if a command template queries facts that actions change."""
    changing = {effect.literal.predicate for t in tasks for effect in t.effects}
    for action in actions:
        queried = set(re.findall(r"(\w+)\(", action.template.lower()))
        if queried & changing:
            raise ValueError(
                f"the command of action {action.name}, {action.template!r}, depends on "
                f"{', '.join(sorted(queried & changing))}, which actions change"
            )


def _name_entities(facts: Facts) -> dict[str, EntityInfo]:
    """Give every entity of the facts the name that ALFWorld shows for it."""
    entities = {
        name: EntityInfo(name, type_name)
        for (_, types), rows in facts.items()
        for names in rows
        for name, type_name in zip(names, types, strict=True)
    }
    demangler = Demangler(game_infos=entities, shuffle=False)
    for entity in entities.values():
        entity.name = demangler.demangle_alfred_name(entity.id)
        entity.definite, entity.indefinite = "the", "a"
    return entities


def _add(facts: dict[Signature, Rows], key: Signature, names: tuple[str, ...]) -> None:
    rows = facts.get(key, ())
    index = bisect_left(rows, names)
    if rows[index : index + 1] != (names,):
        facts[key] = (*rows[:index], names, *rows[index:])


def _discard(
    facts: dict[Signature, Rows], key: Signature, names: tuple[str, ...]
) -> None:
    facts[key] = tuple(row for row in facts.get(key, ()) if row != names)
