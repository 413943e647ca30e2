"""Adaptation: the loop of training, with weights that stay as they are."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
from corridor_runs import corridor_config
from programs import deterministic, get_config, save_random_policy, written

from reskill_jax import export, train
from reskill_jax.build import rollouts
from reskill_jax.checkpoint import Checkpointer, CheckpointError
from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.evaluate import evaluate_run
from reskill_jax.memories.skill_entries import Entry
from reskill_jax.memories.skill_files import save_entries
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.show import show
from reskill_jax.rollout.context import BankContext
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.strategies import WRITING
from reskill_jax.strategies.base import Setup
from reskill_jax.strategies.reskill import make
from reskill_jax.trials.bounds import settled
from reskill_jax.trials.shape import Shape
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir


class KilledError(Exception):
    """Ends a run between a step and its checkpoint."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def adapt_config(policy, **changes):
    return corridor_config(policy, "again", adapt__frozen=True, **changes)


@pytest.fixture(scope="module")
def adapted(policy, tmp_path_factory):
    """A run to its end."""
    workdir = Workdir(tmp_path_factory.mktemp("adapted"))
    config = adapt_config(policy)
    workdir.bind(config.to_dict())
    train.train(config, workdir)
    return workdir


def killing(at):
    """A logbook that ends the run when it has logged a step, before the checkpoint."""

    class Logbook(train.Logbook):
        def step(self, number, *arguments):
            super().step(number, *arguments)
            if number == at:
                raise KilledError

    return Logbook


def lines(workdir, phase):
    return [line for line in read_metrics(workdir.metrics) if line["phase"] == phase]


def test_no_weight_changes_and_nothing_is_pushed(policy, tmp_path, monkeypatch):
    pushed = []

    class Engine(rollouts.JaxEngine):
        def push(self, params, version):
            pushed.append(version)
            super().push(params, version)

        def sleep(self):
            pushed.append("sleep")
            super().sleep()

    monkeypatch.setattr(rollouts, "JaxEngine", Engine)
    workdir = Workdir(tmp_path)
    train.train(adapt_config(policy, num_steps=2), workdir)
    assert pushed == []
    assert all(line["rollout/staleness"] == 0 for line in lines(workdir, "train"))
    assert not any("grpo/loss" in line for line in lines(workdir, "train"))
    checkpointer = Checkpointer(workdir.checkpoints, read_only=True)
    only = {"step": jax.ShapeDtypeStruct((), np.int32)}
    step, arrays, host = checkpointer.restore(only)  # or it refuses what else is there
    checkpointer.close()
    assert (step, int(arrays["step"])) == (2, 0)
    assert host["version"] == 0


def test_the_curve_is_over_episodes_and_calls(adapted):
    counts = [line["adapt/episodes"] for line in lines(adapted, "eval")]
    assert counts == [0, 27, 54]
    assert [line["adapt/calls"] for line in lines(adapted, "eval")] == [0, 0, 0]
    header, *rows = show(adapted).splitlines()[3:7]
    assert header.split() == ["step", "training", "held_out", "episodes", "calls"]
    assert [row.split()[-2:] for row in rows] == [["0", "0"], ["27", "0"], ["54", "0"]]


def test_a_run_killed_at_every_step_ends_the_same(
    adapted, policy, tmp_path, monkeypatch
):
    config = adapt_config(policy, checkpoint__every=1)
    for step in range(1, 7):
        with monkeypatch.context() as patch:
            patch.setattr(train, "Logbook", killing(step))
            with pytest.raises(KilledError):
                train.train(config, Workdir(tmp_path))
    train.train(config, Workdir(tmp_path))
    assert deterministic(tmp_path) == deterministic(adapted.root)
    assert written(tmp_path) == written(adapted.root)


def test_other_weights_are_refused(adapted, policy, tmp_path):
    """Their evidence would be of another policy."""
    workdir = Workdir(tmp_path / "run")
    shutil.copytree(adapted.root, workdir.root)
    other = tmp_path / "policy"
    shutil.copytree(policy, other)
    file = other / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="belongs to the weights of"):
        train.train(adapt_config(other, num_steps=7), workdir)


def test_it_is_evaluated_but_not_exported(adapted, policy, tmp_path):
    config = adapt_config(policy)
    metrics = evaluate_run(config, adapted)
    last = lines(adapted, "eval")[-1]
    assert metrics["held_out/success"] == last["held_out/success"]
    with pytest.raises(ValueError, match=r"config\.adapt\.frozen=True: the run has no"):
        export.export_run(config, adapted, tmp_path / "exported")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapt.split": "valid_seen"}, "adapt.split='valid_seen': a policy learns"),
        (
            {"adapt.frozen": True, "adapt.split": "valid_seen"},
            "adapt.split='valid_seen' is evaluated on",
        ),
        (
            {"adapt.frozen": True, "strategy.name": "skill_first"},
            "strategy.name='skill_first' has a stage",
        ),
        ({"adapt.frozen": True, "policy.lora.rank": 4}, "adapt.frozen=True: policy.lo"),
    ],
)
def test_what_does_not_fit_is_named(policy, changes, message):
    config = get_config()
    config.policy.path = str(policy)
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        validate(config)


def test_the_workdir_of_a_run_elsewhere_is_neither_gone_on_with_nor_a_policy(
    adapted, policy
):
    """What is taken from another environment is its export, its bank, its library."""
    config = get_config()
    config.adapt.frozen = True
    config.policy.path = str(policy)
    with pytest.raises(ValueError, match=r"config.env.name: .corridor_environment. th"):
        adapted.bind(config.to_dict())
    config.policy.path = str(adapted.root)
    with pytest.raises(ValueError, match=r"config.policy.path=.*is the workdir of a"):
        validate(config)
    config.policy.path = str(policy)
    config.strategy.bank = str(adapted.root)
    with pytest.raises(ValueError, match=r"strategy.bank=.*none of its directories"):
        validate(config)


