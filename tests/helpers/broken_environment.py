"""The corridor with a bug that only process 1 of a run meets; see `test_main`."""

import sys

from corridor_environment import Settings
from corridor_environment import load as load_corridor

from reskill_jax.environments.protocol import EnvironmentSpec

__all__ = ["Settings", "load"]


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    if "--process=0" not in sys.argv:
        raise KeyError("a bug \ud83d\x1b[2J")
    return load_corridor(settings, workers=workers)
