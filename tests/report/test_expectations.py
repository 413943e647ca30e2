"""What is told of trials before a run begins, and kept in its directory."""

import json

import pytest
from programs import get_config

from reskill_jax.build_strategy import settle_trial
from reskill_jax.report.expectations import introduce_trials
from reskill_jax.trials import bounds
from reskill_jax.trials.shape import Shape
from reskill_jax.workdir import Workdir


def introduce(config, tmp_path, capsys):
    introduce_trials(settle_trial(config), Workdir(tmp_path))
    return capsys.readouterr().out


def test_expected_rates_are_told_and_kept(tmp_path, capsys):
    told = introduce(get_config("cpu"), tmp_path, capsys)
    null, harmful, *_ = bounds.EXPECTED[Shape(6, 8)]
    assert f"preset 'ours', 6 x 8; accepted, as simulated: {null:.0%}" in told
    assert f"{harmful:.1%} of -5 points" in told
    assert "departing" not in told
    assert "WARNING" not in told
    kept = json.loads(Workdir(tmp_path).trial.read_text())
    assert kept["expected"]["null"] == null
    assert kept["changed"] == {}
    assert kept["settings"]["max_steps"] == bounds.TABLE[Shape(6, 8)][0]


def test_departures_are_told_and_broken_promises_too(tmp_path, capsys):
    config = get_config("smoke")
    config.trial.update({"early_accept": 0.6, "accept_probability": 0.5})
    told = introduce(config, tmp_path, capsys)
    assert (
        "departing from that preset: early_accept=0.6, accept_probability=0.5" in told
    )
    assert "WARNING: beyond what the preset promises" in told


def test_the_published_rule_is_told_as_it_is(tmp_path, capsys):
    config = get_config("cpu,paper")
    told = introduce(config, tmp_path, capsys)
    assert "preset 'paper', 6 x 8" in told
    assert "WARNING" not in told
    config.trial.epsilon = 0.3
    assert "departing from that preset: epsilon=0.3" in introduce(
        config, tmp_path, capsys
    )


@pytest.mark.parametrize("name", ["grpo", "auto_accept"])
def test_nothing_is_told_where_nothing_is_tried(name, tmp_path, capsys):
    config = get_config("cpu")
    config.strategy.name = name
    assert introduce(config, tmp_path, capsys) == ""
    assert settle_trial(config).trial.to_dict() == config.trial.to_dict()
