"""ALFWorld, as the core knows it."""

from collections.abc import Callable
from functools import cache, partial

from reskill_jax.environments.alfworld.environment import (
    ACTION_FORMAT,
    COLUMNS,
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.rules import TABLE
from reskill_jax.environments.alfworld.settings import Settings
from reskill_jax.environments.alfworld.wordings import WORDINGS
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.protocol import EnvironmentSpec

__all__ = ["Settings", "load"]


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    """Describe ALFWorld; houses are built when a panel is first asked for.

    Args:
        settings: where games are, or which houses to build.
        workers: processes that build.
    """
    root = cache(partial(_root, settings, workers))
    return EnvironmentSpec(
        panel=partial(_panel, root, settings.dev),
        make=AlfworldEnvironment,
        action_format=ACTION_FORMAT,
        wordings=WORDINGS,
        rules=TABLE,
    )


def _panel(
    root: Callable[[], str | None], dev: int, split: str, limit: int | None
) -> TaskPanel:
    games = find_games(root(), split, limit=limit, dev=dev)
    return TaskPanel(tuple(games), COLUMNS)


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
