"""Environments by name: the one place that lists them.

A module of an environment has

    Settings    a frozen dataclass: its own keys of the section `env`, with defaults;
                a value that it refuses is a ValueError that names it
    load(settings, *, workers) -> EnvironmentSpec

A name that is not listed is the dotted name of such a module, e.g. ``my_lab.chess``.
"""

import importlib
from types import ModuleType

ENVIRONMENTS = {"alfworld": "reskill_jax.environments.alfworld.spec"}


def environment_module(name: str) -> ModuleType:
    """Import the module of an environment.

    Raises:
        ValueError: there is no such module, or it lacks `Settings` or `load`.
    """
    path = ENVIRONMENTS.get(name, name)
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the module is there, and something that it needs is not
        raise ValueError(
            f"name={name!r}: no such environment; choose one of {list(ENVIRONMENTS)}, "
            "or give the dotted name of a module that can be imported"
        ) from error
    for part in ("Settings", "load"):
        if not hasattr(module, part):
            raise ValueError(f"name={name!r}: the module {path} has no {part}")
    return module