def test_it_draws_from_the_split_that_is_named(policy, tmp_path):
    config = get_config()
    config.update_from_flattened_dict(
        {
            "policy.path": str(policy),
            "adapt.frozen": True,
            "adapt.split": "valid_seen",
            "eval.splits": ("valid_unseen",),
            "eval.max_tasks": 1,
            "env.workers": 1,
            "num_steps": 1,
            "rollout.max_turns": 2,
            "rollout.max_tokens": 8,
            "strategy.name": "grpo",
        }
    )
    workdir = Workdir(tmp_path)
    validate(config)
    train.train(config, workdir)
    played = (workdir.episodes / "train-00001.jsonl").read_text()
    assert '"split": "valid_seen"' in played
    assert '"split": "train"' not in played


QUICK = {
    "strategy__reservoir_min": 1,
    "strategy__inspo__every": 2,
    "strategy__inspo__checks": 2,
    "strategy__expel__gather_steps": 2,
    "strategy__expel__attempts": 2,
    "strategy__evolver__ask": "goal",
    "strategy__skillrl__every": 2,
}
WRITERS = [
    *(name for name in WRITING if not name.endswith("_frozen")),
    *("reskill", "auto_accept", "no_analyzer", "long_context"),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_every_strategy_that_writes_adapts_from_nothing(policy, tmp_path, name):
    config = corridor_config(policy, name, adapt__frozen=True, num_steps=4, **QUICK)
    validate(config)
    workdir = Workdir(tmp_path)
    train.train(config, workdir)
    assert not any("grpo/loss" in line for line in lines(workdir, "train"))
    assert [line["step"] for line in lines(workdir, "train")] == [1, 2, 3, 4]
    counts = [line["adapt/episodes"] for line in lines(workdir, "eval")]
    assert counts[0] == 0 < counts[-1]


def save_one_skill(directory):
    """A bank of one skill that is always shown."""
    bank = SkillBank((HELPFUL[0].skill(general=True),))
    save_bank(bank, directory)
    return BankContext(bank).hash


def played_on(workdir):
    text = (workdir.episodes / "train-00001.jsonl").read_text()
    return {json.loads(line)["bank"] for line in text.splitlines()}


@pytest.mark.slow
def test_it_goes_on_from_the_bank_of_another_run_and_the_meter_works(policy, tmp_path):
    bank = save_one_skill(tmp_path / "bank")
    changes = {"strategy__bank": str(tmp_path / "bank"), "meter__share": 1.0, **QUICK}
    config = corridor_config(
        policy, "reskill", adapt__frozen=True, num_steps=1, **changes
    )
    workdir = Workdir(tmp_path / "run")
    train.train(config, workdir)
    assert played_on(workdir) == {bank}
    (line,) = lines(workdir, "train")
    assert line["meter/turns"] > 0


@pytest.mark.slow
def test_it_goes_on_from_a_library(policy, tmp_path):
    save_entries((Entry("general", "Given", "Do it."),), tmp_path / "given")
    changes = {"strategy__skillrl__library": str(tmp_path / "given"), **QUICK}
    config = corridor_config(
        policy, "skillrl", adapt__frozen=True, num_steps=1, **changes
    )
    workdir = Workdir(tmp_path / "run")
    train.train(config, workdir)
    (line,) = lines(workdir, "train")
    assert line["memory/read"] == 9
    document = json.loads((workdir.library / "skills.json").read_text())
    assert [skill["title"] for skill in document["general_skills"]] == ["Given"]


@pytest.mark.slow
def test_every_decision_is_followed_by_an_evaluation(policy, tmp_path):
    config = get_config()
    config.update_from_flattened_dict(
        {
            "policy.path": str(policy),
            "adapt.frozen": True,
            "eval.every": 0,
            "eval.max_tasks": 2,
            "num_steps": 6,
            "creator.inject_every": 1,
            "strategy.reservoir_min": 1,
            "trial.min_episodes": 1,
            "trial.max_steps": 2,
        }
    )
    workdir = Workdir(tmp_path)
    train.train(config, workdir)
    evaluated = {line["step"] for line in lines(workdir, "eval")}
    decided = {
        line["step"] for line in lines(workdir, "train") if "trial/accepted" in line
    }
    assert decided
    assert evaluated == {0, 6} | decided


@pytest.mark.parametrize(("preset", "usual"), [("ours", 32), ("paper", 0)])
def test_all_evidence_of_an_unchanged_arm_is_kept(preset, usual):
    """Nothing drifts: M is infinite, and later trials begin with what is known."""
    config = get_config()
    config.trial.preset = preset
    panel = {"train": range(400)}
    setup = Setup(
        settings=config.strategy.to_dict() | {"reservoir_min": 1},
        trial=settled(config.trial.to_dict(), Shape(16, 8)),  # as runs have it
        seed=0,
        num_steps=9,
        tasks_per_step=config.rollout.tasks_per_step,
        group_size=config.grpo.group_size,
        panel=lambda split, limit: panel[split],
        bank_problem=lambda bank: "",
        make_creator=lambda analyse: None,
    )
    for frozen, carried in ((False, usual), (True, 1e9)):
        trial = make(replace(setup, frozen=frozen))._trial_config
        assert trial.frozen_policy == frozen
        assert trial.carry_over == carried
