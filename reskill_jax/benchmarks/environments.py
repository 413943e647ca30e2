"""Measures our engines of ALFWorld and ScienceWorld beside the stock ones.

    python -m reskill_jax.benchmarks.environments [--games=DIR] [--limit=3]
    python -m reskill_jax.benchmarks.environments --environment=scienceworld

`benchmarks.scienceworld` says what is played there. In ALFWorld both engines play the
same groups of 8 rollouts of one game, at most 50 steps each: once with random
admissible commands, once with the game's walkthrough. A group pays for loading its game
once. Each measurement is a fresh process that plays all games; the engines take turns,
and the medians over the repeats count. Times are CPU seconds.
All texts and command lists are hashed, and both engines must have the same hash.
"""

import argparse
import dataclasses
import hashlib
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from reskill_jax.benchmarks import reporting, scienceworld
from reskill_jax.environments.alfworld.environment import (
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.panels import evenly_spaced
from reskill_jax.environments.protocol import Observation, Task
from reskill_jax.terminal import activity

if TYPE_CHECKING:
    from textworld.logic import Proposition

GROUP = 8
MAX_STEPS = 50
TARGET = 10.0  # times the stock engine's episodes per CPU second
_ENGINES = ("stock", "ours")
_T = TypeVar("_T")


class StockEnvironment:
    """The engine as `alfworld` composes it, behind our interface.

    Without the argument `facts` the property of that name cannot be used, since facts
    slow the stock engine down.
    """

    def __init__(self, *, facts: bool = False) -> None:
        from alfworld.agents.environment import alfred_tw_env  # noqa: PLC0415
        from textworld import EnvInfos  # noqa: PLC0415
        from textworld.envs import PddlEnv  # noqa: PLC0415

        infos = EnvInfos(
            won=True, admissible_commands=True, facts=facts, extras=["gamefile"]
        )
        demangler = alfred_tw_env.AlfredDemangler(PddlEnv(infos), shuffle=False)
        self._environment = alfred_tw_env.AlfredInfos(demangler)
        self._state: Any = None
        self._loaded = ""

    def load(self, task: Task) -> None:
        """Load the game of a task."""
        self._environment.load(task.source)
        self._loaded = task.source

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Start a task; its game is loaded if it is not the last one that was."""
        if task.source != self._loaded:
            self.load(task)
        self._state = self._environment.reset()
        _, room, goal = self._state.feedback.split("\n\n")
        goal = goal.removeprefix("Your task is to: ")
        return goal, Observation(room, self._admissible())

    def step(self, action: str) -> Observation:
        """Play a command."""
        self._state, score, done = self._environment.step(action)
        text, won = self._state.feedback.strip(), self._state["won"]
        return Observation(
            text, self._admissible(), reward=float(score), done=done, success=won
        )

    @property
    def facts(self) -> "tuple[Proposition, ...]":
        """TextWorld's propositions that hold now."""
        return tuple(self._state["facts"])

    def close(self) -> None:
        """Do nothing: the stock engine never unloads its library."""

    def _admissible(self) -> tuple[str, ...]:
        return tuple(c for c in self._state["admissible_commands"] if c != "help")


class _Stopwatch:
    """Collects the CPU seconds of named calls, and a hash of their results."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.digest = hashlib.sha256()

    def time(self, name: str, call: Callable[..., _T], *arguments: Any) -> _T:
        start = time.process_time()
        result = call(*arguments)
        self.seconds[name].append(time.process_time() - start)
        self.digest.update(repr(result).encode())
        return result


def measure(engine: str, tasks: list[Task]) -> dict[str, Any]:
    """Play a group of each kind per task in this process; return means and rates.

    Args:
        engine: ``stock`` or ``ours``.
        tasks: games to play.
    """
    environment, load = _make(engine)
    figures: dict[str, Any] = {}
    texts = hashlib.sha256()
    for kind, play in (("random", _play_randomly), ("walkthrough", _play_walkthrough)):
        watch = _Stopwatch()
        for task in tasks:
            watch.time("load", load, task)
            for seed in range(GROUP):
                play(environment, task, seed, watch)
        texts.update(watch.digest.digest())
        cpu = sum(map(sum, watch.seconds.values()))
        figures[f"{kind} episodes/CPU s"] = GROUP * len(tasks) / cpu
        if kind == "random":
            for name, seconds in watch.seconds.items():
                figures[f"{name} ms"] = 1000 * statistics.mean(seconds)
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return figures | {"memory MiB": kib / 1024, "texts": texts.hexdigest()}


def _make(engine: str) -> tuple[Any, Callable[[Task], None]]:
    """Return an environment, and a function that loads a game without any cache."""
    if engine == "stock":
        stock = StockEnvironment()
        return stock, stock.load
    from reskill_jax.environments.alfworld import engine as alfworld_engine  # noqa: PLC0415

    def load(task: Task) -> None:
        alfworld_engine.load_game.cache_clear()
        alfworld_engine.load_game(Path(task.source).read_bytes())

    return AlfworldEnvironment(), load


def _play_randomly(environment: Any, task: Task, seed: int, watch: _Stopwatch) -> None:
    rng = random.Random(seed)
    _, seen = watch.time("reset", environment.reset, task)
    for _ in range(MAX_STEPS):
        action = rng.choice(seen.actions)
        seen = watch.time("step", environment.step, action)
        if seen.done:
            return


def _play_walkthrough(environment: Any, task: Task, _: int, watch: _Stopwatch) -> None:
    watch.time("reset", environment.reset, task)
    for action in json.loads(Path(task.source).read_text())["walkthrough"]:
        watch.time("step", environment.step, action)


def _compare(environment: str, given: str, repeats: int) -> dict[str, dict[str, float]]:
    """Measure both engines in turn, each time in a fresh process; return medians.

    Args:
        environment: whose engines.
        given: what they play, as JSON.
        repeats: how often.

    Raises:
        RuntimeError: the engines' texts differ.
    """
    runs: dict[str, list[dict[str, Any]]] = {engine: [] for engine in _ENGINES}
    for _ in range(repeats):
        for engine in _ENGINES:
            command = [sys.executable, "-m", __spec__.name, f"--measure={engine}"]
            command.append(f"--environment={environment}")
            done = subprocess.run(
                command, input=given, stdout=subprocess.PIPE, text=True, check=True
            )
            runs[engine].append(json.loads(done.stdout.splitlines()[-1]))
    texts = {run.pop("texts") for of_engine in runs.values() for run in of_engine}
    if len(texts) > 1:
        raise RuntimeError(f"the engines show different texts in {given:.2000}")
    return {
        engine: {
            name: statistics.median(run[name] for run in of_engine)
            for name in of_engine[0]
        }
        for engine, of_engine in runs.items()
    }


def _cases(games: str | None, limit: int) -> Iterator[tuple[str, list[Task]]]:
    """Yield names and tasks: small houses, and full-size games."""
    # Importing the generator imports the engine.
    from reskill_jax.environments.alfworld.games import generate  # noqa: PLC0415
    from reskill_jax.environments.alfworld.house_settings import (  # noqa: PLC0415
        PRESETS,
    )

    def build(preset: str, folder: str) -> list[Task]:
        settings = dataclasses.replace(
            PRESETS[preset], train=limit, valid_seen=0, valid_unseen=0
        )
        generate(Path(folder, preset), settings)
        return find_games(str(Path(folder, preset)), "train")

    with tempfile.TemporaryDirectory() as folder:
        yield "small houses", build("small", folder)
        if games:
            tasks = evenly_spaced(find_games(games, "train"), limit)
            yield "published games", list(tasks)
        else:
            yield "full-size houses", build("full", folder)


def main() -> None:
    """Compare the engines, or measure one of them where --measure asks for it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--environment", choices=("alfworld", "scienceworld"), default="alfworld"
    )
    parser.add_argument(
        "--games",
        default=os.environ.get("ALFWORLD_DATA"),
        help="folder that holds json_2.1.1; default: ALFWORLD_DATA; without either, "
        "full-size houses are generated",
    )
    parser.add_argument("--limit", type=int, default=3, help="games of each case")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each engine")
    parser.add_argument("--measure", choices=_ENGINES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        given = json.load(sys.stdin)
        print(json.dumps(_MEASURE[flags.environment](flags.measure, given)))
        return

    figures, bars = {}, {}
    for case, given in _CASES[flags.environment](flags.games, flags.limit):
        with activity(f"playing {case} in both engines"):
            medians = _compare(flags.environment, given, flags.repeats)
        rows: list[tuple[str, float, float, float]] = []
        for name, stock in medians["stock"].items():
            ours = medians["ours"][name]
            ratio = ours / stock if "/CPU s" in name else stock / ours
            rows.append((name, stock, ours, ratio))
            figures[f"{case}, {name}, stock"] = stock
            figures[f"{case}, {name}, ours"] = ours
            if "/CPU s" in name:
                label = f"{case}, {name}, ours / stock"
                bars[label] = reporting.Bar(ratio, _TARGETS[flags.environment])
        header = (f"{flags.limit} {case}, G={GROUP}", *_ENGINES, "times better")
        print(reporting.format_table(header, rows), end="\n\n")
    reporting.report("environments", figures, bars)


def _alfworld_cases(games: str | None, limit: int) -> Iterator[tuple[str, str]]:
    for case, tasks in _cases(games, limit):
        yield case, json.dumps([dataclasses.asdict(task) for task in tasks])


def _measure_alfworld(engine: str, given: Any) -> dict[str, Any]:
    return measure(engine, [Task(**fields) for fields in given])


def _scienceworld_cases(_: str | None, limit: int) -> Iterator[tuple[str, str]]:
    rollouts = scienceworld.draw_rollouts(limit)
    given = [(dataclasses.asdict(task), commands) for task, commands in rollouts]
    yield "tasks of ScienceWorld", json.dumps(given)


def _measure_scienceworld(engine: str, given: Any) -> dict[str, Any]:
    rollouts = [(Task(**fields), commands) for fields, commands in given]
    return scienceworld.measure(engine, rollouts)


_CASES = {"alfworld": _alfworld_cases, "scienceworld": _scienceworld_cases}
_MEASURE = {"alfworld": _measure_alfworld, "scienceworld": _measure_scienceworld}
_TARGETS = {"alfworld": TARGET, "scienceworld": scienceworld.TARGET}


if __name__ == "__main__":
    main()
