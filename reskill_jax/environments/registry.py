"""Environments by name: the one place that lists them.

A module of an environment has

    Settings    a frozen dataclass: its own keys of the section `env`, with defaults;
                a value that it refuses is a ValueError that names it
    load(settings, *, workers) -> EnvironmentSpec

A name that is not listed is the dotted name of such a module, e.g. ``my_lab.chess``.
"""

from types import ModuleType

from reskill_jax.modules import find_module

ENVIRONMENTS = {
    "alfworld": "reskill_jax.environments.alfworld.spec",
    "scienceworld": "reskill_jax.environments.scienceworld.spec",
    "search": "reskill_jax.environments.search.spec",
    "sql": "reskill_jax.environments.sql.spec",
    "wands": "reskill_jax.environments.wands.spec",
}
# Keys of the section `env` that all environments share; their modules do not get them.
SHARED_KEYS = ("name", "workers", "timeout_s", "max_attempts", "max_failed_groups")


def environment_module(name: str) -> ModuleType:
    """Import the module of an environment.

    Raises:
        ValueError: there is no such module, or it lacks `Settings` or `load`.
    """
    return find_module(
        name, ENVIRONMENTS, kind="environment", needs=("Settings", "load")
    )
