"""SIGTERM keeps the last finished step; the same command goes on from it."""

import asyncio
import importlib.util
import json
import signal
import subprocess
import time

import pytest
from programs import (
    ROOT,
    command,
    deterministic,
    run_two,
    save_random_policy,
    start,
    start_two,
    written,
)

from reskill_jax import distributed
from reskill_jax.termination import EXIT_CODE, TerminatedError, Termination
from reskill_jax.workdir import Workdir

needs_games = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
# Without SIGTERM only the last step would be saved.
RARELY = ("--config.checkpoint.every=100", "--config.eval.every=2")


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def straight(policy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    done = start(*command(workdir, policy, *RARELY))
    assert done.returncode == 0, done.stderr
    return workdir


def wait_for_step(workdir, step, processes):
    """Wait until a step's metrics are written."""
    path = Workdir(workdir).metrics
    while True:
        lines = path.read_text().splitlines() if path.exists() else []
        steps = [
            line["step"] for line in map(json.loads, lines) if line["phase"] == "train"
        ]
        if steps and max(steps) >= step:
            return
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def checkpoints(workdir):
    return sorted(int(path.name) for path in Workdir(workdir).checkpoints.iterdir())


@needs_games
@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 1])
def test_a_run_saves_its_last_step_and_ends_the_same_when_resumed(
    policy, straight, tmp_path, overlap
):
    flags = (*RARELY, f"--config.rollout.overlap={overlap}")
    if overlap:
        straight = tmp_path / "straight"
        assert start(*command(straight, policy, *flags)).returncode == 0
    workdir = tmp_path / "run"
    for step in (1, 3):
        process = subprocess.Popen(
            command(workdir, policy, *flags),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_for_step(workdir, step, [process])
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate()
        assert process.returncode == EXIT_CODE, said
        assert "the same command resumes" in said
        assert "Traceback" not in said
        assert checkpoints(workdir)[-1] >= step
    assert start(*command(workdir, policy, *flags)).returncode == 0
    assert deterministic(workdir) == deterministic(straight)
    assert written(workdir) == written(straight)


@needs_games
@pytest.mark.slow
def test_all_processes_end_when_one_is_told_to(policy, tmp_path):
    flags = (*RARELY, "--config.num_steps=16")  # more than go by until it is told
    workdir, straight = tmp_path / "run", tmp_path / "straight"
    run_two(straight, policy, tmp_path, *flags)
    processes = start_two(workdir, policy, tmp_path, (flags, flags))
    wait_for_step(workdir, 1, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert [process.wait() for process in processes] == [EXIT_CODE, EXIT_CODE]
    assert 1 <= checkpoints(workdir)[-1] < 16
    run_two(workdir, policy, tmp_path, *flags)
    assert deterministic(workdir) == deterministic(straight)
    assert written(workdir) == written(straight)


def interrupted(termination, *, allowed=True):
    """Send SIGTERM where it may, or may not, interrupt; tell whether it did."""
    try:
        with termination.interrupts(allowed):
            signal.raise_signal(signal.SIGTERM)
    except TerminatedError:
        return True
    return False


def test_it_interrupts_only_where_it_may():
    with Termination() as termination:
        termination.check()
        assert not interrupted(termination, allowed=False)  # e.g. an update
        with pytest.raises(TerminatedError):
            termination.check()
        with pytest.raises(TerminatedError), termination.interrupts():
            pytest.fail("what was asked for before is not forgotten")
    with Termination() as termination:
        assert interrupted(termination)


def test_it_interrupts_what_waits_for_an_event_loop():
    """Raised in a callback it would be logged there, and the wait would go on."""

    async def wait():
        asyncio.get_running_loop().call_soon(signal.raise_signal, signal.SIGTERM)
        await asyncio.sleep(5)

    with Termination() as termination:
        with pytest.raises(TerminatedError), termination.interrupts():
            asyncio.run(wait())
        with pytest.raises(TerminatedError):
            termination.check()


def test_a_signal_during_the_exchange_is_not_forgotten(monkeypatch):
    def gather(asked):
        signal.raise_signal(signal.SIGTERM)
        return [asked, False]

    with Termination() as termination:
        with monkeypatch.context() as patch:
            patch.setattr(distributed, "gather", gather)
            termination.check()  # nobody had been asked when it began
        with pytest.raises(TerminatedError):
            termination.check()


def test_afterwards_sigterm_is_what_it_was():
    before = signal.getsignal(signal.SIGTERM)
    with Termination():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
