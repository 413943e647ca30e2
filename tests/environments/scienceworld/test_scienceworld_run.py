"""The experiment's file: its variants are valid, and the smallest one runs."""

import importlib.util
import json
import os
import sys

import pytest
from programs import CPU, get_config, start
from report_checks import reported

from reskill_jax.report.metrics import read_metrics
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir


@pytest.mark.parametrize("variant", ["", "paper", "official", "cpu", "smoke"])
def test_variants_are_valid(variant):
    config = get_config(variant, "scienceworld")
    small = variant in ("cpu", "smoke")
    assert config.env.tasks == ("short" if small else "paper")
    if not small:
        config.policy.path = "random:tiny"
    if variant in ("paper", "official"):
        config.creator.llm.name = "a-model"
        config.creator.llm.base_url = "http://localhost:1/v1"
        config.creator.llm.api_key_variable = "PATH"
    validate(config)


def test_keys_of_the_environment_are_checked():
    config = get_config("smoke", "scienceworld")
    config.env.tasks = "find-unicorn"
    with pytest.raises(ValueError, match=r"there is no task 'find-unicorn'"):
        validate(config)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("scienceworld") is None,
    reason="the extra `scienceworld` is not installed",
)
def test_smoke_needs_no_java_of_the_system(tmp_path):
    # No folder of PATH but the environment's own.
    without = {"PATH": os.path.dirname(sys.executable), "JAVA_HOME": ""}
    done = start(
        sys.executable,
        "-m",
        "reskill_jax.main",
        "--config=configs/scienceworld.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        env=os.environ | CPU | without,
    )
    assert done.returncode == 0, done.stderr
    workdir = Workdir(tmp_path / "run")
    last = read_metrics(workdir.metrics)[-1]
    assert {"unseen/success/mean_of_tasks", "test/score", "unseen/wrong_focus"} <= set(
        last
    )
    lines = (workdir.episodes / "train-00003.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in lines]) == 2 * 4
    reported(workdir.root)
