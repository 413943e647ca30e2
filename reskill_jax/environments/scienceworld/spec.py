"""ScienceWorld, as the core knows it."""

from functools import partial

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.scienceworld.environment import (
    ACTION_FORMAT,
    ScienceWorldEnvironment,
)
from reskill_jax.environments.scienceworld.rules import TABLE
from reskill_jax.environments.scienceworld.settings import Settings
from reskill_jax.environments.scienceworld.tasks import chosen, panel, share_out
from reskill_jax.environments.scienceworld.wordings import WORDINGS
from reskill_jax.environments.tfds import read

__all__ = ["Settings", "load"]


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    """Describe ScienceWorld; Java starts in the workers only.

    Args:
        settings: which tasks.
        workers: not needed, nothing has to be prepared.
    """
    return EnvironmentSpec(
        panel=partial(_panel, settings),
        make=partial(ScienceWorldEnvironment, heap_mb=settings.heap_mb),
        action_format=ACTION_FORMAT,
        wordings=WORDINGS,
        rules=TABLE,
    )


def _panel(settings: Settings, split: str, limit: int | None) -> TaskPanel:
    if settings.source:
        return share_out(read(settings.source, split), limit)
    names, unseen = chosen(settings.tasks, settings.unseen)
    return panel(
        names,
        unseen,
        split,
        limit,
        simplifications=settings.simplifications,
        per_task=settings.per_task,
    )
