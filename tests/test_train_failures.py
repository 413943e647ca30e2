"""Runs in which some games cannot be played: dropped, counted, limited, resumed."""

import json
import re
from types import SimpleNamespace

import pytest
from corridor_runs import corridor_command, corridor_config, last_checkpoint
from killed_runs import KilledError, killed_at
from programs import (
    deterministic,
    run_two,
    save_random_policy,
    start_two,
    written,
)

from reskill_jax import train
from reskill_jax.evaluate import evaluate_run
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.show import show
from reskill_jax.rollout.prefetch import Batch
from reskill_jax.workdir import Workdir

BROKEN = 2  # of 12 tasks, of which 6 steps play 18
DROPPED = 3


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def config_of(policy, **changes):
    changes = {
        "env__broken": BROKEN,
        "env__max_attempts": 2,
        "env__max_failed_groups": 9,
        "eval__max_failed_share": 0.7,
        **changes,
    }
    return corridor_config(policy, "pauses", **changes)


def run(place, config):
    workdir = Workdir(place)
    workdir.bind(config.to_dict())
    train.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def straight(policy, tmp_path_factory):
    return run(tmp_path_factory.mktemp("straight"), config_of(policy)).root


def lines(place, name):
    text = (Workdir(place).episodes / f"{name}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def measured(place, phase):
    found = read_metrics(Workdir(place).metrics)
    return {line["step"]: line for line in found if line["phase"] == phase}


def test_groups_of_broken_games_are_dropped_whole_and_counted(straight, policy):
    metrics = measured(straight, "train")
    dropped = [metrics[step]["rollout/failed_groups"] for step in range(1, 7)]
    assert sum(dropped) > BROKEN - 1
    for step, count in enumerate(dropped, 1):
        played = lines(straight, f"train-{step:05d}")
        assert not {line["task"] for line in played} & {"train/0", "train/1"}
        groups = [line["group"] for line in played]
        planned = 0 if step % 3 == 2 else 3
        assert len(set(groups)) == planned - count
        assert all(groups.count(group) == 3 for group in groups)
        assert ("grpo/loss" in metrics[step]) == bool(played)
    _, _, host = last_checkpoint(straight, policy)
    assert host["failed_groups"] == sum(dropped)


def test_an_evaluation_counts_them_as_failures(straight):
    for step in (0, 3, 6):
        metrics = measured(straight, "eval")[step]
        played = lines(straight, f"eval-{step:05d}")
        assert [line["lost"] != "" for line in played] == [True, True, False]
        assert "reset of task held_out/0" in played[0]["lost"]
        assert metrics["held_out/failed_tasks"] == BROKEN
        won = sum(line["success"] for line in played)
        assert metrics["held_out/success"] == won / 3
        assert not played[0]["success"]
        assert "held_out/void" not in metrics


def test_dropped_groups_are_named(policy, tmp_path, capsys):
    run(tmp_path, config_of(policy, num_steps=3))
    told = capsys.readouterr().out
    assert re.search(
        r"step \d: a group is dropped: task train/\d failed for good: reset of task "
        r"train/\d .*ValueError: invalid literal",
        told,
    )
    assert "evaluation after 0 steps: task held_out/1 failed for good: reset" in told


@pytest.mark.parametrize("changes", [{"env__remote": True}, {"env__workers": 2}])
def test_it_does_not_matter_where_they_fail(
    straight, policy, tmp_path, monkeypatch, changes
):
    monkeypatch.setattr("reskill_jax.environments.remote.RemoteError.again_after_s", 0)
    run(tmp_path, config_of(policy, **changes))
    assert deterministic(tmp_path) == deterministic(straight)
    for one, other in zip(written(tmp_path), written(straight), strict=True):
        if changes == {"env__workers": 2}:
            assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 1])
def test_a_killed_run_ends_like_one_that_was_not(
    straight, policy, tmp_path, monkeypatch, overlap
):
    config = config_of(policy, rollout__overlap=overlap)
    wanted = tmp_path / "straight"
    run(wanted, config)
    for step in (2, 5):
        killed_at(step, monkeypatch)
        with pytest.raises(KilledError):
            run(tmp_path / "killed", config)
        monkeypatch.undo()
    run(tmp_path / "killed", config)
    assert deterministic(tmp_path / "killed") == deterministic(wanted)
    assert written(tmp_path / "killed") == written(wanted)
    killed, straight_on = (
        last_checkpoint(place, policy) for place in (tmp_path / "killed", wanted)
    )
    assert killed == straight_on
    assert killed[2]["failed_groups"] > 0


