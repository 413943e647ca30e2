"""Search by meaning: inner products of sentence embeddings, all of them compared.

The embeddings of a file of passages are computed once and kept in the cache, under a
hash of the model and of the passages.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from reskill_jax.environments.search.encoder import Encoder
from reskill_jax.storage import cache_directory, replaced

_log = logging.getLogger(__name__)
_ROWS = 32  # passages per call
_PART = 1024  # passages per file of the cache: what an interruption costs at most


class Dense:
    """Finds passages whose embeddings are nearest to the query's.

    Args:
        contents: the passages.
        encoder: directory of the model.
    """

    def __init__(self, contents: Sequence[str], encoder: Path):
        self._encoder = Encoder(encoder)
        self._embeddings = _embeddings(contents, encoder, self._encoder)  # [N, D]

    def search(self, query: str, top_k: int) -> list[tuple[int, float]]:
        """Return places of passages with their cosines, the best first.

        Of equal ones the passage that comes first in the file is first.
        """
        scores = self._embeddings @ self._encoder([query], rows=1)[0]
        found = []
        for _ in range(min(top_k, len(scores))):
            place = int(scores.argmax())
            found.append((place, float(scores[place])))
            scores[place] = -np.inf
        return found


def _embeddings(
    contents: Sequence[str], directory: Path, encoder: Encoder
) -> np.ndarray:
    """Return float32 [N, D], computed or from the cache."""
    model = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    cache = cache_directory() / "embeddings"
    parts = []
    starts = range(0, len(contents), _PART)
    # Mostly a minute per thousand passages on two cores.
    for start in tqdm(starts, "embedding passages", unit="k", disable=len(starts) < 2):
        texts = contents[start : start + _PART]
        digest = hashlib.sha256("\0".join([model, *texts]).encode()).hexdigest()[:24]
        path = cache / f"{digest}.npy"
        kept = _load(path)
        parts.append(_encode(texts, encoder) if kept is None else kept)
        if kept is None:
            # Processes that start together do the same work; the last one's file stays.
            with replaced(path) as made:
                np.save(made, parts[-1])
    return np.concatenate(parts)


def _load(path: Path) -> np.ndarray | None:
    """Return what is in the cache; None: nothing is, or it is damaged."""
    try:
        found: np.ndarray = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError, OSError) as error:
        _log.warning("%s is damaged (%s): it is made again", path, error)
        return None
    return found


def _encode(texts: Sequence[str], encoder: Encoder) -> np.ndarray:
    """Encode passages, those of similar lengths together."""
    order = sorted(range(len(texts)), key=lambda i: encoder.length(texts[i]))
    rows = []
    for start in range(0, len(order), _ROWS):
        rows.append(encoder([texts[i] for i in order[start : start + _ROWS]], _ROWS))
    embeddings = np.empty((len(texts), rows[0].shape[1]), np.float32)
    embeddings[order] = np.concatenate(rows)
    return embeddings
