"""Starts the whole program in processes of its own, and reads what it left."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax

from reskill_jax.laboratory.recipe import Shape
from reskill_jax.policy.decoder import init
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir

ROOT = Path(__file__).parents[2]
CPU = {"JAX_PLATFORMS": "cpu"}
# Environments and strategies of the tests are modules that programs can import.
HELPERS = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])}
TWO_DEVICES = CPU | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}


def get_config(variant="smoke", environment="alfworld"):
    path = ROOT / "configs" / f"{environment}.py"
    spec = importlib.util.spec_from_file_location(f"{environment}_config", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(variant)
    config.unlock()
    return config


def save_random_policy(directory):
    """It plays nonsense, which is all that tests of the program need."""
    texts = ["You arrive at cabinet 1. <action>go to cabinet 1</action>"] * 3
    tokenizer = train_tokenizer(texts, 300)
    shape = Shape(hidden_size=32, intermediate_size=64, layers=2, heads=2, kv_heads=1)
    decoder = shape.decoder(tokenizer.vocab_size)
    save(directory, decoder, init(decoder, jax.random.key(0)))
    tokenizer.save(directory)
    return directory


def command(workdir, policy, *changes, mode="train"):
    return [
        sys.executable,
        "-m",
        "reskill_jax.main",
        f"--mode={mode}",
        "--config=configs/alfworld.py:smoke",
        f"--workdir={workdir}",
        f"--config.policy.path={policy}",
        # So that trials begin and are decided within the smoke run.
        "--config.num_steps=6",
        "--config.creator.inject_every=1",
        "--config.strategy.reservoir_min=1",
        "--config.trial.min_episodes=1",
        "--config.trial.max_steps=3",
        *changes,
    ]


def start(*arguments, **options):
    return subprocess.run(
        arguments, cwd=ROOT, capture_output=True, text=True, check=False, **options
    )


def start_two(workdir, policy, tmp_path, changes=((), ()), command=command):
    """Start the two processes of a run; what they print goes to files."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [
                *command(workdir, policy, "--config.mesh.fsdp=2", *changes[process]),
                f"--coordinator=127.0.0.1:{port}",
                "--processes=2",
                f"--process={process}",
            ],
            cwd=ROOT,
            env=os.environ | CPU | HELPERS | {"XLA_FLAGS": ""},
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / f"{process}.err").open("w"),
        )
        for process in range(2)
    ]


def run_two(workdir, policy, tmp_path, *changes, command=command):
    """Run both processes to their end."""
    processes = start_two(workdir, policy, tmp_path, (changes, changes), command)
    codes = [process.wait() for process in processes]
    assert codes == [0, 0], [(tmp_path / f"{i}.err").read_text() for i in range(2)]


def deterministic(workdir):
    """Everything that a run measured, without times."""
    return [
        {k: v for k, v in line.items() if not k.startswith(("time/", "speed/"))}
        for line in read_metrics(Workdir(workdir).metrics)
    ]


def written(workdir):
    """What a run wrote for people: skills, episodes, trials."""
    place = Workdir(workdir)
    skills = {
        str(path.relative_to(place.skills)): path.read_text()
        for path in sorted(place.skills.rglob("*.md"))
    }
    episodes = {p.name: p.read_text() for p in sorted(place.episodes.glob("*"))}
    trials = (workdir / "trials.jsonl").read_text()
    return skills, episodes, trials


def group_ends(pid):
    """Wait until no process of a group is left; tell whether that came within 60 s."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
