"""Search by words: BM25 (Robertson), an index in memory, always the same answer."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

K1, B = 1.5, 0.75  # the library's defaults: saturation of counts, weight of lengths


class Bm25:
    """Finds passages that share words with a query.

    Args:
        contents: the passages; titles count like text.

    Raises:
        ValueError: no passage has a word that can be searched for.
    """

    def __init__(self, contents: Sequence[str]):
        bm25s, stemmer = _libraries()
        self._bm25s, self._stemmer = bm25s, stemmer
        self._index = bm25s.BM25(k1=K1, b=B)
        # Progress is shown where it takes long: a million passages take two minutes.
        progress = len(contents) > 50_000
        tokens = self._tokenize(contents, ids=True, progress=progress)
        if not any(tokens.ids):
            raise ValueError(
                f"none of {len(contents)} passages has a word to search for: words of "
                "one letter and English stop words (the, of, ..) do not count"
            )
        self._index.index(tokens, show_progress=progress)

    def search(self, query: str, top_k: int) -> list[tuple[int, float]]:
        """Return places of passages with their scores, the best first.

        Of equal scores the passage that comes first in the file is first. Passages
        that share no word with the query are not returned, however few there are.
        """
        [words] = self._tokenize([query], ids=False)
        known = [word for word in words if word in self._index.vocab_dict]
        if not known:  # the library refuses a query without words
            return []
        scores = np.array(self._index.get_scores(known))
        found = []
        for _ in range(min(top_k, len(scores))):
            place = int(scores.argmax())
            if scores[place] <= 0:
                break
            found.append((place, float(scores[place])))
            scores[place] = 0
        return found

    def _tokenize(
        self, texts: Sequence[str], *, ids: bool, progress: bool = False
    ) -> Any:
        return self._bm25s.tokenize(
            list(texts),
            stopwords="en",
            stemmer=self._stemmer,
            return_ids=ids,
            show_progress=progress,
        )


def _libraries() -> tuple[ModuleType, Any]:
    """Import bm25s without JAX, whose backend it would start, and take the device.

    Raises:
        ModuleNotFoundError: the extra is not installed.
    """
    hidden = {name: sys.modules.get(name) for name in ("jax", "jax.lax")}
    sys.modules |= dict.fromkeys(hidden)  # type: ignore[arg-type]  # None: not there
    try:
        import bm25s  # noqa: PLC0415
        import Stemmer  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error}: BM25 needs the extra search: pip install 'reskill_jax[search]'"
        ) from error
    finally:
        for name, module in hidden.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module
    return bm25s, Stemmer.Stemmer("english")
