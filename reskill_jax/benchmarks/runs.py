"""Runs of the main program that benchmarks consist of: resumable, kept when done."""

import hashlib
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reskill_jax.laboratory.recipe import RECIPES
from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import PLACES, Workdir, flatten

Value = str | int | float | tuple[str, ...]
Changes = dict[str, Value]  # keys of the configuration to their values
Figures = dict[str, Any]  # of one finished run, plain JSON
CONFIG = "configs/alfworld.py"


@dataclass(frozen=True)
class Results:
    """The figures of finished runs, one JSON object per line of a file.

    They stay when workdirs go, so that a benchmark may be made in several sittings and
    on several machines. A line counts for the configuration and the policy that it was
    made with, and for no other.

    Attributes:
        path: of the file.
        config: file of the configuration that runs differ from.
        variant: of it.
    """

    path: Path
    config: str = CONFIG
    variant: str = "cpu"

    def find(self, name: str, changes: Changes) -> Figures | None:
        """Return the figures of a run; None if there are none.

        Raises:
            ValueError: a line of the file is no JSON object of a run.
        """
        wanted = identity(changes, self.variant, self.config)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                found = entry["run"] == name and entry["configuration"] == wanted
                figures = entry["figures"]
            except (ValueError, TypeError, KeyError) as error:
                raise ValueError(
                    f"{self.path}, line {number} is no result of a run: delete it"
                ) from error
            if found:
                return dict(figures)
        return None

    def add(self, name: str, changes: Changes, figures: Figures) -> None:
        """Append the figures of a run."""
        made_with = identity(changes, self.variant, self.config)
        entry = {"run": name, "configuration": made_with, "figures": figures}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def obtain(
        self,
        name: str,
        changes: Changes,
        workdir: Path,
        read: Callable[[Workdir], Figures],
        *,
        train: bool,
    ) -> Figures | None:
        """Return the figures of a run, from the file or from its workdir.

        Args:
            name: of the run.
            changes: see `finish`.
            workdir: of the run.
            read: takes the figures from the workdir of a finished run.
            train: whether to make the run if there is none; otherwise None comes back.
        """
        if (figures := self.find(name, changes)) is not None:
            return figures
        if train:
            finish(workdir, changes, self.variant, config=self.config)
        if not is_finished(workdir, _steps(changes)):
            return None
        figures = read(Workdir(workdir))
        self.add(name, changes, figures)
        return figures


def identity(changes: Changes, variant: str = "cpu", config_file: str = CONFIG) -> str:
    """Hash what a run depends on: configuration and warm start, 12 hex digits."""
    config = runpy.run_path(config_file)["get_config"](variant)
    config.update_from_flattened_dict(changes)
    values = {
        key: value
        for key, value in flatten(config.to_dict()).items()
        if not key.startswith(PLACES)
    }
    document = [values, RECIPES[config.warm_start.recipe].hash]
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def finish(
    workdir: Path, changes: Changes, variant: str = "cpu", *, config: str = CONFIG
) -> None:
    """Train a run of the laboratory to its end, in a process of its own.

    A run that was interrupted is resumed, a finished one is left alone.

    Args:
        workdir: the run's directory.
        changes: keys of the configuration with their values; `num_steps` is one.
        variant: of the configuration.
        config: its file.

    Raises:
        CalledProcessError: the program failed; its message is on the terminal.
    """
    if is_finished(workdir, _steps(changes)):
        return
    command = [
        sys.executable,
        "-m",
        "reskill_jax.main",
        f"--config={config}:{variant}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def _steps(changes: Changes) -> int:
    steps = changes["num_steps"]
    assert isinstance(steps, int)
    return steps


def is_finished(workdir: Path, steps: int) -> bool:
    """Tell whether a run of `steps` steps has been evaluated at its end."""
    lines = read_metrics(Workdir(workdir).metrics)
    return any(x["phase"] == "eval" and x["step"] == steps for x in lines)
