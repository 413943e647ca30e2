"""The worker pool with real processes: crashes, hangs, errors, exits."""

import asyncio
import ctypes
import dataclasses
import faulthandler
import functools
import json
import os
import random
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest

from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Observation, Task
from reskill_jax.environments.worker import (
    EnvironmentRaisedError,
    ReplayError,
    WorkerLostError,
    WorkerStartError,
)

TASK = Task("world-0", "count", "train", "seed 0")
PATIENCE = 60.0  # seconds until a test gives up on something that must happen


class ChainWorld:
    """Its observation is a digest of the whole history, so a lost step shows.

    Some actions misbehave first; with `once <action> <file>` only if the file is not
    there yet.
    """

    made = 0

    def __init__(self):
        type(self).made += 1
        self.number = self.made

    def reset(self, task):
        if task.source == "broken":
            raise ValueError("no such game")
        self.state, self.source = task.id, task.source
        return f"goal of {task.id}", self._observe(0.0)

    def step(self, action):
        word, *rest = action.split(" ")
        if word == "once" and not Path(rest[1]).exists():
            Path(rest[1]).touch()
            word = rest[0]
        if word in ("kill", "hang", "segfault", "exit", "raise", "shout"):
            getattr(self, word)()
        self.state = sha256(f"{self.state}|{action}".encode()).hexdigest()
        if word == "pid":
            return Observation(str(os.getpid()), ())
        if word == "number":
            return Observation(str(self.number), ())
        if word == "modules":
            return Observation("jax" if "jax" in sys.modules else "no jax", ())
        return self._observe(1.0)

    def finish(self):
        if not self.state:
            raise RuntimeError("finished twice")
        if self.source == "no end":
            raise LookupError("no score")
        if self.source.startswith("once") and not Path(self.source[5:]).exists():
            Path(self.source[5:]).touch()
            self.kill()
        score = int(self.state[:4], 16) / 16**4
        self.state = ""
        return Observation("", reward=score, done=True, scores={"score": score})

    def close(self):
        pass

    def kill(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def hang(self):
        time.sleep(10_000)

    def segfault(self):
        faulthandler._sigsegv()  # type: ignore[attr-defined]

    def exit(self):
        sys.exit("broken domain")

    def raise_(self):
        raise LookupError("not here")

    def shout(self):
        print("noise " * 1000, flush=True)
        os.write(1, b"noise below Python\n" * 1000)
        ctypes.CDLL(None).puts(b"noise from C")

    def _observe(self, reward):
        state = self.state[:8]
        return Observation(
            state,
            (f"go {state[0]}", "look"),
            reward=reward,
            done=state[0] == "f",
            success=state[1] == "f",
        )


setattr(ChainWorld, "raise", ChainWorld.raise_)


def missing_package():
    raise ModuleNotFoundError("No module named 'alfworld'")


def deadly_factory():
    os.kill(os.getpid(), signal.SIGKILL)


def running(pid):
    """Whether a process runs (a zombie that nobody reaps does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not stat.parent.parent.exists()


def wait_until_gone(pids):
    deadline = time.monotonic() + PATIENCE
    while left := [pid for pid in pids if running(pid)]:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.02)


def undisturbed(task, actions):
    """What an episode must look like, played here."""
    world = ChainWorld()
    return [world.reset(task), *(world.step(action) for action in actions)]


async def play(pool, task, actions, group="g"):
    with pool.open(group) as environment:
        seen = [await environment.reset(task)]
        for action in actions:
            seen.append(await environment.step(action))
    return seen


@pytest.fixture(scope="module")
def pool():
    with EnvironmentPool(ChainWorld, workers=2) as pool:
        yield pool


@pytest.fixture
def single():
    """One worker, impatient."""
    with EnvironmentPool(ChainWorld, workers=1, timeout_s=2.0, max_attempts=2) as pool:
        yield pool


def test_plays_like_the_environment_itself(pool):
    actions = ["look", "go north", "look"]
    before = pool.counters
    assert asyncio.run(play(pool, TASK, actions)) == undisturbed(TASK, actions)
    after = pool.counters
    assert (after.resets - before.resets, after.steps - before.steps) == (1, 3)
    assert after.cpu_seconds > before.cpu_seconds > 0
    assert after.restarts == after.timeouts == after.replayed_episodes == 0


def test_an_episode_may_outlive_an_event_loop(pool):
    environment = pool.open("long")
    first = asyncio.run(environment.reset(TASK))
    second = asyncio.run(environment.step("look"))
    assert [first, second] == undisturbed(TASK, ["look"])
    environment.close()
    with pytest.raises(RuntimeError, match="closed"):
        asyncio.run(environment.step("look"))


def test_a_group_has_one_worker_and_groups_are_spread(pool):
    async def main():
        environments = [pool.open(f"group {i // 3}") for i in range(12)]
        await asyncio.gather(*(each.reset(TASK) for each in environments))
        seen = await asyncio.gather(*(each.step("pid") for each in environments))
        for each in environments:
            each.close()
        return [each.text for each in seen]

    pids = asyncio.run(main())
    groups = [set(pids[i : i + 3]) for i in range(0, 12, 3)]
    assert all(len(group) == 1 for group in groups)
    assert sorted(pids.count(pid) for pid in set(pids)) == [6, 6]


def test_environments_are_reused(single):
    async def main():
        numbers = []
        for _ in range(3):
            tasks = [play(single, TASK, ["number"]) for _ in range(4)]
            seen = await asyncio.gather(*tasks)
            numbers.append(sorted(episode[-1].text for episode in seen))
        return numbers

    assert asyncio.run(main()) == [["1", "2", "3", "4"]] * 3


def test_workers_do_not_import_jax_and_their_output_goes_nowhere(capfd):
    import jax  # the parent has it

    assert jax.__name__ in sys.modules
    with EnvironmentPool(ChainWorld, workers=1) as pool:
        seen = asyncio.run(play(pool, TASK, ["modules", "shout", "look"]))
    assert seen[1].text == "no jax"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("fault", ["kill", "segfault", "hang"])
def test_a_lost_worker_comes_back_with_its_episodes(single, tmp_path, fault):
    bad = ["look", f"once {fault} {tmp_path / 'flag'}", "look"]
    good = ["go east", "look", "go west", "look"]

    async def main():
        bystander = single.open("bystander")
        seen = [await bystander.reset(TASK)]
        seen += [await bystander.step(action) for action in good[:2]]
        victim = await play(single, TASK, bad)
        seen += [await bystander.step(action) for action in good[2:]]
        bystander.close()
        return victim, seen

    victim, bystander = asyncio.run(main())
    assert victim == undisturbed(TASK, bad)
    assert bystander == undisturbed(TASK, good)
    counters = single.counters
    assert (counters.restarts, counters.timeouts) == (1, int(fault == "hang"))
    assert (counters.replayed_episodes, counters.replayed_steps) == (2, 1 + 2)
    assert (counters.resets, counters.steps) == (2, len(bad) + len(good))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("kill", "signal 9"),
        ("segfault", "Segmentation fault"),
        ("hang", "did not reply within 2 s"),
    ],
)
def test_a_deadly_request_is_given_up_with_its_story(single, fault, words):
    async def main():
        with single.open("g") as environment:
            await environment.reset(TASK)
            await environment.step("look")
            with pytest.raises(WorkerLostError, match=words) as caught:
                await environment.step(fault)
            return str(caught.value), await environment.step("go on")

    message, after = asyncio.run(main())
    assert f"'{fault}' of task world-0 after actions ['look']" in message
    assert message.count("attempt") == 2
    assert after == undisturbed(TASK, ["look", "go on"])[-1]


def test_an_exception_of_the_environment_reaches_the_caller(pool):
    restarts, pids = pool.counters.restarts, pool.pids

    async def main():
        with pool.open("g") as environment:
            with pytest.raises(EnvironmentRaisedError, match="source broken") as caught:
                await environment.reset(Task("t", "count", "train", "broken"))
            assert caught.value.kind == "ValueError"
            assert caught.value.message == "no such game"
            assert "test_pool.py" in caught.value.traceback
            await environment.reset(TASK)
            with pytest.raises(EnvironmentRaisedError, match="LookupError: not here"):
                await environment.step("raise")
            with pytest.raises(RuntimeError, match="reset first"):
                await environment.step("look")
            await environment.reset(TASK)
            with pytest.raises(EnvironmentRaisedError, match="SystemExit: broken dom"):
                await environment.step("exit")
        return await play(pool, TASK, ["look"])

    assert asyncio.run(main()) == undisturbed(TASK, ["look"])
    assert (pool.counters.restarts, pool.pids) == (restarts, pids)


def test_a_replay_that_differs_is_an_error(single):
    async def main():
        with single.open("g") as environment:
            await environment.reset(TASK)
            await environment.step("pid")
            os.kill(single.pids[0], signal.SIGKILL)
            with pytest.raises(ReplayError, match=r"world-0.*\['pid'\]"):
                await environment.step("look")
            return await environment.reset(TASK)

    assert asyncio.run(main()) == undisturbed(TASK, [])[0]


@pytest.mark.parametrize("moment", ["before", "in"])
def test_a_worker_lost_at_the_end_is_replayed_and_scored_once(single, tmp_path, moment):
    source = f"once {tmp_path / 'flag'}" if moment == "in" else ""
    task = dataclasses.replace(TASK, source=source)
    world = ChainWorld()
    world.reset(TASK)
    for action in ("look", "go"):
        world.step(action)
    expected = world.finish()

    async def main():
        with single.open("g") as environment:
            await environment.reset(task)
            await environment.step("look")
            await environment.step("go")
            if moment == "before":
                os.kill(single.pids[0], signal.SIGKILL)
            seen = await environment.finish()
            for call in (environment.finish, functools.partial(environment.step, "a")):
                with pytest.raises(RuntimeError, match="without a task: reset first"):
                    await call()
            return seen, await environment.reset(TASK)

    seen, again = asyncio.run(main())
    assert seen == expected
    assert seen.scores == {"score": seen.reward}
    assert again == undisturbed(TASK, [])[0]
    counters = single.counters
    assert (counters.restarts, counters.replayed_episodes) == (1, 1)
    assert (counters.replayed_steps, counters.resets, counters.steps) == (2, 2, 2)


def test_an_end_that_fails_names_its_episode(pool):
    async def main():
        with pool.open("g") as environment:
            with pytest.raises(RuntimeError, match="finish without a task"):
                await environment.finish()
            await environment.reset(dataclasses.replace(TASK, source="no end"))
            await environment.step("look")
            with pytest.raises(EnvironmentRaisedError) as caught:
                await environment.finish()
        return str(caught.value), await play(pool, TASK, ["look"])

    message, after = asyncio.run(main())
    told = "finish of task world-0 after actions ['look'] raised LookupError: no score"
    assert message.startswith(told)
    assert after == undisturbed(TASK, ["look"])


def test_a_stopped_worker_counts_as_hanging(single):
    async def main():
        with single.open("g") as environment:
            await environment.reset(TASK)
            os.kill(single.pids[0], signal.SIGSTOP)
            return await environment.step("look")

    assert asyncio.run(main()) == undisturbed(TASK, ["look"])[-1]
    assert single.counters.timeouts == 1


def test_a_cancelled_episode_leaves_the_pool_in_order(single):
    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(play(single, TASK, ["hang"]), 0.3)
        return await play(single, TASK, ["look"])

    assert asyncio.run(main()) == undisturbed(TASK, ["look"])


@pytest.mark.parametrize("seed", range(3))
def test_kills_at_random_moments_change_no_result(seed):
    draw = random.Random(seed)
    episodes = [
        (Task(f"world-{i // 4}", "count", "train", ""), [str(draw.random())] * 15)
        for i in range(24)
    ]
    moments = set(draw.sample(range(len(episodes) * 15), 5))
    done = 0
    kills = 0

    async def episode(pool, task, actions):
        nonlocal done, kills
        await asyncio.sleep(0)
        with pool.open(task.id) as environment:
            seen = [await environment.reset(task)]
            for action in actions:
                seen.append(await environment.step(action))
                done += 1
                if done in moments and pool.pids:
                    os.kill(draw.choice(pool.pids), signal.SIGKILL)
                    kills += 1
        return seen

    async def main(pool):
        return await asyncio.gather(*(episode(pool, *each) for each in episodes))

    with EnvironmentPool(ChainWorld, workers=2, max_attempts=6) as pool:
        seen = asyncio.run(main(pool))
        counters = pool.counters
    assert seen == [undisturbed(task, actions) for task, actions in episodes]
    assert 1 <= counters.restarts <= kills
    assert counters.replayed_steps > 0
    assert (counters.resets, counters.steps) == (24, 24 * 15)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (missing_package, "ModuleNotFoundError: No module named 'alfworld'"),
        (functools.partial(ChainWorld, "a word"), "TypeError"),  # type: ignore[call-arg]
        (deadly_factory, "signal 9"),
    ],
)
def test_a_factory_that_fails_is_told_at_once(factory, words):
    with pytest.raises(WorkerStartError, match=words):
        EnvironmentPool(factory, workers=2)


@pytest.mark.parametrize(
    "wrong",
    [{"workers": 0}, {"max_attempts": 0}, {"timeout_s": 0.0}, {"start_timeout_s": -1}],
)
def test_bad_settings_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EnvironmentPool(ChainWorld, **{"workers": 1, **wrong})


def test_close_leaves_no_process_and_refuses_further_requests():
    pool = EnvironmentPool(ChainWorld, workers=2)
    environment = pool.open("g")
    asyncio.run(environment.reset(TASK))
    pids = pool.pids
    pool.close()
    pool.close()
    for pid in pids:  # gone, and no zombie either
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert pool.pids == ()


SCRIPT = """
import asyncio, os, signal, sys
print("main imported", flush=True)
sys.path.insert(0, {tests!r})
from test_pool import TASK, ChainWorld
from reskill_jax.environments.pool import EnvironmentPool

async def begin(pool, *actions):
    environment = pool.open(actions)
    await environment.reset(TASK)
    for action in actions:
        await environment.step(action)
    return environment

async def main(pool):
    idle = await begin(pool, "look")
    hanging = asyncio.create_task(begin(pool, "once hang {flag}"))
    while not os.path.exists({flag!r}):
        await asyncio.sleep(0.02)
    print(*pool.pids, flush=True)
    await asyncio.wait_for(hanging, {seconds})

# Programs started in the background of a script inherit that Ctrl-C is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
pool = EnvironmentPool(ChainWorld, workers=2, timeout_s=1000.0)
{body}
"""


def start_script(tmp_path, body, seconds=1000):
    """A program with two workers, one idle and one that hangs; its workers' pids."""
    script = SCRIPT.format(
        body=body,
        seconds=seconds,
        flag=str(tmp_path / "hangs"),
        tests=str(Path(__file__).parent),
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    # Once: the workers do not run the main program again.
    assert process.stdout.readline() == "main imported\n"
    return process, [int(word) for word in process.stdout.readline().split()]


def test_workers_end_when_their_parent_is_killed(tmp_path):
    process, pids = start_script(tmp_path, "asyncio.run(main(pool))")
    with process:
        assert len(pids) == 2
        assert all(map(running, pids))
        process.kill()
        wait_until_gone(pids)


def test_an_exit_without_close_does_not_wait_for_a_hanging_worker(tmp_path):
    body = "try:\n    asyncio.run(main(pool))\nexcept TimeoutError:\n    pass"
    process, pids = start_script(tmp_path, body, seconds=0.5)
    with process:
        assert process.wait(PATIENCE) == 0
    wait_until_gone(pids)


def test_ctrl_c_reaches_the_parent_only(tmp_path):
    body = """
pids = pool.pids
try:
    asyncio.run(main(pool))
except KeyboardInterrupt:
    assert pool.pids == pids
    os.kill(pids[0], 2)  # ignored
    print("interrupted", asyncio.run(begin(pool, "look")) is not None, flush=True)
    print(pool.counters.restarts, flush=True)
"""
    process, pids = start_script(tmp_path, body)
    with process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read() == "interrupted True\n0\n"
        assert process.wait(PATIENCE) == 0
    wait_until_gone(pids)


def test_what_an_environment_starts_ends_with_its_worker(tmp_path):
    with EnvironmentPool(Spawner, workers=1) as pool:
        seen = asyncio.run(play(pool, TASK, []))
        child = int(seen[0][0])
        assert running(child)
        os.kill(pool.pids[0], signal.SIGKILL)
        again = asyncio.run(play(pool, TASK, []))
        wait_until_gone([child])
    wait_until_gone([int(again[0][0])])


class Spawner(ChainWorld):
    """Starts a process, as a simulator in Java would."""

    def reset(self, task):
        process = subprocess.Popen(["sleep", "1000"])
        return str(process.pid), Observation("", ())


def test_alfworld_houses_survive_kills(tmp_path):
    pytest.importorskip("alfworld")
    from reskill_jax.environments.alfworld.environment import (
        AlfworldEnvironment,
        find_games,
    )
    from reskill_jax.environments.alfworld.games import generate
    from reskill_jax.environments.alfworld.house_settings import PRESETS

    recipe = dataclasses.replace(PRESETS["small"], train=2, valid_seen=0)
    generate(tmp_path, dataclasses.replace(recipe, valid_unseen=0))
    games = [
        (task, json.loads(Path(task.source).read_text())["walkthrough"])
        for task in find_games(str(tmp_path), "train")
    ]
    world = AlfworldEnvironment()
    expected = []
    for task, walk in games:
        start = world.reset(task)
        steps = [world.step(action) for action in ["dance", *walk]]
        assert steps[-1].success
        expected.append([start, *steps])
    world.close()

    async def episode(pool, task, walk):
        with pool.open(task.id) as environment:
            seen = [await environment.reset(task)]
            for i, action in enumerate(["dance", *walk]):
                seen.append(await environment.step(action))
                if i == 1 and task is games[0][0]:
                    os.kill(pool.pids[0], signal.SIGKILL)
        return seen

    async def main(pool):
        return await asyncio.gather(*(episode(pool, *game) for game in games * 2))

    with EnvironmentPool(AlfworldEnvironment, workers=2, max_attempts=4) as pool:
        assert asyncio.run(main(pool)) == expected * 2
        assert pool.counters.restarts >= 1
        assert pool.counters.replayed_episodes >= 1
