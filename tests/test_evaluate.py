"""Evaluation of a run's checkpoints: what it needs, what it keeps, what it refuses."""

import json
import os
import re
import sys

import pytest
from corridor_runs import corridor_config
from programs import HELPERS, ROOT, save_random_policy, start

from reskill_jax import build, build_strategy, checkpoint
from reskill_jax.build import learner
from reskill_jax.checkpoint import CheckpointError
from reskill_jax.evaluate import evaluate_run, shown_context
from reskill_jax.memories.instruction import Instruction
from reskill_jax.report.metrics import read_metrics
from reskill_jax.rollout.context import BankContext, EmptyContext
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.stored_config import add_stored_config, check_changes, get_config
from reskill_jax.train import train
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def make_run(place, policy, mode="again", **changes):
    """Train as the program does, with checkpoints of steps 3 and 6."""
    changes = {"checkpoint__every": 3, "checkpoint__keep": 9, **changes}
    config = corridor_config(policy, mode, **changes)
    workdir = Workdir(place)
    workdir.bind(config.to_dict())
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def workdir(policy, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), policy)


def known(metrics):
    """Metrics but for times, phase and step."""
    words = ("time/", "speed/", "phase", "step", "panels")
    return {k: v for k, v in metrics.items() if not k.startswith(words)}


def evaluated(workdir, step):
    """What the run itself measured after a step."""
    lines = read_metrics(workdir.metrics)
    (line,) = [x for x in lines if x["phase"] == "eval" and x["step"] == step]
    return known(line)


def kept(workdir):
    """Results of evaluations by themselves, the newest last."""
    folders = sorted(workdir.root.glob("evaluations/*"), key=os.path.getmtime)
    return [(f, json.loads((f / "metrics.json").read_text())) for f in folders]


@pytest.mark.parametrize("step", [None, 3, 6])
def test_any_checkpoint_can_be_evaluated_as_the_run_did(workdir, capsys, step):
    config = get_config(str(workdir.root))
    metrics = evaluate_run(config, workdir, step)
    wanted = evaluated(workdir, step or 6)
    assert known(metrics) == wanted
    assert evaluated(workdir, 3) != evaluated(workdir, 6)
    kinds = [wanted[f"held_out/success/from-{k}"] for k in (0, 2)]
    assert wanted["held_out/success/ends"] == sum(kinds) / 2
    assert "held_out/success/absent" not in wanted
    rate = f"{wanted['held_out/success']:.1%}"
    told = f"evaluation after {step or 6} steps: held_out {rate} (3:"
    assert capsys.readouterr().out.startswith(told)
    folder, document = kept(workdir)[-1]
    assert document["step"] == (step or 6)
    assert known(document["metrics"]) == wanted
    panel = build.load_panels(config, build.load_environment(config)).held_out
    held_out = panel["held_out"]
    assert document["panels"] == {"held_out": {"hash": held_out.hash, "tasks": 3}}
    ours = (folder / "episodes.jsonl").read_text()
    theirs = (workdir.episodes / f"eval-{step or 6:05d}.jsonl").read_text()
    assert ours.count("\n") == 3
    for line, other in zip(ours.splitlines(), theirs.splitlines(), strict=True):
        # The run's own policy carries the version of its last update.
        assert json.loads(line)["actions"] == json.loads(other)["actions"]


def test_neither_concurrency_nor_workers_nor_the_run_enter_the_result(workdir):
    config = get_config(str(workdir.root))
    config.rollout.concurrency, config.env.workers = 1, 2
    assert known(evaluate_run(config, workdir)) == evaluated(workdir, 6)


def test_a_smaller_panel_has_another_hash(workdir):
    config = get_config(str(workdir.root))
    config.eval.max_tasks = 2
    evaluate_run(config, workdir)
    panels = [document["panels"]["held_out"] for _, document in kept(workdir)]
    assert panels[-1]["tasks"] == 2
    assert panels[-1]["hash"] != panels[0]["hash"]


def test_other_tasks_than_the_pinned_ones_are_refused(workdir):
    config = get_config(str(workdir.root))
    _, document = kept(workdir)[0]
    tasks, hash_ = document["panels"]["held_out"]["tasks"], "0" * 12
    config.eval.panel = (f"held_out:{tasks}:{hash_}",)
    before = len(kept(workdir))
    with pytest.raises(ValueError, match=r"config.eval.panel: 'held_out:.*found for"):
        evaluate_run(config, workdir)
    assert len(kept(workdir)) == before


def test_missing_checkpoints_are_told_with_those_there_are(workdir, tmp_path):
    config = get_config(str(workdir.root))
    with pytest.raises(CheckpointError, match=r"of step 4: choose one of \[3, 6\]"):
        evaluate_run(config, workdir, 4)
    with pytest.raises(ValueError, match="holds no checkpoint yet: train on"):
        evaluate_run(config, Workdir(tmp_path))


