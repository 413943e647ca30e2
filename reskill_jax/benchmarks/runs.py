"""Runs of the main program that benchmarks consist of: resumable, kept when done."""

import hashlib
import json
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import logging
from ml_collections import ConfigDict

from reskill_jax import command_line, terminal
from reskill_jax.build_strategy import settle_trial
from reskill_jax.defaults import get_config
from reskill_jax.laboratory.recipe import RECIPES
from reskill_jax.report.metrics import is_evaluated
from reskill_jax.scrub import MARK
from reskill_jax.storage import append_line, plain, read_json
from reskill_jax.workdir import PLACES, Workdir, differences, flatten

Value = str | int | float | tuple[str, ...] | tuple[int, ...]
Changes = dict[str, Value]  # keys of the configuration to their values
Figures = dict[str, Any]  # of one finished run, plain JSON
# A file and its variants, as --config has them: what benchmarks were measured with from
# the first on, so that they can still be compared.
CONFIG = "configs/alfworld.py:cpu,bare"
# `:cpu` drops groups that tie. What was measured before it did compares with runs that
# do not.
ALL_GROUPS: Changes = {"grpo.drop_zero_variance": False}


class UnusableResultError(ValueError):
    """What is kept of earlier runs is damaged, or of another configuration."""


def start(main: Callable[[], None]) -> None:
    """Run a command that makes runs; say in a line what people can deal with.

    That is Ctrl-C, a run that failed and has told why, and results or runs of earlier
    commands that cannot be used. Anything else comes with its traceback.
    """

    def told() -> None:
        logging.set_verbosity(logging.WARNING)  # Orbax tells every step of reading
        try:
            main()
        except KeyboardInterrupt:
            print("interrupted; the same command goes on", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except subprocess.CalledProcessError as error:
            command = " ".join(map(str, error.cmd[1:3]))
            terminal.fail(f"{command} ended with {error.returncode}, see above")
        except UnusableResultError as error:
            terminal.fail(error)

    command_line.start(told)


def commit() -> str:
    """Return the commit of the code, with a + where the code differs from it.

    Empty where it is no clone of the repository.
    """

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(Path(__file__).parents[2]), *arguments)
        return subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout

    try:
        changed = git("status", "--porcelain", "--", "reskill_jax", "configs")
        return git("rev-parse", "--short", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


@dataclass(frozen=True)
class Results:
    """The figures of finished runs, one JSON object per line of a file.

    They stay when workdirs go, so that a benchmark may be made in several sittings and
    on several machines. A line counts for the configuration and the policy that it was
    made with, and for no other; the commit says what code made it.

    Attributes:
        path: of the file.
        minutes: after which nothing more is made; 0: any time.
        commit: of the code that runs, taken before anything may change it.
        started: when the minutes began, in seconds of the monotonic clock.
    """

    path: Path
    minutes: float = 0.0
    commit: str = field(default_factory=commit)
    started: float = field(default_factory=time.monotonic)

    def find(self, name: str, configuration: str) -> Figures | None:
        """Return the figures of a run; None if there are none.

        Args:
            name: of the run.
            configuration: hash of what its figures depend on, see `identity`.

        Raises:
            UnusableResultError: a line of the file is no JSON object of a run.
        """
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                entry = json.loads(line)
                found = entry["run"] == name and entry["configuration"] == configuration
                figures = entry["figures"]
            except (ValueError, TypeError, KeyError) as error:
                raise UnusableResultError(
                    f"{self.path}, line {number} is no result of a run: delete it"
                ) from error
            if found:
                return dict(figures)
        return None

    def add(self, name: str, configuration: str, figures: Figures) -> None:
        """Append the figures of a run, see `find`.

        Raises:
            OSError: the file cannot be written; it is as it was.
        """
        entry = {
            "run": name,
            "configuration": configuration,
            "commit": self.commit,
            "figures": figures,
        }
        append_line(self.path, json.dumps(entry))

    def obtain(
        self, name: str, configuration: str, make: Callable[[], Figures]
    ) -> Figures | None:
        """Return the figures of a run; make and keep them if there are none.

        Returns:
            The figures; None if there are none and the time to make some is over.
        """
        figures = self.find(name, configuration)
        over = 0 < 60 * self.minutes < time.monotonic() - self.started
        if figures is None and not over:
            figures = make()
            self.add(name, configuration, figures)
        return figures


def configuration(changes: Changes, config: str = CONFIG) -> ConfigDict:
    """Return a laboratory's configuration with some keys changed.

    Args:
        changes: keys with their values.
        config: a file and its variants, as --config has them.
    """
    file, _, variants = config.partition(":")
    made: ConfigDict = runpy.run_path(file)["get_config"](variants)
    made.update_from_flattened_dict(changes)
    return made


def identity(changes: Changes, config: str = CONFIG) -> str:
    """Hash what a run depends on: configuration and warm start, 12 hex digits.

    Keys at their defaults do not count, so that what was measured stays valid when
    there is a new key. What it was measured with beside that, the commit tells.
    """
    made = configuration(changes, config)
    usual = flatten(get_config(made.env.name).to_dict())
    values = {
        key: value
        for key, value in flatten(made.to_dict()).items()
        if not key.startswith(PLACES) and value != usual[key]
    }
    document = [values, RECIPES[made.warm_start.recipe].hash]
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def finish(
    workdir: Path, changes: Changes, config: str = CONFIG, *, mode: str = "train"
) -> None:
    """Train a run of the laboratory to its end, in a process of its own.

    A run that was interrupted is resumed, a finished one is left alone.

    Args:
        workdir: the run's directory.
        changes: keys of the configuration with their values; `num_steps` is one.
        config: see `configuration`.
        mode: of the main program, train or adapt.

    Raises:
        CalledProcessError: the program failed; its message is on the terminal.
        UnusableResultError: a finished run is there, of another configuration.
    """
    if is_finished(workdir, changes, config, mode=mode):
        return
    command = [
        sys.executable,
        "-m",
        "reskill_jax.main",
        f"--mode={mode}",
        f"--config={config}",
        f"--workdir={workdir}",
        *(f"--config.{key}={value}" for key, value in changes.items()),
    ]
    print(" ".join(command[1:]), flush=True)
    subprocess.run(command, check=True)


def _steps(changes: Changes) -> int:
    steps = changes["num_steps"]
    assert isinstance(steps, int)
    return steps


def is_finished(
    workdir: Path, changes: Changes, config: str = CONFIG, *, mode: str = "train"
) -> bool:
    """Tell whether a run has come to its end; see `finish` for the arguments.

    It has its last checkpoint and, unless it evaluates nothing, its last evaluation: a
    run that SIGTERM has ended has the one without the other.

    Raises:
        UnusableResultError: the finished run is one of another configuration, or its
            config.json or metrics.jsonl is damaged.
    """
    run, steps = Workdir(workdir), _steps(changes)
    if not (run.checkpoints / f"{steps:08d}").is_dir():
        return False
    refuse_other(run.config, changes, config, mode=mode)
    if not configuration(changes, config).eval.splits:
        return True
    try:
        return is_evaluated(run.metrics, steps)
    except ValueError as error:
        raise UnusableResultError(str(error)) from error


def read_config(path: Path) -> dict[str, Any]:
    """Read the configuration that was stored beside a result.

    Raises:
        UnusableResultError: it is missing or damaged.
    """
    try:
        return read_json(path)
    except (ValueError, OSError) as error:
        raise UnusableResultError(
            f"{error}: restore the file, choose another --workdir, or remove "
            f"{path.parent} to make it again"
        ) from error


def refuse_other(
    path: Path, changes: Changes, config: str = CONFIG, *, mode: str = "train"
) -> None:
    """Compare the configuration that was stored beside a result with the one wanted.

    What does not count: keys that were not there when it was made, those of `PLACES`,
    and what an export has hidden as it could be a secret.

    Args:
        path: of the stored one.
        changes: see `finish`, like the other arguments.
        config: likewise.
        mode: likewise.

    Raises:
        UnusableResultError: they differ; the message has the keys with both values.
            Or the stored one is missing or damaged.
    """
    new = settle_trial(configuration(changes, config))
    if mode == "adapt":
        new.adapt.frozen = True
    wanted = flatten(plain(new.to_dict(), "config"))
    stored = flatten(read_config(path))
    known = {k: v for k, v in stored.items() if k in wanted and v != MARK}
    if found := differences(wanted | known, wanted, PLACES):
        raise UnusableResultError(
            "\n".join(
                [
                    f"{path.parent} is finished, with another configuration:",
                    *found,
                    "Choose another --workdir, or remove that directory.",
                ]
            )
        )
