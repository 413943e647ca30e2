"""Adapters through whole programs: killed and metered runs, supervised training."""

import importlib.util
import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack

import jax
import numpy as np
import pytest
from corridor_runs import corridor_config
from programs import ROOT, command, deterministic, save_random_policy, start, written

from reskill_jax.checkpoint import Checkpointer
from reskill_jax.policy.weights import load
from reskill_jax.skills.skill import SkillBank
from reskill_jax.supervise import supervise
from reskill_jax.workdir import Workdir

pytestmark = pytest.mark.slow

LORA = (
    "--config.policy.lora.rank=4",
    "--config.grpo.learning_rate=1e-2",
    "--config.grpo.kl_coef=0.01",
    "--config.meter.share=0.5",
    "--config.num_steps=4",
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def arrays(workdir):
    """The digests of all arrays of the last checkpoint, by name."""
    place = Workdir(workdir).checkpoints
    with ExitStack() as resources:
        checkpointer = Checkpointer(place, read_only=True)
        resources.callback(checkpointer.close)
        path = place / f"{checkpointer.latest():08d}"
    return json.loads((path / "manifest" / "metadata").read_text())["arrays"]


@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
def test_a_killed_run_with_adapters_and_the_skill_meter_goes_on_bit_for_bit(
    policy, tmp_path
):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    done = start(*command(straight, policy, *LORA))
    assert done.returncode == 0, done.stderr
    process = subprocess.Popen(
        command(killed, policy, *LORA),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not (Workdir(killed).episodes / "train-00002.jsonl").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed = start(*command(killed, policy, *LORA))
    assert resumed.returncode == 0, resumed.stderr
    assert arrays(killed) == arrays(straight)
    assert written(killed) == written(straight)
    assert deterministic(killed) == deterministic(straight)
    lines = deterministic(straight)
    # The meter scores with the adapters, which no plain parameters could be.
    assert max(line.get("meter/turns", 0) for line in lines) > 0
    trained = [line for line in lines if line["phase"] == "train"]
    assert max(line.get("grpo/kl", 0) for line in trained) > 0
    names = [name for name in arrays(straight) if name.startswith("params/")]
    assert names
    assert all(name.endswith(("lora_a", "lora_b")) for name in names)


def test_supervised_training_of_adapters_lowers_the_loss_and_writes_them_merged(
    policy, tmp_path
):
    line = {
        "task": "t1",
        "goal": "reach the end",
        "success": True,
        "actions": ["east", "east"],
        "observations": ["a corridor", "a corridor", "the end"],
        "responses": ["<action>east</action>", None],
        "active_skills": None,
    }
    episodes = tmp_path / "a.jsonl"
    episodes.write_text("".join(json.dumps(line) + "\n" for _ in range(12)))
    targets = ("q_proj", "up_proj")
    config = corridor_config(
        policy,
        prompt__actions=False,
        policy__lora__rank=4,
        policy__lora__targets=targets,
    )
    output = tmp_path / "taught"
    before, after = supervise(
        config,
        episodes,
        policy=str(policy),
        output=output,
        bank=SkillBank(),
        steps=12,
        batch=4,
        learning_rate=3e-2,
        held_out=2,
    )
    assert after < before - 0.3  # of random weights, by two matrices of a layer
    _, taught = load(output)
    _, started = load(policy)
    for part, name in (("attention", "query"), ("mlp", "up")):
        ours = taught["layers"][part].pop(name)["kernel"]
        theirs = started["layers"][part].pop(name)["kernel"]
        assert np.abs(ours - theirs).max() > 1e-3
    jax.tree.map(np.testing.assert_array_equal, taught, started)  # all others
