"""InterCode-SQL, as the core knows it."""

from collections.abc import Callable
from functools import cache, partial

from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.sql.action_format import SqlFormat
from reskill_jax.environments.sql.environment import SqlEnvironment
from reskill_jax.environments.sql.packing import packed
from reskill_jax.environments.sql.prepare import Prepared, prepare
from reskill_jax.environments.sql.rules import TABLE
from reskill_jax.environments.sql.settings import Settings
from reskill_jax.environments.sql.tasks import panel
from reskill_jax.environments.sql.wordings import WORDINGS
from reskill_jax.environments.tfds import read

__all__ = ["Settings", "load"]


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    """Describe InterCode-SQL; data is prepared when a panel is first asked for.

    Args:
        settings: where the data is, and how much is shown.
        workers: not needed, preparing takes a second.
    """
    data = cache(partial(prepare, settings.root, sample=settings.sample))
    return EnvironmentSpec(
        panel=partial(_panel, settings.source, data),
        content=packed,
        make=partial(
            SqlEnvironment,
            show_schema=settings.show_schema,
            characters=settings.observation_characters,
        ),
        action_format=SqlFormat(),
        wordings=WORDINGS,
        rules=TABLE,
    )


def _panel(
    source: str, data: Callable[[], Prepared], split: str, limit: int | None
) -> TaskPanel:
    if source:
        return TaskPanel(evenly_spaced(read(source, split), limit))
    return panel(data(), split, limit)
