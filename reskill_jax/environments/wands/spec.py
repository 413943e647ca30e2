"""WANDS, as the core knows it."""

import logging
from functools import cache, partial

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.wands.environment import WandsEnvironment
from reskill_jax.environments.wands.files import Catalogue, parse, read_catalogue
from reskill_jax.environments.wands.panels import panel, read_panel
from reskill_jax.environments.wands.rules import TABLE
from reskill_jax.environments.wands.settings import Settings
from reskill_jax.environments.wands.synthetic import synthetic_files
from reskill_jax.environments.wands.wordings import TAGS, WORDINGS

__all__ = ["Settings", "load"]

ACTION_FORMAT = TaggedFormat(TAGS, single=True)
_log = logging.getLogger(__name__)


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    """Describe WANDS; files are read when a panel is first asked for.

    Args:
        settings: where the products come from, and how much is shown.
        workers: not needed, reading takes seconds.
    """
    if settings.source:
        panels = partial(read_panel, settings.source, settings.kinds)
    else:
        published = partial(read_catalogue, settings.root)
        read = cache(_synthetic if settings.synthetic else published)
        panels = partial(panel, read, settings.kinds, settings.synthetic)
    return EnvironmentSpec(
        panel=panels,
        make=partial(WandsEnvironment, characters=settings.observation_characters),
        action_format=ACTION_FORMAT,
        wordings=WORDINGS,
        rules=TABLE,
    )


def _synthetic() -> Catalogue:
    _log.warning("synthetic products and queries: no figure of them is one of WANDS")
    files = synthetic_files()
    return parse({name: text.splitlines() for name, text in files.items()})
