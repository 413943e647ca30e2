"""Runs of the main program that benchmarks consist of: resumable, kept when done."""

import subprocess
import sys
from pathlib import Path

from reskill_jax.metrics import read_metrics
from reskill_jax.workdir import Workdir

Changes = dict[str, str | int | float]  # keys of the configuration to their values


def finish(workdir: Path, changes: Changes, variant: str = "cpu") -> None:
    """Train a run of the laboratory to its end, in a process of its own.

    A run that was interrupted is resumed, a finished one is left alone.

    Args:
        workdir: the run's directory.
        changes: keys of the configuration with their values; `num_steps` is one.
        variant: of the configuration.

    Raises:
        CalledProcessError: the program failed; its message is on the terminal.
    """
    if is_finished(workdir, int(changes["num_steps"])):
        return
    command = [
        sys.executable,
        "-m",
        "reskill_jax.main",
        f"--config=configs/alfworld.py:{variant}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def is_finished(workdir: Path, steps: int) -> bool:
    """Tell whether a run of `steps` steps has been evaluated at its end."""
    lines = read_metrics(Workdir(workdir).metrics)
    return any(x["phase"] == "eval" and x["step"] == steps for x in lines)
