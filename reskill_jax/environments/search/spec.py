"""Search QA, as the core knows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

from reskill_jax.environments.action_format import TaggedFormat
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.search.client import RetrieverClient
from reskill_jax.environments.search.environment import SearchEnvironment
from reskill_jax.environments.search.files import read_questions
from reskill_jax.environments.search.panels import panel, read_panel
from reskill_jax.environments.search.rules import TABLE
from reskill_jax.environments.search.server import running
from reskill_jax.environments.search.settings import BM25, LOCAL, Settings
from reskill_jax.environments.search.wordings import TAGS, WORDINGS
from reskill_jax.modules import missing

__all__ = ["Settings", "load"]

ACTION_FORMAT = TaggedFormat(TAGS, single=True)


def load(settings: Settings, *, workers: int) -> EnvironmentSpec:
    """Describe Search QA; files are read when they are first needed.

    Args:
        settings: what is asked, and who searches.
        workers: not used; nothing here computes.

    Raises:
        ValueError: the retriever needs packages that are not installed.
    """
    needs = missing("search", "bm25s", "Stemmer") if settings.retriever == BM25 else ""
    if needs:
        raise ValueError(f"retriever={BM25!r} {needs}")
    client = RetrieverClient(
        settings.retriever,
        timeout_s=settings.request_timeout_s,
        attempts=settings.request_attempts,
    )
    return EnvironmentSpec(
        panel=partial(read_panel, settings.source)
        if settings.source
        else partial(panel, cache(partial(read_questions, settings.questions))),
        make=partial(
            SearchEnvironment,
            partial(client.search, top_k=settings.top_k),
            passage_characters=settings.passage_characters,
        ),
        action_format=ACTION_FORMAT,
        wordings=WORDINGS,
        rules=TABLE,
        remote=True,
        service=partial(_service, settings, client),
    )


@contextmanager
def _service(settings: Settings, client: RetrieverClient) -> Iterator[None]:
    """Run the retriever of this process where there is no other."""
    if settings.retriever not in LOCAL:
        yield
        return
    own = running(settings.retriever, settings.passages, settings.encoder)
    with own as client.url:
        yield
