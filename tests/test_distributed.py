"""Two processes are one run: the same as in one process, and through kill -9."""

import importlib.util
import os
import re
import signal
import sys
import time

import pytest
from corridor_runs import corridor_command, last_checkpoint
from programs import (
    CPU,
    HELPERS,
    TWO_DEVICES,
    command,
    deterministic,
    run_two,
    save_random_policy,
    start,
    start_two,
    written,
)

from reskill_jax import distributed
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

needs_alfworld = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
VLLM = "--config.engine.vllm"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def two(policy, tmp_path_factory):
    directory = tmp_path_factory.mktemp("two")
    run_two(directory / "run", policy, directory)
    return directory / "run"


@needs_alfworld
@pytest.mark.slow
def test_two_processes_do_what_one_process_does(two, policy, tmp_path):
    done = start(
        *command(tmp_path / "one", policy, "--config.mesh.fsdp=2"),
        env=os.environ | TWO_DEVICES,
    )
    assert done.returncode == 0, done.stderr
    assert written(two) == written(tmp_path / "one")
    assert read_metrics(Workdir(two).metrics)[-2]["trial/num_decided"] > 0
    for line, wanted in zip(
        deterministic(two), deterministic(tmp_path / "one"), strict=True
    ):
        # Devices add in another order, so sums of floats differ in the last digits.
        for key in ("phase", "panels"):
            assert line.pop(key, None) == wanted.pop(key, None)
        assert line == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def wait_for(workdir, step, processes):
    """Wait until a step has been logged by running processes."""
    deadline = time.monotonic() + 300
    while not (Workdir(workdir).episodes / f"train-{step:05d}.jsonl").exists():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


@needs_alfworld
@pytest.mark.slow
def test_a_killed_process_ends_the_other_and_both_resume(two, policy, tmp_path):
    workdir = tmp_path / "killed"
    processes = start_two(workdir, policy, tmp_path)
    wait_for(workdir, 3, processes)
    os.kill(processes[1].pid, signal.SIGKILL)
    processes[1].wait()
    assert processes[0].wait(timeout=240) != 0
    run_two(workdir, policy, tmp_path)
    assert deterministic(workdir) == deterministic(two)
    assert written(workdir) == written(two)


ALL_LIBERTIES = corridor_command("again+pauses+frozen+parts")


@pytest.fixture(scope="module")
def two_plans(policy, tmp_path_factory):
    """Chosen tasks, none, no training, parts of groups: in a world of our own."""
    directory = tmp_path_factory.mktemp("plans")
    run_two(directory / "run", policy, directory, command=ALL_LIBERTIES)
    return directory / "run"


@pytest.mark.slow
def test_two_processes_plan_as_one_does(two_plans, policy, tmp_path):
    done = start(
        *ALL_LIBERTIES(tmp_path / "one", policy, "--config.mesh.fsdp=2"),
        env=os.environ | TWO_DEVICES | HELPERS,
    )
    assert done.returncode == 0, done.stderr
    assert written(two_plans) == written(tmp_path / "one")
    _, episodes, _ = written(two_plans)
    assert episodes["train-00002.jsonl"] == episodes["train-00005.jsonl"] == ""
    assert episodes["train-00006.jsonl"].count("\n") == 6
    host, wanted = (
        last_checkpoint(place, policy)[2] for place in (two_plans, tmp_path / "one")
    )
    assert host == wanted
    for line, other in zip(
        deterministic(two_plans), deterministic(tmp_path / "one"), strict=True
    ):
        for key in ("phase", "panels"):
            assert line.pop(key, None) == other.pop(key, None)
        assert line == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [3, 4])
def test_two_processes_resume_whatever_was_planned(
    two_plans, policy, tmp_path, kill_after
):
    """Before a step that does not train, and before one that plays nothing."""
    workdir = tmp_path / "killed"
    processes = start_two(workdir, policy, tmp_path, command=ALL_LIBERTIES)
    wait_for(workdir, kill_after, processes)
    os.kill(processes[1].pid, signal.SIGKILL)
    processes[1].wait()
    assert processes[0].wait(timeout=240) != 0
    run_two(workdir, policy, tmp_path, command=ALL_LIBERTIES)
    assert deterministic(workdir) == deterministic(two_plans)
    assert written(workdir) == written(two_plans)
    assert last_checkpoint(workdir, policy) == last_checkpoint(two_plans, policy)


@needs_alfworld
def test_processes_with_different_configurations_are_refused(policy, tmp_path):
    changes = ((), ("--config.seed=1",))
    processes = start_two(tmp_path / "w", policy, tmp_path, changes)
    assert all(process.wait(timeout=240) != 0 for process in processes)
    for process in range(2):
        told = (tmp_path / f"{process}.err").read_text()
        assert "configuration of process [1] is not that of process 0" in told
    assert not (tmp_path / "w" / "metrics.jsonl").exists()


@needs_alfworld
@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        (
            ("--config.rollout.overlap=1",),
            ("config.rollout.overlap=1 works with one trainer process",),
        ),
        (
            (
                f"{VLLM}.urls=('http://localhost:1',)",
                f"{VLLM}.transfer=nccl",
                "--config.engine.name=vllm",
            ),
            (
                "config.engine.vllm.urls=('http://localhost:1',): each of 2 processes",
                "config.engine.vllm.transfer='nccl' works with one trainer process",
            ),
        ),
        (
            (
                f"{VLLM}.devices=('1',)",
                f"{VLLM}.executable={sys.executable}",
                "--config.engine.name=vllm",
            ),
            ("config.engine.vllm.devices=('1',): several trainer processes run on",),
        ),
    ],
    ids=["overlap", "servers", "devices"],
)
def test_what_works_in_one_process_only_is_refused(policy, tmp_path, changes, messages):
    processes = start_two(tmp_path / "w", policy, tmp_path, (changes, changes))
    assert all(process.wait(timeout=240) != 0 for process in processes)
    for process in range(2):
        told = (tmp_path / f"{process}.err").read_text()
        assert all(message in told for message in messages)


@needs_alfworld
def test_what_stops_the_leader_stops_all_with_its_reason(policy, tmp_path):
    workdir = Workdir(tmp_path / "w")
    with workdir.lock():
        processes = start_two(workdir.root, policy, tmp_path)
        assert all(process.wait(timeout=240) != 0 for process in processes)
    for process in range(2):
        told = (tmp_path / f"{process}.err").read_text()
        assert "the workdir is in use by process" in told


def test_a_process_without_a_cluster_says_what_to_give():
    with pytest.raises(ValueError, match="--process missing: give all three"):
        distributed.initialize("127.0.0.1:1", 2)
    done = start(*command("w", "p"), "--distributed", env=os.environ | CPU, timeout=300)
    assert done.returncode != 0
    assert re.search(r"error: cannot join .*--coordinator=HOST:PORT", done.stderr)


def test_a_single_process_does_everything_itself():
    assert distributed.is_alone()
    assert distributed.is_leader()
    assert list(distributed.share(3)) == [0, 1, 2]
    assert distributed.gather({"a": [1.5]}) == [{"a": [1.5]}]
    assert distributed.broadcast([1]) == [1]
    assert distributed.on_leader(lambda: 3) == 3
    distributed.agree("anything", {"a": 1})
    with pytest.raises(ZeroDivisionError):
        distributed.on_leader(lambda: 1 / 0)
