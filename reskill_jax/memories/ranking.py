"""Ranks texts by the words that they share with a query (BM25)."""

import math
import re
from collections import Counter
from collections.abc import Sequence

K1, B = 1.2, 0.75  # BM25's usual constants

_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Return the lower-case words of a text."""
    return _WORD.findall(text.lower())


def bm25(query: str, documents: Sequence[str]) -> list[float]:
    """Score documents by Okapi BM25.

    The weight of a word is ln(1 + (N - n + 0.5) / (n + 0.5)), which is never negative;
    n of the N documents hold it. Every different word of the query counts once.

    Returns:
        One score per document, 0 where no word is shared.
    """
    counts = [Counter(words(document)) for document in documents]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
    total = len(documents)
    scores = [0.0] * total
    for word in sorted(set(words(query))):
        holding = sum(word in count for count in counts)
        weight = math.log(1 + (total - holding + 0.5) / (holding + 0.5))
        for place, count in enumerate(counts):
            if frequency := count[word]:
                norm = 1 - B + B * lengths[place] / mean
                scores[place] += weight * frequency * (K1 + 1) / (frequency + K1 * norm)
    return scores


def best(scores: Sequence[float], count: int, least: float = -math.inf) -> list[int]:
    """Return the places of the highest scores that are at least `least`.

    Of equal scores the first place comes first.
    """
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    return [place for place in order[:count] if scores[place] >= least]
