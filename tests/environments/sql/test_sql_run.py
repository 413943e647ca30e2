"""The experiment's file: its variants are valid, and the smallest one runs."""

import json
import os
import sys

import pytest
from programs import CPU, get_config, start
from report_checks import reported

from reskill_jax.report.metrics import read_metrics
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("variant", ["", "paper", "smoke", "paper,smoke"])
def test_variants_are_valid(variant):
    config = get_config(variant, "sql")
    assert config.env.sample == ("smoke" in variant)
    config.policy.path = "random:tiny"
    if "paper" in variant:
        config.creator.llm.name = "a-model"
        config.creator.llm.base_url = "http://localhost:1/v1"
        config.creator.llm.api_key_variable = "PATH"
    validate(config)


def test_keys_of_the_environment_are_checked():
    config = get_config("smoke", "sql")
    config.env.observation_characters = 3
    with pytest.raises(
        ValueError, match=r"config\.env\.observation_characters=3: must"
    ):
        validate(config)


@pytest.mark.slow
def test_smoke_runs_anywhere(tmp_path):
    done = start(
        sys.executable,
        "-m",
        "reskill_jax.main",
        "--config=configs/sql.py:smoke",
        f"--workdir={tmp_path / 'run'}",
        env={k: v for k, v in os.environ.items() if k != "INTERCODE_SQL_DATA"} | CPU,
    )
    assert done.returncode == 0, done.stderr
    workdir = Workdir(tmp_path / "run")
    last = read_metrics(workdir.metrics)[-1]
    assert {"test/success/extra", "test/score", "unseen/submitted"} <= set(last)
    lines = (workdir.episodes / "train-00003.jsonl").read_text().splitlines()
    episodes = [json.loads(line) for line in lines]
    assert len(episodes) == 2 * 4
    reported(workdir.root)
    for episode in episodes:
        assert episode["reward"] == episode["scores"]["score"]
