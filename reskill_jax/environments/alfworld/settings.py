"""ALFWorld's own keys of the section `env`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Where games are, or which houses to build."""

    root: str = ""
    houses: str = ""
    houses_train: int = 0
    houses_eval: int = 0
    houses_seed: int = 0
