"""ALFWorld: household tasks in text, played by the real engine.

Tasks are the games of the published folder layout,
``<root>/json_2.1.1/<split>/<task>/<trial>/game.tw-pddl``; no other file is needed.
Texts and command lists equal those of the stock engine (alfworld 0.4.2 on TextWorld's
`PddlEnv`), which the tests compare byte by byte.
"""

import hashlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task

if TYPE_CHECKING:
    from textworld.logic import Proposition

KINDS = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
SPLITS = ("train", "valid_seen", "valid_unseen")
# The columns of the paper's tables; each is the mean of its kinds' rates.
COLUMNS = {
    "pick_and_place": ("pick_and_place_simple", "pick_two_obj_and_place"),
    "examine": ("look_at_obj_in_light",),
    "transform": (
        "pick_clean_then_place_in_recep",
        "pick_heat_then_place_in_recep",
        "pick_cool_then_place_in_recep",
    ),
}
# The published rules: lower case, and the tail of an untagged response is sent, too.
ACTION_FORMAT = TaggedFormat(lower_case=True, untagged_characters=30)
_GAMES = "json_2.1.1"
_WHERE = f"set either, env.root or ALFWORLD_DATA, to the folder that holds {_GAMES}"
_GET_GAMES = (
    "download the games with `alfworld-download`, or build some with "
    "python -m reskill_jax.environments.alfworld.games"
)
# The key is near the end of a file; in the file's texts, its quotes are escaped.
_SOLVABLE = re.compile(rb'(?<!\\)"solvable"\s*:\s*(true|false)')
_TAIL = 4096  # bytes


def find_games(root: str | None, split: str) -> list[Task]:
    """List the solvable games of a split, sorted by id.

    As in ALFWorld, games with movable receptacles or sliced objects are left out, and
    so are those not marked as solvable.

    Args:
        root: folder that holds ``json_2.1.1``; None reads the variable ALFWORLD_DATA.
        split: one of `SPLITS`.

    Raises:
        ValueError: for an unknown split, no root or an unknown kind.
        FileNotFoundError: if the split's folder or its games are missing.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: ALFWorld has {', '.join(SPLITS)}, dev")
    games = _data_root(root) / _GAMES
    folder = games / split
    if not games.is_dir():
        raise FileNotFoundError(f"there is no folder {games}: {_WHERE}; {_GET_GAMES}")
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}: {_GET_GAMES}; or use the splits that are "
            "there (eval.splits, adapt.split)"
        )
    tasks = []
    for path in sorted(folder.glob("*/*/game.tw-pddl")):
        if re.search("movable|Sliced", path.parent.parent.name):
            continue
        content = path.read_bytes()
        if _is_solvable(content):
            tasks.append(_task(path, split, content))
    if not tasks:
        pattern = folder / "*/*/game.tw-pddl"
        raise FileNotFoundError(f"no solvable game matches {pattern}: {_GET_GAMES}")
    return tasks


def _data_root(root: str | None) -> Path:
    root = root or os.environ.get("ALFWORLD_DATA")
    if not root:
        raise ValueError(
            "root is empty and the variable ALFWORLD_DATA is not set: "
            f"{_WHERE}; {_GET_GAMES}"
        )
    return Path(root)


def _is_solvable(content: bytes) -> bool:
    """Search for the key without parsing the game (a split has thousands of 100 kB)."""
    match = _SOLVABLE.search(content[-_TAIL:]) or _SOLVABLE.search(content)
    return match is not None and match[1] == b"true"


def _task(path: Path, split: str, content: bytes) -> Task:
    trial, name = path.parent.name, path.parent.parent.name
    kind = name.split("-", 1)[0]
    if kind not in KINDS:
        raise ValueError(
            f"unknown kind of task {kind!r} in {path}; task folders are named "
            "<kind>-<object>-<movable>-<receptacle>-<scene> with a kind of "
            f"{', '.join(KINDS)}"
        )
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Task(f"{split}/{name}/{trial}", kind, split, str(path), digest)


def game_content(task: Task) -> str:
    """Return the game of a task, whose source is a file's path or the game itself."""
    if task.source.startswith("{"):
        return task.source
    return Path(task.source).read_bytes().decode()


class AlfworldEnvironment:
    """Plays ALFWorld games (see `reskill_jax.environments.protocol.Environment`).

    Environments of one process share what is known about a game, so that the rollouts
    of a group cost one translation. Each holds its own copy of the planner's library:
    make few, reuse them for any number of games, and use each from one thread.
    """

    def __init__(self) -> None:
        """Load the engine.

        Raises:
            ImportError: if the extra `alfworld` is not installed.
        """
        # An optional extra, and importing it takes a second.
        from reskill_jax.environments.alfworld import engine  # noqa: PLC0415

        self._engine = engine
        self._player = engine.Player()
        self._playing = False

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Start a game; return its goal sentence and the description of the room.

        Raises:
            ValueError: if the game file cannot be read or is broken.
        """
        try:
            game = self._engine.load_game(game_content(task).encode())
        except (OSError, ValueError) as error:
            raise ValueError(
                f"cannot load the game {task.place} of task {task.id}: {error}; "
                f"remove its folder or get it again: {_GET_GAMES}"
            ) from error
        self._player.start(game)
        self._playing = True
        return game.goal, Observation(game.room, self._admissible())

    def step(self, action: str) -> Observation:
        """Play a command; any but the engine's exact ones changes nothing.

        The command ``help`` is accepted, though not listed. Reward is 1 when the goal
        is reached, which ends the episode, and 0 before.

        Raises:
            RuntimeError: no episode is running.
        """
        if not self._playing:
            raise RuntimeError(
                f"step({action!r}) outside of an episode: none was started, or it has "
                "ended; call reset(task) first"
            )
        understood = action in self._admissible()
        text = self._player.play(action)
        won = self._player.won
        self._playing = not won
        return Observation(
            text.strip(),
            self._admissible(),
            reward=float(won),
            done=won,
            success=won,
            understood=understood,
        )

    def finish(self) -> Observation:
        """End an episode that has not reached its goal; nothing is paid."""
        self._playing = False
        return Observation("", done=True)

    @property
    def facts(self) -> "tuple[Proposition, ...]":
        """TextWorld's propositions that hold now, as the stock engine's info `facts`.

        They are for experts and tests; an agent must not see them.
        """
        return self._player.facts

    def close(self) -> None:
        """Release the planner's library; the environment cannot be used again."""
        self._player.close()
        self._playing = False

    def _admissible(self) -> tuple[str, ...]:
        return tuple(c for c in self._player.commands if c != "help")
