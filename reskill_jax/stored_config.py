"""The configuration of a run as a configuration file, so that flags can change it.

    --config=reskill_jax/stored_config.py:runs/a --config.eval.max_tasks=10

`main` adds the first of these by itself in modes that look at a run.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from reskill_jax.command_line import given_flags
from reskill_jax.workdir import PLACES, Workdir, flatten

FREE = (*PLACES, "eval.")  # what may differ when a run is evaluated or exported


def get_config(root: str) -> ConfigDict:
    """Return the configuration of the run in a workdir, locked."""
    config = ConfigDict(_tuples(Workdir(Path(root)).read_config()))
    config.lock()
    return config


def add_stored_config(argv: Sequence[str]) -> list[str]:
    """Let the flags of a mode that looks at a run change the run's configuration."""
    given = given_flags(argv)
    looks = given.get("mode") in ("evaluate", "export", "doctor")
    if not looks or "config" in given or not given.get("workdir"):
        return list(argv)
    try:
        Workdir(Path(given["workdir"])).read_config()
    except (ValueError, OSError):
        return list(argv)  # `main` reads it again, and says what is wrong
    loader = Path(__file__)
    return [argv[0], f"--config={loader}:{given['workdir']}", *argv[1:]]


def check_changes(config: ConfigDict, workdir: Workdir) -> None:
    """Refuse what would make it another run.

    Raises:
        ValueError: names the keys with both values.
    """
    stored = flatten(_tuples(workdir.read_config()))
    wanted = flatten(config.to_dict())
    changed = [
        f"config.{key}={wanted.get(key)!r}, the run has {stored.get(key)!r}"
        for key in sorted(stored.keys() | wanted.keys())
        if stored.get(key) != wanted.get(key) and not key.startswith(FREE)
    ]
    if changed:
        raise ValueError(
            "a run is looked at as it is: only keys that begin with one of "
            f"{', '.join(FREE)} may be changed:\n  " + "\n  ".join(changed)
        )


def _tuples(value: Any) -> Any:
    """Turn the lists of JSON back into tuples, which flags are parsed to."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
