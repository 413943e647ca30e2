"""`--help` of an experiment lists the flags that its arms share."""

import subprocess
import sys


def test_help_lists_the_flags():
    command = [sys.executable, "-m", "reskill_jax.experiments.unseen", "--help"]
    told = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False
    )
    assert {"--arms:", "--seeds:", "--config:"} <= set(told.stdout.split())
