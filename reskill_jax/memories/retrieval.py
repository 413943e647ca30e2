"""Finds entries of a memory by the similarity of texts."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.llm.embedders import Embedder
from reskill_jax.llm.retry import CallError


async def similarities(
    embedder: Embedder, query: str, texts: Sequence[str]
) -> NDArray[np.float64]:
    """Return the cosine of a query with every text, for the start of an episode.

    Args:
        embedder: remembers the vectors of texts that it was asked about before.
        query: what is looked for.
        texts: of the entries.

    Returns:
        float64 [len(texts)], to six decimals: beyond those, machines differ.

    Raises:
        EpisodeLostError: the embedder's service does not answer.
    """
    if not texts:
        return np.zeros(0)
    try:
        vectors = await embedder.embed([query, *texts])
    except CallError as error:
        raise EpisodeLostError(f"the embedder {embedder.name}: {error}") from error
    return cosines(vectors[:1], vectors[1:])[0]


def cosines(
    first: NDArray[np.float32], second: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the cosines of rows of length one, [len(first), len(second)]."""
    found: NDArray[np.float64] = first.astype(np.float64) @ second.astype(np.float64).T
    return np.round(found, 6)


def top(
    scores: NDArray[np.float64], ids: Sequence[str], k: int, threshold: float
) -> list[int]:
    """Return the places of the `k` highest scores above a threshold, the best first.

    Equal ones are ordered by id, so that the order of entries does not matter.
    """
    order = sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
    return [i for i in order if scores[i] > threshold][:k]
