"""Everything about a run lives in one directory.

    config.json     the full configuration of the run, written at its first start
    lock            held while a process writes the run
    panels.json     which task types a column of the evaluation is the mean of
    first_bank.json the skill bank that the run began with
    on_trial.json   candidates that are on trial now
    trial.json      how trials run, and what is expected of them
    metrics.jsonl   what was measured, one line per step and phase
    tensorboard/    the same, as event files
    checkpoints/    all state, one directory per saved step
    skills/         the skill library as SKILL.md files
    library/        other skills: SkillRL's, as JSON and as SKILL.md files
    episodes/       played episodes
    creator/        every call to a language model, if the creator is one

A process that trains does this before any work, and later starts do the same:

    workdir = Workdir(Path(FLAGS.workdir))
    with workdir.lock():
        workdir.bind(config.to_dict())
        ...
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from reskill_jax.storage import other_holder, plain, read_json, write_text

# The one key that a later start may change, and only to more. Nothing but the end of
# the loop may depend on it: schedules have lengths of their own.
EXTENDABLE = "num_steps"
# Where and in what portions a run goes on is not what it is: keys that begin so may
# differ at every start.
PLACES = (
    "mesh.",
    "engine.",
    "checkpoint.",
    "env.workers",
    "env.timeout_s",
    "env.max_attempts",
    "env.max_failed_groups",
    "eval.max_failed_share",
    "rollout.concurrency",
    "policy.attention",
    "policy.reference",
    "policy.remat",
    "policy.logprob_chunk",
    "grpo.tokens_per_microbatch",
    "report.",
)


@dataclass(frozen=True)
class Workdir:
    """The places of one run; making the object touches no file."""

    root: Path

    @property
    def config(self) -> Path:
        """The configuration that the run was started with."""
        return self.root / "config.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per step and phase."""
        return self.root / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One directory per saved step."""
        return self.root / "checkpoints"

    @property
    def panels(self) -> Path:
        """What the columns of evaluated splits are means of."""
        return self.root / "panels.json"

    @property
    def trial(self) -> Path:
        """How trials run, and what is expected of them."""
        return self.root / "trial.json"

    @property
    def trials(self) -> Path:
        """Every decided trial, one JSON line each."""
        return self.root / "trials.jsonl"

    @property
    def first_bank(self) -> Path:
        """The skill bank that the run began with, where its method has one."""
        return self.root / "first_bank.json"

    @property
    def on_trial(self) -> Path:
        """The candidates that were on trial after the newest step."""
        return self.root / "on_trial.json"

    @property
    def skills(self) -> Path:
        """The skill library, one directory per skill."""
        return self.root / "skills"

    @property
    def library(self) -> Path:
        """What the accepted context writes for people, where it is no bank."""
        return self.root / "library"

    @property
    def episodes(self) -> Path:
        """Played episodes."""
        return self.root / "episodes"

    @property
    def creator_calls(self) -> Path:
        """Every call to a language model, one JSON line each."""
        return self.root / "creator" / "calls.jsonl"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Make the directory and hold it for writing.

        The kernel frees the lock when the process ends, also by kill -9.

        Raises:
            BlockingIOError: another process holds it.
            OSError: it cannot be written.
        """
        with ExitStack() as resources:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                file = resources.enter_context((self.root / "lock").open("a+"))
                self._take(file)
            except BlockingIOError:
                raise
            except OSError as error:
                raise type(error)(
                    f"workdir={str(self.root)!r} cannot be written: "
                    f"{error.strerror or error}: make room and give this user the "
                    "right to write there, or choose another --workdir"
                ) from error
            yield

    def _take(self, file: TextIO) -> None:
        """Lock the file and write into it who holds it."""
        if holder := other_holder(file):
            raise BlockingIOError(
                f"workdir={str(self.root)!r}: the workdir is in use by process "
                f"{holder}: wait for it, stop it, or choose another --workdir"
            )

    def bind(self, config: Mapping[str, Any]) -> None:
        """Write the configuration at the first start, compare with it at later ones.

        A larger top-level `num_steps` is taken over, and whatever is in `PLACES`: the
        run goes on for longer, or on other devices.

        Args:
            config: nested, of JSON types; tuples count as lists.

        Raises:
            ValueError: see `check`.
        """
        self.check(config)
        text = json.dumps(plain(config, "config"), indent=2, sort_keys=True)
        write_text(self.config, text + "\n")

    def check(self, config: Mapping[str, Any]) -> None:
        """Compare the configuration with that of earlier starts, see `bind`.

        Raises:
            ValueError: the run was started with another configuration; the message
                lists the keys with both values. Or nobody can tell with which, or
                checkpoints could not be written.
        """
        config = plain(config, "config")
        if os.path.lexists(self.checkpoints) and not self.checkpoints.is_dir():
            raise ValueError(
                f"{self.checkpoints} is no directory: remove it, mend the link, or "
                "choose another --workdir"
            )
        if not self.config.exists() and any(self.checkpoints.glob("[0-9]*")):
            raise ValueError(
                f"{self.config} is missing, and {self.checkpoints} holds the state of "
                "a run: restore the file or choose another --workdir"
            )
        if self.config.exists():
            wanted = flatten(config)
            stored = flatten(self.read_config())
            if _extends(stored.get(EXTENDABLE), wanted.get(EXTENDABLE)):
                stored[EXTENDABLE] = wanted[EXTENDABLE]
            stored |= {k: v for k, v in wanted.items() if k.startswith(PLACES)}
            if stored != wanted:
                raise ValueError(_mismatch(self.config, stored, wanted))

    def read_config(self) -> dict[str, Any]:
        """Return the configuration of the run.

        Raises:
            FileNotFoundError: no run was started here.
            ValueError: the file is damaged.
        """
        if not self.config.exists():
            raise FileNotFoundError(
                f"{self.root} holds no run ({self.config.name} is missing): check "
                "the path, or start a run there with --mode=train"
            )
        try:
            return read_json(self.config)
        except ValueError as error:
            raise ValueError(
                f"{error}: restore the file or choose another --workdir"
            ) from error


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted keys; an empty dict stays a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def differences(
    stored: Mapping[str, Any], wanted: Mapping[str, Any], free: tuple[str, ...] = ()
) -> list[str]:
    """Return a line for each key in which two flat configurations differ.

    Args:
        stored: that of a run.
        wanted: the one of now.
        free: beginnings of keys that may differ.
    """
    absent = object()
    lines = []
    for key in sorted(stored.keys() | wanted.keys()):
        old, new = stored.get(key, absent), wanted.get(key, absent)
        if old != new and not key.startswith(free):
            shown = ["absent" if v is absent else json.dumps(v) for v in (old, new)]
            lines.append(f"  config.{key}: {shown[0]} there, {shown[1]} now")
    return lines


def _extends(stored: Any, wanted: Any) -> bool:
    return isinstance(stored, int) and isinstance(wanted, int) and wanted > stored


def _mismatch(path: Path, stored: dict[str, Any], wanted: dict[str, Any]) -> str:
    lines = [f"this run was started with another configuration, see {path}:"]
    lines += differences(stored, wanted)
    if unlike := sorted(stored.keys() ^ wanted.keys()):
        lines.append(
            f"Keys that are absent on one side (config.{unlike[0]}) come of another "
            "version of this program or another env.name: only the version that began "
            "the run resumes it. This one looks at it (--mode=show, report, evaluate, "
            "export); what --mode=export writes can start a new run, by "
            "--config.policy.path and --config.strategy.bank."
        )
    lines.append(
        "Give the run its own values to resume it, or choose another --workdir. Only "
        f"config.{EXTENDABLE} may grow, and keys change that begin with one of these: "
        f"{', '.join(PLACES)}"
    )
    return "\n".join(lines)