def test_neither_optimiser_nor_creator_is_made(policy, tmp_path, monkeypatch):
    workdir = make_run(
        tmp_path,
        policy,
        strategy__name="reskill",
        strategy__reservoir_min=1,
        num_steps=2,
        eval__every=2,
    )
    config = get_config(str(tmp_path))
    config.creator.name, config.creator.llm.name = "openai", "a-model"
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with config.unlocked():
        del config.strategy.mode  # of the strategies of these tests
    with pytest.raises(ValueError, match="OPENAI_API_KEY holds no key"):
        validate(config)

    def never(*_, **__):
        raise AssertionError("an optimiser or a creator is made")

    monkeypatch.setattr(learner, "make_optimizer", never)
    monkeypatch.setattr(learner, "make_update", never)
    monkeypatch.setattr(build_strategy, "make_creator", never)
    read = []
    fingerprints = checkpoint._fingerprints

    def watched(arrays):
        read.extend(arrays)
        return fingerprints(arrays)

    monkeypatch.setattr(checkpoint, "_fingerprints", watched)
    assert known(evaluate_run(config, workdir)) == evaluated(workdir, 2)
    assert read
    assert all(name.startswith("params/") for name in read)


# ---- what may be changed


def test_places_and_what_is_evaluated_may_be_changed_and_nothing_else(workdir):
    config = get_config(str(workdir.root))
    check_changes(config, workdir)
    config.eval.max_tasks, config.eval.splits = 1, ("train",)
    config.mesh.fsdp, config.env.workers, config.engine.decode_rows = -1, 7, 32
    check_changes(config, workdir)
    config.seed, config.rollout.max_turns = 7, 9
    with pytest.raises(ValueError, match="a run is looked at as it is") as caught:
        check_changes(config, workdir)
    message = str(caught.value)
    assert "\n  config.seed: 42 there, 7 now" in message
    assert "\n  config.rollout.max_turns: 4 there, 9 now" in message
    assert "eval.max_tasks" not in message
    assert len(message.splitlines()) == 3


def test_the_stored_configuration_is_the_one_of_the_run(workdir, policy):
    config = get_config(str(workdir.root))
    started = corridor_config(policy, checkpoint__every=3, checkpoint__keep=9)
    assert config.to_dict() == started.to_dict()
    with pytest.raises(AttributeError):  # locked
        config.eval.max_task = 3


@pytest.mark.parametrize(
    "flags",
    [
        ["--mode=evaluate", "--workdir={}"],
        ["--mode", "evaluate", "--workdir", "{}"],
        ["-mode=export", "-workdir={}", "--output=config"],
        ["--mode=export", "--output", "config", "--workdir={}", "--step=3"],
    ],
)
def test_modes_that_look_at_a_run_read_its_configuration(workdir, flags):
    argv = ["main.py", *(flag.format(workdir.root) for flag in flags)]
    added, config, *rest = add_stored_config(argv)
    assert [added, *rest] == argv
    path, _, root = config.removeprefix("--config=").partition(":")
    assert path == str(ROOT / "reskill_jax" / "stored_config.py")
    assert root == str(workdir.root)


@pytest.mark.parametrize(
    "flags",
    [
        ["--workdir={}"],
        ["--mode=train", "--workdir={}"],
        ["--mode=show", "--workdir={}"],
        ["--mode=evaluate"],
        ["--mode=evaluate", "--workdir={}/nothing"],
        ["--mode=evaluate", "--workdir={}", "--config=my.py"],
        ["--mode=evaluate", "--workdir={}", "--config", "my.py"],
    ],
)
def test_other_commands_are_left_as_they_are(workdir, flags):
    argv = ["main.py", *(flag.format(workdir.root) for flag in flags)]
    assert add_stored_config(argv) == argv


def program(workdir, *flags):
    return start(
        sys.executable, "-m", "reskill_jax.main", "--mode=evaluate",
        "--workdir", str(workdir.root), *flags,
        env=os.environ | HELPERS,
    )  # fmt: skip


def test_the_program_takes_flags_for_places_and_for_what_is_evaluated(workdir):
    """In a process that has not seen the strategy, whose context it evaluates."""
    before = len(kept(workdir))
    done = program(
        workdir, "--step=3", "--config.eval.max_tasks=2", "--config.mesh.fsdp=-1",
        "--config.eval.splits=('held_out', 'train')",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search(r"evaluation after 3 steps: held_out .*%.*, train ", done.stdout)
    found = kept(workdir)
    assert len(found) == before + 1
    panels = found[-1][1]["panels"]
    assert {split: panel["tasks"] for split, panel in panels.items()} == {
        "held_out": 2,
        "train": 2,
    }


def test_the_program_refuses_other_flags_and_keeps_nothing(workdir):
    before = len(kept(workdir))
    done = program(workdir, "--config.rollout.max_turns=9", "--config.eval.max_tasks=1")
    assert done.returncode != 0
    assert "config.rollout.max_turns: 4 there, 9 now" in done.stderr
    assert "eval.max_tasks" not in done.stderr
    assert len(kept(workdir)) == before


def test_without_what_was_accepted_prompts_keep_their_form():
    bank = BankContext(SkillBank((Skill("a", "", "now", "act"),)))
    assert shown_context(bank, "accepted") is bank
    assert shown_context(bank, "none") == BankContext(SkillBank())
    assert shown_context(Instruction("act"), "none") == EmptyContext()