def test_too_many_failures_end_a_run_that_goes_on_with_a_higher_limit(
    straight, policy, tmp_path
):
    with pytest.raises(
        train.FailedGroupsError,
        match=r"config\.env\.max_failed_groups=1, but 2 groups have failed: mend .*: "
        r"reset of task train/",
    ):
        run(tmp_path, config_of(policy, env__max_failed_groups=1))
    run(tmp_path, config_of(policy))
    assert deterministic(tmp_path) == deterministic(straight)
    assert written(tmp_path) == written(straight)


def test_a_step_may_lose_all_its_groups(policy, tmp_path):
    config = config_of(
        policy, env__broken=12, num_steps=2, strategy__name="reskill",
        eval__max_failed_share=1.0,
    )  # fmt: skip
    run(tmp_path, config)
    metrics = measured(tmp_path, "train")
    assert metrics[1]["rollout/failed_groups"] == 3
    assert "rollout/success" not in metrics[1]
    assert "grpo/loss" not in metrics[1]
    assert measured(tmp_path, "eval")[2]["held_out/success"] == 0
    assert "Nothing was played at step 2" in show(Workdir(tmp_path))


def test_a_plan_may_play_nothing_for_as_long_as_it_likes():
    state = SimpleNamespace(failed_groups=0, barren_steps=0)
    for _ in range(5):
        train._count_failed(state, Batch([], (), 1.0), 10)
    assert (state.failed_groups, state.barren_steps) == (0, 0)


def test_a_run_in_which_nothing_can_be_played_ends(policy, tmp_path):
    config = config_of(
        policy, env__broken=12, num_steps=5, eval__max_failed_share=1.0,
        env__max_failed_groups=99,
    )  # fmt: skip
    with pytest.raises(
        train.FailedGroupsError,
        match="all groups of 3 steps in a row have failed: mend",
    ):
        run(tmp_path, config)
    assert len(measured(tmp_path, "train")) == 3  # at step 2 it plays nothing


def test_an_evaluation_with_too_many_failures_is_void(policy, tmp_path, capsys):
    config = config_of(policy, eval__max_failed_share=0.25, num_steps=1)
    workdir = run(tmp_path, config)  # which goes on
    for step in (0, 1):
        metrics = measured(tmp_path, "eval")[step]
        held_out = {key: metrics[key] for key in metrics if key.startswith("held_out")}
        assert held_out == {"held_out/failed_tasks": 2, "held_out/void": 1}
    void = "evaluation after 1 steps: held_out void, 2 tasks failed for good (3:"
    assert void in capsys.readouterr().out
    assert re.search(r"\n +1 .* +void\n", show(workdir))
    with pytest.raises(
        RuntimeError,
        match=r"the figures of held_out are void: .* than config.eval.max_failed_share"
        r"=0.25 allows: mend .*: reset of task held_out/0",
    ):
        evaluate_run(config, workdir)
    (kept,) = workdir.root.glob("evaluations/*/metrics.json")
    assert json.loads(kept.read_text())["metrics"]["held_out/void"] == 1
    config.eval.max_failed_share = 0.7
    assert evaluate_run(config, workdir)["held_out/failed_tasks"] == 2


BROKEN_GAMES = (
    f"--config.env.broken={BROKEN}",
    "--config.env.max_attempts=2",
    "--config.env.max_failed_groups=9",
    "--config.eval.max_failed_share=0.7",
)


@pytest.mark.slow
def test_two_processes_drop_what_one_process_drops(straight, policy, tmp_path):
    run_two(
        tmp_path / "two",
        policy,
        tmp_path,
        *BROKEN_GAMES,
        command=corridor_command("pauses"),
    )
    assert written(tmp_path / "two") == written(straight)
    for line, wanted in zip(
        deterministic(tmp_path / "two"), deterministic(straight), strict=True
    ):
        for key in ("phase", "panels"):
            assert line.pop(key, None) == wanted.pop(key, None)
        # Batches are laid out for the devices that there are.
        for one in (line, wanted):
            for key in [key for key in one if key.startswith("batch/")]:
                del one[key]
        assert line == pytest.approx(wanted, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_too_many_failures_end_both_processes(policy, tmp_path):
    changes = [*BROKEN_GAMES, "--config.env.max_failed_groups=1"]
    processes = start_two(
        tmp_path / "two",
        policy,
        tmp_path,
        (changes, changes),
        command=corridor_command("pauses"),
    )
    assert [process.wait(timeout=240) for process in processes] == [1, 1]
    for process in range(2):
        told = (tmp_path / f"{process}.err").read_text()
        assert "config.env.max_failed_groups=1, but 2 groups have failed" in told
