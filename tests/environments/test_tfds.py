"""Task sets in TFDS are the task sets of the files, and need the files no longer."""

import importlib.util
import json
import os
import re
import shutil
import sys
from dataclasses import replace

import pytest
from programs import ROOT, get_config, start

from reskill_jax.environments.alfworld.environment import AlfworldEnvironment
from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.environments.alfworld.settings import Settings
from reskill_jax.environments.alfworld.spec import load
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.registry import environment_module
from reskill_jax.environments.task import Task
from reskill_jax.environments.tfds import parse_source, read, write
from reskill_jax.write_task_set import write_task_set

pytest.importorskip("tensorflow_datasets", reason="needs pip install '.[tfds]'")
TASKS = [
    Task(f"test/{k}", "two words", "test", f'{{"ü": {k}}}', "0f") for k in range(9)
]


def test_tasks_come_back_as_they_were_in_their_order(tmp_path):
    panels = {"test": TaskPanel(tuple(TASKS)), "train": TaskPanel(tuple(TASKS[:1]))}
    folder = write("reskill_mine", panels, tmp_path)
    assert folder == tmp_path / "reskill_mine" / "1.0.0"
    assert read("tfds:reskill_mine/1.0.0", "test", tmp_path) == TASKS
    assert read("tfds:reskill_mine/1.0.0", "train", tmp_path) == TASKS[:1]
    with pytest.raises(ValueError, match=r"split='dev': tfds:.* has test, train"):
        read("tfds:reskill_mine/1.0.0", "dev", tmp_path)
    with pytest.raises(FileExistsError, match="remove it to write it anew"):
        write("reskill_mine", panels, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"source='tfds:reskill_mine/2.0.0'"):
        read("tfds:reskill_mine/2.0.0", "test", tmp_path)


@pytest.mark.parametrize("source", ["", "reskill/1.0.0", "tfds:a/1.0", "tfds:../1.0.0"])
def test_a_source_that_cannot_be_one_is_refused(source):
    with pytest.raises(ValueError, match="must be tfds:<name>/<version>"):
        parse_source(source)


@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="the extra `alfworld` is not installed",
)
def test_the_command_makes_a_set_that_is_played_without_the_files(
    tmp_path, monkeypatch
):
    houses = shutil.copytree(
        cached_houses("small", train=4, held_out=3, seed=0, workers=2),
        tmp_path / "houses",
    )
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    done = start(
        sys.executable, "-m", "reskill_jax.write_task_set",
        "--config=configs/alfworld.py:smoke", f"--config.env.root={houses}",
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    source = "tfds:reskill_alfworld/1.0.0"
    assert done.stdout.endswith(f"play it with --config.env.source={source}\n")
    files = load(Settings(root=str(houses), dev=1), workers=1)
    stored = load(Settings(source=source, dev=1), workers=1)
    for split in ("train", "dev", "valid_seen", "valid_unseen"):
        for limit in (None, 2):
            ours, theirs = stored.panel(split, limit), files.panel(split, limit)
            assert ours.label == theirs.label
            assert [task.id for task in ours] == [task.id for task in theirs]
    assert re.search(f"^valid_seen {files.panel('valid_seen', None).label}$",
                     done.stdout, re.MULTILINE)  # fmt: skip

    def start_of(panel):
        environment = AlfworldEnvironment()
        try:
            return environment.reset(panel.tasks[0])
        finally:
            environment.close()

    seen = start_of(files.panel("valid_seen", None))
    shutil.rmtree(houses)
    assert start_of(stored.panel("valid_seen", None)) == seen


@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="the extra `alfworld` is not installed",
)
@pytest.mark.parametrize("splits", [("valid_seen",), ("valid_seen", "dev")])
def test_what_was_held_out_of_train_is_held_out_once(tmp_path, monkeypatch, splits):
    root = str(cached_houses("small", train=4, held_out=3, seed=0, workers=2))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    config = get_config()
    config.env.root, config.env.dev = root, 2
    config.eval.splits = splits
    files = load(Settings(root=root, dev=2), workers=1)
    stored = load(Settings(source=write_task_set(config), dev=2), workers=1)
    for split in ("train", "dev", "valid_seen"):
        assert stored.panel(split, None).label == files.panel(split, None).label


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.env.sampel=True", "sampel"),
        ("--config.env.workers=0", "config.env.workers=0: must be"),
        ("--config.env.source=tfds:x/1.0.0", "config.env.source='tfds:x/1.0.0'"),
    ],
)
def test_the_command_says_in_a_line_what_it_cannot_take(tmp_path, flag, said):
    done = start(
        sys.executable, "-m", "reskill_jax.write_task_set",
        "--config=configs/search.py:smoke", flag,
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT),
                          "TFDS_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode not in (0, -9)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("search", {"questions": "sample"}),
        ("sql", {"sample": True}),
        ("wands", {"synthetic": True}),
    ],
)
def test_sets_of_other_environments_are_those_of_the_files(
    tmp_path, monkeypatch, name, own
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "cache"))
    module = environment_module(name)
    files = module.load(module.Settings(**own), workers=1)
    names = {
        "search": ("train", "dev", "nq", "hotpotqa", "2wiki", "bamboogle"),
        "sql": ("train", "dev", "test", "unseen"),
        "wands": ("train", "synthetic_dev", "synthetic"),
    }[name]
    panels = {split: files.portable(files.panel(split, None)) for split in names}
    write(f"reskill_{name}", panels, tmp_path / "tfds")
    settings = module.Settings(source=f"tfds:reskill_{name}/1.0.0")
    stored = module.load(settings, workers=1)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    for split in names:
        for limit in (None, 2):
            theirs = files.panel(split, limit)
            ours = stored.panel(split, limit)
            assert ours.label == theirs.label
            assert [task.id for task in ours] == [task.id for task in theirs]
    if name == "search":
        assert stored.panel("popqa", None).tasks == ()
        return
    if name == "wands":
        one = module.load(
            module.Settings(source=settings.source, candidates=3), workers=1
        )
        assert {t.kind for t in one.panel("synthetic", None)} == {"synthetic-3-opt"}
        return
    task = stored.panel("train", None).tasks[0]
    environment = stored.make()
    try:
        environment.reset(task)
        environment.step(json.loads(task.source)["gold"])
        assert environment.step("submit").success
    finally:
        environment.close()
    damaged = replace(task, source=task.source.replace('"file": "', '"file": "AAAA'))
    with pytest.raises(ValueError, match="the database of the task is damaged"):
        stored.make().reset(damaged)
