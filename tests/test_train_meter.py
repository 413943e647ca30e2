"""A run with the skill meter is the run without it, and one that was killed goes on."""

import importlib.util
import json

import pytest
from corridor_runs import last_checkpoint
from programs import command, deterministic, save_random_policy, start, written

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("alfworld") is None,
        reason="needs the extra alfworld: pip install '.[alfworld]'",
    ),
]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def run(workdir, policy, share, *changes):
    done = start(*command(workdir, policy, f"--config.meter.share={share}", *changes))
    assert done.returncode == 0, done.stderr
    return workdir


@pytest.fixture(scope="module")
def metered(policy, tmp_path_factory):
    return run(tmp_path_factory.mktemp("runs") / "on", policy, 0.5)


def without_meter(workdir):
    """All that a run measured and wrote, but for what the meter says."""
    metrics = [
        {
            key: value
            for key, value in line.items()
            if not key.startswith("meter/") and not key.endswith("/effect_logprob")
        }
        for line in deterministic(workdir)
    ]
    skills, episodes, trials = written(workdir)
    texts = [*episodes.values(), trials]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    return metrics, skills, [{**line, "meter": None} for line in lines]


def test_samples_gradients_and_trials_are_the_same_bit_for_bit(
    metered, policy, tmp_path
):
    plain = run(tmp_path / "off", policy, 0.0)
    lines = deterministic(metered)
    assert max(line.get("meter/turns", 0) for line in lines) > 0
    assert max(line.get("meter/tokens", 0) for line in lines) <= 0.5
    assert not any("meter/turns" in line for line in deterministic(plain))
    assert without_meter(metered) == without_meter(plain)
    ends = [last_checkpoint(workdir, policy)[:2] for workdir in (metered, plain)]
    assert ends[0] == ends[1]


def test_a_run_that_was_interrupted_measures_the_same(metered, policy, tmp_path):
    workdir = tmp_path / "twice"
    run(workdir, policy, 0.5, "--config.num_steps=3")
    run(workdir, policy, 0.5)
    train = [
        [line for line in deterministic(place) if line["phase"] == "train"]
        for place in (metered, workdir)
    ]
    assert train[0] == train[1]
    episodes = [written(place)[1] for place in (metered, workdir)]
    assert [
        {name: text for name, text in one.items() if name.startswith("train")}
        for one in episodes
    ] == [
        {name: text for name, text in episodes[0].items() if name.startswith("train")}
    ] * 2
