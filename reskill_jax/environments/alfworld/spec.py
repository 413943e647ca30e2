"""ALFWorld, as the core knows it."""

from collections.abc import Callable
from functools import cache, partial

from reskill_jax.environments.alfworld.environment import (
    ACTION_FORMAT,
    COLUMNS,
    AlfworldEnvironment,
    find_games,
    game_content,
)
from reskill_jax.environments.alfworld.rules import TABLE
from reskill_jax.environments.alfworld.settings import Settings
from reskill_jax.environments.alfworld.wordings import WORDINGS
from reskill_jax.environments.panels import TaskPanel, evenly_spaced, hold_out
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.tfds import read, splits

__all__ = ["Settings", "load"]


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    """Describe ALFWorld; houses are built when a panel is first asked for.

    Args:
        settings: where games are, or which houses to build.
        workers: processes that build.
    """
    root = cache(partial(_root, settings, workers))
    return EnvironmentSpec(
        panel=partial(_panel, root, settings),
        content=game_content,
        make=AlfworldEnvironment,
        action_format=ACTION_FORMAT,
        wordings=WORDINGS,
        rules=TABLE,
    )


def _panel(
    root: Callable[[], str | None], settings: Settings, split: str, limit: int | None
) -> TaskPanel:
    # A task set with a split dev has it held out already: its train is without it.
    held_out = bool(settings.source) and "dev" in splits(settings.source)
    if split == "dev" and not settings.dev and not held_out:
        raise ValueError("dev=0: set env.dev, the number of games that are held out")
    stored = "train" if split == "dev" and not held_out else split
    if settings.source:
        tasks = read(settings.source, stored)
    else:
        tasks = find_games(root(), stored)
    if stored == "train" and not held_out:
        train, dev = hold_out(tasks, settings.dev)
        tasks = dev if split == "dev" else train
    kinds = settings.kinds_of(split)
    tasks = [task for task in tasks if task.kind in kinds]
    if not tasks:
        name = "kinds" if split == "train" else "eval_kinds"
        raise ValueError(
            f"{name}={getattr(settings, name)!r}: {split} has no task of these kinds"
        )
    return TaskPanel(evenly_spaced(tasks, limit), COLUMNS)


def _root(settings: Settings, workers: int) -> str | None:
    """Return the folder of games, building houses first where they are asked for."""
    if settings.root or not settings.houses:
        return settings.root or None
    # The extra `alfworld` is needed only where houses are built.
    from reskill_jax.environments.alfworld.games import cached_houses  # noqa: PLC0415

    folder = cached_houses(
        settings.houses,
        train=settings.houses_train,
        held_out=settings.houses_eval,
        seed=settings.houses_seed,
        workers=workers,
    )
    return str(folder)
