"""The configuration of a run as a configuration file, so that flags can change it.

    --config=reskill_jax/stored_config.py:runs/a --config.eval.max_tasks=10

`main` adds the first of these by itself in modes that look at a run. A run that began
before a key was there is looked at with the key's default of today, and says so.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from reskill_jax import defaults
from reskill_jax.command_line import given_flags
from reskill_jax.modules import ModuleError
from reskill_jax.storage import plain
from reskill_jax.terminal import printable
from reskill_jax.workdir import PLACES, Workdir, differences, flatten

FREE = (*PLACES, "eval.")  # what may differ when a run is evaluated or exported
# What a run is: every run has had these keys. One without them is damaged, not old.
_TELLING = ("env.name", "policy.path", "strategy.name", "num_steps", "seed")
# Only training depends on these.
_TRAINING = ("grpo.", "trial.", "creator.", "strategy.", "meter.", "report.")
_LEFT_OUT = ("grpo.", "trial.")  # where a key that is no more is no obstacle to looking


class Completed(NamedTuple):
    """The configuration of a run with the keys of today.

    Attributes:
        config: nested.
        added: keys that the run began without, and their defaults.
        dropped: keys that are no more and that only training would need.
    """

    config: dict[str, Any]
    added: dict[str, Any]
    dropped: dict[str, Any]

    @property
    def note(self) -> str:
        """What was added and left out, in a line; empty if nothing was."""
        parts = []
        if self.added:
            words = [
                f"config.{key}={json.dumps(value)}"
                for key, value in sorted(self.added.items())
                if not key.startswith(_TRAINING)
            ]
            if more := len(self.added) - len(words):
                words.append(f"{more} that only training needs")
            parts.append(f"keys that it lacks have their defaults: {', '.join(words)}")
        if self.dropped:
            words = [f"config.{key}" for key in sorted(self.dropped)]
            parts.append(f"keys that are no more are left out: {', '.join(words)}")
        start = "the run began with another version of this program: "
        return printable(start + "; ".join(parts)) if parts else ""


def complete(stored: Mapping[str, Any]) -> Completed:
    """Give a run's configuration the keys that have come since it began.

    Args:
        stored: the configuration as the run began with it, nested.

    Returns:
        What modes that look at a run may use. It is as stored where it does not tell
        what the run is, its environment is not known, or it has a value where today
        there is a section: then it cannot be used.
    """
    flat = flatten(stored)
    as_it_is = Completed(dict(stored), {}, {})
    if any(key not in flat for key in _TELLING):
        return as_it_is
    try:
        now = defaults.get_config(flat["env.name"])
    except (ValueError, ModuleError):  # validation names it, and says what is wrong
        return as_it_is
    wanted = flatten(json.loads(now.to_json()))
    values = [key for key, value in flat.items() if value != {}]
    if any(key.startswith(f"{value}.") for value in values for key in wanted):
        return as_it_is
    added = {key: value for key, value in wanted.items() if key not in flat}
    dropped = {
        key: value
        for key, value in flat.items()
        if key not in wanted and key.startswith(_LEFT_OUT)
    }
    kept = {key: value for key, value in flat.items() if key not in dropped}
    return Completed(_nested(kept | added), added, dropped)


def get_config(root: str) -> ConfigDict:
    """Return the configuration of the run in a workdir, locked."""
    config = ConfigDict(_tuples(complete(Workdir(Path(root)).read_config()).config))
    config.lock()
    return config


def add_stored_config(argv: Sequence[str]) -> list[str]:
    """Let the flags of a mode that looks at a run change the run's configuration.

    Where that lacks keys of today, it is said which, in a line to stderr.
    """
    given = given_flags(argv)
    looks = given.get("mode") in ("evaluate", "export", "doctor")
    if not looks or "config" in given or not given.get("workdir"):
        return list(argv)
    try:
        stored = Workdir(Path(given["workdir"])).read_config()
    except (ValueError, OSError):
        return list(argv)  # `main` reads it again, and says what is wrong
    if note := complete(stored).note:
        print(note, file=sys.stderr, flush=True)
    loader = Path(__file__)
    return [argv[0], f"--config={loader}:{given['workdir']}", *argv[1:]]


def check_changes(config: ConfigDict, workdir: Workdir) -> None:
    """Refuse what would make it another run.

    Raises:
        ValueError: names the keys with both values.
    """
    stored = flatten(complete(workdir.read_config()).config)
    wanted = flatten(plain(config.to_dict(), "config"))
    if changed := differences(stored, wanted, FREE):
        raise ValueError(
            "a run is looked at as it is: only keys that begin with one of "
            f"{', '.join(FREE)} may be changed:\n" + "\n".join(changed)
        )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `workdir.flatten`."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *path, last = key.split(".")
        place = tree
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return tree


def _tuples(value: Any) -> Any:
    """Turn the lists of JSON back into tuples, which flags are parsed to."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
