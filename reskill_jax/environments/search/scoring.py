"""How answers are scored: exact match and F1, after the usual normalisation.

Exact match is what the paper reports; the normalisation is that of SQuAD, which all
seven sets use.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower the case, remove punctuation and English articles, collapse blanks.

    What would vanish altogether ("The", "!") is only lowered and collapsed.
    """
    lowered = text.lower()
    kept = _ARTICLES.sub(" ", lowered.translate(_PUNCTUATION)).split()
    return " ".join(kept or lowered.split())


def exact_match(answer: str, golds: Iterable[str]) -> bool:
    """Tell whether an answer equals one of the right ones, both normalised."""
    given = normalise(answer)
    return bool(given) and any(given == normalise(gold) for gold in golds)


def f1(answer: str, golds: Iterable[str]) -> float:
    """Return the best harmonic mean of the words' precision and recall, 0 to 1."""
    return max((_f1(answer, gold) for gold in golds), default=0.0)


def _f1(answer: str, gold: str) -> float:
    given, wanted = normalise(answer).split(), normalise(gold).split()
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0
