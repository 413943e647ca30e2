"""Runs end soon after the first decision, and are gone on with."""

import pytest
from programs import ROOT

from reskill_jax.benchmarks.runs import UnusableResultError
from reskill_jax.experiments import known_effects
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir


@pytest.mark.slow
def test_a_run_is_as_long_as_its_first_trial(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(known_effects, "_STRIDE", 8)
    found = known_effects.first_decision(tmp_path, "harmful", 0)
    assert found["skills"] == ["examine-everything"]
    run = Workdir(tmp_path / "harmful-0")
    lines = read_metrics(run.metrics)
    steps = max(int(line["step"]) for line in lines if line["phase"] == "train")
    assert steps - 8 < 1 + found["steps"] <= steps
    # What is decided is read again, whatever the run was.
    monkeypatch.setattr(known_effects, "finish", pytest.fail)
    assert known_effects.first_decision(tmp_path, "harmful", 0) == found
    run.root.rename(tmp_path / "harmful-1")
    with pytest.raises(UnusableResultError, match=r"config.seed: 0 there, 1 now"):
        known_effects.first_decision(tmp_path, "harmful", 1)
