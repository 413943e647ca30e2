"""WANDS as a run: configurations, and a whole training run on synthetic products."""

import json
import os
import runpy
import sys

import pytest
from ml_collections import ConfigDict
from programs import CPU, ROOT, start
from report_checks import reported

from reskill_jax.report.metrics import read_metrics
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir

get_config = runpy.run_path(str(ROOT / "configs" / "wands.py"))["get_config"]


def unlocked(variant):
    return ConfigDict(get_config(variant).to_dict())


@pytest.mark.parametrize("variant", ["", "paper", "smoke", "paper,smoke"])
def test_variants_are_valid(variant):
    config = unlocked(variant)
    assert config.env.synthetic == ("smoke" in variant)
    config.policy.path = "random:tiny"
    if "paper" in variant:
        config.creator.llm.name = "a-model"
        config.creator.llm.base_url = "http://localhost:1/v1"
        config.creator.llm.api_key_variable = "PATH"
    validate(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("candidates", 4, "choose 2, 3, or 0 for both"),
        ("observation_characters", 9, "must be 100 or more"),
        ("source", "tfds:x", "must be tfds:<name>/<version>"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    config = unlocked("smoke")
    config.env[key] = value
    with pytest.raises(ValueError, match=rf"config\.env\.{key}=.*: {message}"):
        validate(config)


def test_synthetic_products_need_no_files():
    config = unlocked("smoke")
    config.env.root = "somewhere"
    with pytest.raises(ValueError, match=r"env\.synthetic=True with root='somewhere'"):
        validate(config)


@pytest.mark.slow
def test_smoke_runs_anywhere_and_says_that_it_is_synthetic(tmp_path):
    run = tmp_path / "run"
    command = (sys.executable, "-m", "reskill_jax.main", f"--workdir={run}")
    environment = {k: v for k, v in os.environ.items() if k != "WANDS_DATA"} | CPU
    done = start(*command, "--config=configs/wands.py:smoke", env=environment)
    assert done.returncode == 0, done.stderr
    assert "synthetic products and queries: no figure" in done.stderr
    workdir = Workdir(run)
    last = read_metrics(workdir.metrics)[-1]
    assert {"synthetic/success/synthetic-2-opt", "synthetic/chosen"} <= set(last)
    assert "test/success" not in last
    lines = (workdir.episodes / "train-00003.jsonl").read_text().splitlines()
    kinds = {json.loads(line)["kind"] for line in lines}
    assert kinds <= {"synthetic-2-opt", "synthetic-3-opt"}
    shown = start(*command, "--mode=show", env=environment)
    assert "synthetic: tasks 4:" in shown.stdout
    reported(run)
