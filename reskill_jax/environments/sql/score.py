"""How near a result is to the one that was asked for (InterCode, section 3.3).

The score is the overlap of the two results as bags of rows, times the agreement of the
order in which their common rows come:

    score = |agent & gold| / |agent | gold|  x  tau

A row is what Python writes for it, so that 1 and 1.0, or other columns, or the same
columns in another order, are other rows; names of columns do not count. tau is
Kendall's: 1 for the same order, -1 for the reverse, and so can the score be negative.
Equal rows are told apart by which of them comes first. With fewer than two common rows
there is no order, and the overlap is the score; two empty results score 1.

The score is 1 exactly where bag and order are the same. InterCode's own program agrees
on that, and on all other values where the gold rows are sorted as text; elsewhere it
correlates the texts of rows in place of their positions, so that one exchanged pair may
count like a reversal. It also rounds to two digits, by which a result with one wrong
row in 400 would become right; this does not.
"""

from bisect import bisect_right, insort
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence


def score(agent: Iterable[Sequence[object]], gold: Iterable[Sequence[object]]) -> float:
    """Compare two results.

    Args:
        agent: rows of the result to be scored, in order.
        gold: rows of the result that was asked for, in order.

    Returns:
        A number from -1 to 1; 1 where both have the same rows in the same order.
    """
    rows, wanted = [str(tuple(r)) for r in agent], [str(tuple(r)) for r in gold]
    union = (Counter(rows) | Counter(wanted)).total()
    if not union:
        return 1.0
    positions = _common_positions(rows, wanted)
    return len(positions) / union * _tau(positions)


def _common_positions(rows: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Return where the common rows stand in `wanted`, in the order of `rows`."""
    places: dict[str, deque[int]] = defaultdict(deque)
    for place, row in enumerate(wanted):
        places[row].append(place)
    return [places[row].popleft() for row in rows if places[row]]


def _tau(ranks: Sequence[int]) -> float:
    """Return Kendall's tau of distinct ranks and their order; 1 for fewer than two."""
    pairs = len(ranks) * (len(ranks) - 1) // 2
    if not pairs:
        return 1.0
    discordant = 0
    seen: list[int] = []
    for rank in ranks:
        discordant += len(seen) - bisect_right(seen, rank)
        insort(seen, rank)
    return 1 - 2 * discordant / pairs
