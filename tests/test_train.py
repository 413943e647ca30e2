"""The whole program on the shipped smoke configuration: runs, resumes, refuses."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from programs import (
    ROOT,
    command,
    deterministic,
    get_config,
    save_random_policy,
    start,
    written,
)
from report_checks import reported

from reskill_jax import build
from reskill_jax.policy.weights import load
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.show import show
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir

# Not importorskip: importing alfworld sets ALFWORLD_DATA for the whole test process.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def finished(policy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "straight"
    done = start(*command(workdir, policy))
    assert done.returncode == 0, done.stderr
    return workdir, done.stdout


# Evaluations between the steps, and steps without a checkpoint: both wait for batches.
OVERLAP = (
    "--config.rollout.overlap=1",
    "--config.eval.every=3",
    "--config.checkpoint.every=2",
)


@pytest.fixture(scope="module")
def overlapped(policy, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "overlapped"
    done = start(*command(workdir, policy, *OVERLAP))
    assert done.returncode == 0, done.stderr
    return workdir


def outcome(workdir):
    """What must not depend on interruptions."""
    return deterministic(workdir), *written(workdir)


def parameters(workdir):
    """The bytes of the last checkpoint's arrays, read by the run's own reader."""
    from reskill_jax.checkpoint import Checkpointer
    from reskill_jax.grpo.optimizer import init_state

    config = get_config().copy_and_resolve_references()
    config.update(Workdir(workdir).read_config())
    decoder, params = load(config.policy.path)
    tx, _ = build.make_grpo(config, decoder)
    checkpointer = Checkpointer(Workdir(workdir).checkpoints, read_only=True)
    restored = checkpointer.restore(init_state(params, tx))
    checkpointer.close()
    return restored.step, [np.asarray(x) for x in jax.tree.leaves(restored.arrays)]


def test_a_run_trains_evaluates_tries_skills_and_can_be_shown(finished):
    workdir, output = finished
    found = reported(workdir)
    assert found["trials"]["list"]
    assert found["library"]["changes"]
    lines = read_metrics(Workdir(workdir).metrics)
    assert [x["step"] for x in lines if x["phase"] == "train"] == [1, 2, 3, 4, 5, 6]
    assert [x["step"] for x in lines if x["phase"] == "eval"] == [0, 6]
    assert (
        max(x["rollout/logprob_diff_max"] for x in lines if "train" in x["phase"])
        < 1e-4
    )
    assert "on trial" in output
    trials = [
        json.loads(x) for x in (workdir / "trials.jsonl").read_text().splitlines()
    ]
    assert trials
    text = show(Workdir(workdir))
    assert "step 6 of 6" in text
    assert f"Trials decided: {len(trials)}" in text
    assert f"{trials[0]['contrast']['effect']:+.1%} ±" in text
    assert "An episode of step 6" in text


def test_the_same_command_again_changes_nothing(finished, policy):
    workdir, _ = finished
    before = outcome(workdir)
    again = start(*command(workdir, policy))
    assert again.returncode == 0, again.stderr
    assert outcome(workdir) == before


@pytest.mark.slow  # of runs that are killed, test_best_checkpoint has quick ones
@pytest.mark.parametrize("kill_after", [1, 3, 5])
def test_kill_9_and_resume_ends_like_an_uninterrupted_run(
    finished, policy, tmp_path, kill_after
):
    """Killed as soon as a step is logged: within its checkpoint write or just after."""
    kill_and_resume(finished[0], command(tmp_path / "killed", policy), kill_after)


@pytest.mark.slow
@pytest.mark.parametrize("kill_after", [2, 3, 4])
def test_kill_9_and_resume_with_a_batch_ahead(overlapped, policy, tmp_path, kill_after):
    """Killed while the next batch is collected, evaluated before, or stored."""
    again = command(tmp_path / "killed", policy, *OVERLAP)
    kill_and_resume(overlapped, again, kill_after)


def kill_and_resume(wanted, again, kill_after):
    """Kill a run after a step, resume it, and compare it with one that was not."""
    (flag,) = (argument for argument in again if argument.startswith("--workdir="))
    workdir = Path(flag.removeprefix("--workdir="))
    process = subprocess.Popen(
        again,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    played = Workdir(workdir).episodes / f"train-{kill_after:05d}.jsonl"
    deadline = time.monotonic() + 300
    while not played.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05 * kill_after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert reported(workdir, whole=False)["run"]["state"] == "stopped"
    resumed = start(*again)
    assert resumed.returncode == 0, resumed.stderr
    assert outcome(workdir) == outcome(wanted)
    assert reported(workdir)["library"] == reported(wanted)["library"]
    step, arrays = parameters(workdir)
    wanted_step, wanted_arrays = parameters(wanted)
    assert step == wanted_step == 6
    for one, other in zip(arrays, wanted_arrays, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "steps"), [("grpo", 1), ("reskill", 0)])
def test_runs_without_trials_or_steps_have_a_report(policy, tmp_path, strategy, steps):
    """Zero steps: the run was killed at its first one."""
    workdir = Workdir(tmp_path / "run")
    changes = f"--config.strategy.name={strategy}", "--config.num_steps=1"
    again = command(workdir.root, policy, *changes)
    if steps:
        done = start(*again)
        assert done.returncode == 0, done.stderr
    else:
        process = subprocess.Popen(
            again, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while not list(workdir.episodes.glob("eval-*")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    found = reported(workdir.root, whole=bool(steps))
    assert found["run"]["state"] == ("finished" if steps else "stopped")
    assert (found["run"]["step"], found["trials"]["list"]) == (steps, [])
    assert found["evals"][0]["step"] == 0
    assert found["library"]["spans"] == []
    assert workdir.first_bank.exists() == (strategy == "reskill")


@pytest.mark.slow
def test_with_overlap_batches_are_one_update_old_and_evaluations_are_not(
    policy, tmp_path, monkeypatch
):
    from reskill_jax import run, train

    versions = {"train": {}, "eval": {}}

    def note(kind, step, episodes):
        found = {turn.version for episode in episodes for turn in episode.turns}
        versions[kind][step] = found

    class Batches(run.Batches):
        def take(self, step, params, version):
            batch = super().take(step, params, version)
            note("train", step, batch.episodes)
            return batch

    class Logbook(train.Logbook):
        def evaluation(self, step, metrics, episodes, panels, sampled=()):
            note("eval", step, episodes)
            super().evaluation(step, metrics, episodes, panels, sampled)

    monkeypatch.setattr(run, "Batches", Batches)
    monkeypatch.setattr(train, "Logbook", Logbook)
    config = get_config()
    config.policy.path = str(policy)
    config.num_steps = 4
    config.rollout.overlap = 1
    config.eval.every = 2
    config.grpo.old_logprobs = "recompute"
    config.grpo.importance_cap = 2.0
    validate(config)
    train.train(config, Workdir(tmp_path))
    assert versions["train"] == {1: {0}, 2: {0}, 3: {1}, 4: {2}}
    assert versions["eval"] == {0: {0}, 2: {2}, 4: {4}}
    lines = read_metrics(Workdir(tmp_path).metrics)
    lines = [line for line in lines if line["phase"] == "train"]
    assert [line["rollout/staleness"] for line in lines] == [0, 1, 1, 1]
    # What the policy learnt since is what importance weights correct.
    off = [abs(line["grpo/importance"] - 1) for line in lines]
    assert off[0] < 1e-4
    assert min(off[1:]) > 1e-4


@pytest.mark.slow
def test_a_random_policy_trains_without_any_files(tmp_path):
    """A step from weights that are made in the cache, by the shipped program."""
    command = [
        sys.executable, "-m", "reskill_jax.main", "--config=configs/alfworld.py:smoke",
        "--config.policy.path=random:tiny", "--config.num_steps=1",
        "--config.env.houses_train=2", "--config.env.houses_eval=1",
        "--config.eval.max_tasks=1",
    ]  # fmt: skip
    environment = os.environ | {"RESKILL_CACHE": str(tmp_path / "cache")}
    done = start(*command, f"--workdir={tmp_path / 'run'}", env=environment)
    assert done.returncode == 0, done.stderr
    lines = read_metrics(Workdir(tmp_path / "run").metrics)
    assert [line["step"] for line in lines if line["phase"] == "train"] == [1]
    (made,) = (tmp_path / "cache" / "random_policy").iterdir()
    assert (made / "model.safetensors").is_file()


def test_evaluate_mode_repeats_the_last_evaluation(finished, policy):
    workdir, _ = finished
    done = start(
        sys.executable, "-m", "reskill_jax.main", "--mode=evaluate",
        f"--workdir={workdir}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    last = read_metrics(Workdir(workdir).metrics)[-1]
    assert f"valid_unseen {last['valid_unseen/success']:.1%}" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--config.grpo.group_sise=3", "group_sise"),
        ("--config.env.root=/nowhere", "/nowhere/json_2.1.1: set either, env.root"),
        ("--config.seed=7", "config.seed: 42 there, 7 now"),
    ],
)
def test_bad_input_ends_the_program_before_any_work(
    finished, policy, change, message, tmp_path
):
    own = tmp_path / "new"
    workdir = finished[0] if "seed" in change else own
    done = start(*command(workdir, policy, change))
    assert done.returncode != 0
    assert message in done.stderr
    assert not (own / "metrics.jsonl").exists()


def test_games_without_a_folder_are_asked_for(policy, tmp_path):
    done = start(
        *command(tmp_path / "w", policy, "--config.env.houses="),
        env={k: v for k, v in os.environ.items() if k != "ALFWORLD_DATA"},
    )
    assert done.returncode != 0
    assert "ALFWORLD_DATA" in done.stderr


@pytest.mark.slow
def test_a_staged_run_that_is_made_longer_changes_over_where_it_did(policy, tmp_path):
    flags = ("--config.strategy.name=policy_first", "--config.eval.splits=()")
    for steps in (2, 4):  # half of the first start's steps train the policy
        done = start(
            *command(tmp_path / "run", policy, *flags, f"--config.num_steps={steps}")
        )
        assert done.returncode == 0, done.stderr
    lines = read_metrics(Workdir(tmp_path / "run").metrics)
    trained = ["grpo/loss" in x for x in lines if x["phase"] == "train"]
    assert trained == [True, False, False, False]


@pytest.mark.slow
def test_lives_cut_short_at_random_moments_end_like_one_run(tmp_path):
    """SIGKILL and SIGTERM; `tests/run_crash.py` takes any number."""
    done = start(sys.executable, "tests/run_crash.py", str(tmp_path / "runs"), "6")
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["kills"] == sum(report["signals"].values()) == 6
    assert report["different"] == {}
