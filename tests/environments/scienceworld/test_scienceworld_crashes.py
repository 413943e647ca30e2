"""A Java machine that is killed, hangs or runs out of memory costs no episode."""

import asyncio
import importlib.util
import os
import signal
from functools import partial

import pytest

from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import ProcessUnusableError
from reskill_jax.environments.scienceworld.environment import ScienceWorldEnvironment
from reskill_jax.environments.scienceworld.machine import Machine, Simulator
from reskill_jax.environments.scienceworld.tasks import panel
from reskill_jax.environments.worker import WorkerStartError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("scienceworld") is None,
    reason="the extra `scienceworld` is not installed",
)
SOLUTION = (
    "teleport to outside", "look around", "focus on dove", "inventory", "look around"
)  # fmt: skip
MAKE = partial(ScienceWorldEnvironment, heap_mb=256)


def machines(pool):
    """Return the process ids of the Java machines in the workers' process groups."""
    return [
        process
        for process in map(int, filter(str.isdigit, os.listdir("/proc")))
        if process not in pool.pids and _group(process) in pool.pids
    ]


def _group(process):
    try:
        return os.getpgid(process)
    except ProcessLookupError:
        return None


async def play(pool, task, disturb=None, turn=0):
    """Play a task; return all that was seen."""
    with pool.open(task.id) as player:
        seen = [await player.reset(task)]
        for number, command in enumerate(SOLUTION):
            if disturb and number == turn:
                disturb()
            seen.append(await player.step(command))
        return [*seen, await player.finish()]


def tasks(count):
    return panel(("find-animal",), (), "train", count, simplifications="easy").tasks


def shoot(pool, sign):
    found = machines(pool)
    assert found
    for process in found:
        os.kill(process, sign)


@pytest.mark.parametrize(
    "sign",
    [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)],
)
def test_a_machine_that_is_killed_or_hangs_is_replaced(sign):
    (task,) = tasks(1)
    # The time is that of a simulator whose code was not compiled yet.
    with EnvironmentPool(MAKE, workers=1, timeout_s=15.0) as pool:
        expected = asyncio.run(play(pool, task))
        assert pool.counters.restarts == 0
        disturbed = asyncio.run(play(pool, task, partial(shoot, pool, sign), 3))
        assert disturbed == expected
        assert pool.counters.restarts == 1
        assert pool.counters.replayed_steps == 3
        assert pool.counters.timeouts == (sign == signal.SIGSTOP)


def test_a_machine_without_memory_ends():
    machine = Machine(128)
    simulator = Simulator(machine)
    simulator.load("find-animal", 0, "easy")
    with (
        pytest.raises(ProcessUnusableError, match="the Java machine has ended"),
        machine.lent_to(simulator),
    ):
        machine._gateway.new_array(machine.java.byte, 300 * 2**20)
    assert machine.process.wait(10)
    with pytest.raises(ProcessUnusableError):
        simulator.step("look around")


def test_a_java_that_does_not_start_is_said():
    """Where a machine cannot have its heap, no worker can start."""
    with pytest.raises(WorkerStartError, match=r"Java did not start.*heap_mb=10{9} "):
        EnvironmentPool(partial(ScienceWorldEnvironment, heap_mb=10**9), workers=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_in_sixty_episodes_lose_nothing():
    sixty = tasks(60)

    async def all_episodes(pool, killed):
        gate = asyncio.Semaphore(8)

        async def one(number, task):
            async with gate:
                kill = (
                    partial(shoot, pool, signal.SIGKILL) if number in killed else None
                )
                return await play(pool, task, kill, number % len(SOLUTION))

        return await asyncio.gather(*(one(n, t) for n, t in enumerate(sixty)))

    with EnvironmentPool(MAKE, workers=2, max_attempts=10) as pool:
        expected = asyncio.run(all_episodes(pool, ()))
        assert pool.counters.restarts == 0
        disturbed = asyncio.run(all_episodes(pool, set(range(0, 60, 3))))
        assert disturbed == expected
        assert pool.counters.restarts >= 20
