"""Methods in real runs: killed and resumed, collected ahead, in two processes."""

import json

import pytest
from corridor_runs import corridor_command, corridor_config, last_checkpoint
from killed_runs import KilledError, killed_at
from programs import deterministic, run_two, save_random_policy, written
from report_checks import reported

from reskill_jax import train
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

pytestmark = pytest.mark.slow
QUICK = {
    "strategy__inspo__every": 2,
    "strategy__inspo__checks": 2,
    "strategy__inspo__least_groups": 2,
    "strategy__expel__gather_steps": 3,
    "strategy__expel__attempts": 2,
    "strategy__evolver__ask": "goal",
    "strategy__evolver__prune_every": 2,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize(
    ("name", "overlap"),
    [("memrl", 1), ("evolver", 0), ("inspo", 1), ("reflexion", 0), ("expel", 0),
     ("long_context", 0)],
)  # fmt: skip
def test_a_killed_run_ends_like_one_that_was_not(
    policy, tmp_path, monkeypatch, name, overlap
):
    config = corridor_config(policy, name, rollout__overlap=overlap, **QUICK)
    for place in ("straight", "killed"):
        Workdir(tmp_path / place).bind(config.to_dict())
    train.train(config, Workdir(tmp_path / "straight"))
    for step in (2, 4, 5):
        killed_at(step, monkeypatch)
        with pytest.raises(KilledError):
            train.train(config, Workdir(tmp_path / "killed"))
        monkeypatch.undo()
        assert reported(tmp_path / "killed", whole=False)["run"]["state"] == "stopped"
    train.train(config, Workdir(tmp_path / "killed"))
    one, other = tmp_path / "straight", tmp_path / "killed"
    assert deterministic(other) == deterministic(one)
    assert written(other) == written(one)
    assert last_checkpoint(other, policy) == last_checkpoint(one, policy)
    found = [line for line in read_metrics(Workdir(one).metrics)]
    assert any(line.get("memory/items") for line in found)
    assert reported(one)["trials"]["list"] == []


def test_the_leader_decides_for_two_processes(policy, tmp_path):
    changes = [
        f"--config.{key.replace('__', '.')}={value}" for key, value in QUICK.items()
    ]
    run_two(
        tmp_path / "two", policy, tmp_path, *changes, command=corridor_command("inspo")
    )
    path = Workdir(tmp_path / "two").episodes / "train-00006.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["bank"] for line in lines}) > 1  # several instructions
    assert read_metrics(Workdir(tmp_path / "two").metrics)[-1]["step"] == 6
