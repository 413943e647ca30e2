"""Methods in real runs: killed and resumed, collected ahead, in two processes."""

import json

import pytest
from corridor_runs import corridor_command, corridor_config, last_checkpoint
from killed_runs import KilledError, killed_at
from programs import deterministic, run_two, save_random_policy, written
from report_checks import reported

from reskill_jax import build, train
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.panels import write_panels
from reskill_jax.rollout.context import BankContext
from reskill_jax.rollout.demonstration import as_episode, read_demonstrations
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.supervise import supervise
from reskill_jax.validate import validate
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
    "strategy__skillrl__every": 2,
    "strategy__skillrl__least": 2,
    "strategy__skillrl__weak": 1.0,
}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


@pytest.mark.parametrize(
    ("name", "overlap"),
    [("memrl", 1), ("evolver", 0), ("inspo", 1), ("reflexion", 0), ("expel", 0),
     ("long_context", 0), ("skillrl", 1)],
)  # fmt: skip
def test_a_killed_run_ends_like_one_that_was_not(
    policy, tmp_path, monkeypatch, name, overlap
):
    config = corridor_config(policy, name, rollout__overlap=overlap, **QUICK)
    panels = build.load_tasks(config).panels.held_out
    for place in ("straight", "killed"):
        Workdir(tmp_path / place).bind(config.to_dict())
        write_panels(panels, Workdir(tmp_path / place))
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


@pytest.mark.parametrize("name", ["inspo", "skillrl"])
def test_the_leader_decides_for_two_processes(policy, tmp_path, name):
    changes = [
        f"--config.{key.replace('__', '.')}={value}" for key, value in QUICK.items()
    ]
    run_two(
        tmp_path / "two", policy, tmp_path, *changes, command=corridor_command(name)
    )
    workdir = Workdir(tmp_path / "two")
    lines = [
        json.loads(line)
        for path in sorted(workdir.episodes.glob("train-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert len({line["bank"] for line in lines}) > 1  # instructions; libraries
    metrics = read_metrics(workdir.metrics)
    assert metrics[-1]["step"] == 6
    assert any(line.get("memory/read") for line in metrics)


def test_the_final_bank_on_the_initial_policy_is_an_evaluation_alone(policy, tmp_path):
    """The control that tells what the text alone is worth."""
    bank = SkillBank((HELPFUL[0].skill(general=True),))
    save_bank(bank, tmp_path / "skills")
    options = {"num_steps": 0, "strategy__bank": str(tmp_path / "skills")}
    config = corridor_config(policy, "static", **options)
    validate(config)
    workdir = Workdir(tmp_path / "run")
    workdir.bind(config.to_dict())
    train.train(config, workdir)
    lines = read_metrics(workdir.metrics)
    assert [(line["phase"], line["step"]) for line in lines] == [("eval", 0)]
    assert "held_out/success" in lines[0]
    played = [
        json.loads(line)
        for path in workdir.episodes.glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    assert {line["bank"] for line in played} == {BankContext(bank).hash}


def test_a_cold_start_imitates_episodes_with_the_skills_that_they_were_shown(
    policy, tmp_path
):
    """Gather and distil with a frozen policy; imitate; train on that library."""
    options = QUICK | {"prompt__actions": False}
    gathered = Workdir(tmp_path / "gathered")
    config = corridor_config(policy, "skillrl_frozen", **options)
    train.train(config, gathered)
    found = read_demonstrations(gathered.episodes, SkillBank())
    lines = [
        json.loads(line)
        for path in sorted(gathered.episodes.glob("train-*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert any(demonstration.opening for demonstration in found)
    tokenizer = build.load_policy(config).tokenizer
    prompts = build.make_prompts(config, build.load_environment(config), tokenizer)
    for line, demonstration in zip(lines, found, strict=True):
        episode = as_episode(prompts, demonstration)
        assert [t.trunk_length + len(t.branch) for t in episode.turns] == line[
            "prompt_tokens"
        ]
    cold = tmp_path / "cold"
    supervise(
        config,
        gathered.episodes,
        policy=str(policy),
        output=cold,
        bank=SkillBank(),
        steps=1,
        batch=2,
        learning_rate=1e-3,
        held_out=1,
        failures=True,
    )
    library = str(gathered.library)
    config = corridor_config(
        cold, "skillrl", num_steps=1, strategy__skillrl__library=library, **options
    )
    train.train(config, Workdir(tmp_path / "run"))
    first = (tmp_path / "run" / "episodes" / "train-00001.jsonl").read_text()
    assert all(json.loads(line)["opening"] for line in first.splitlines())
