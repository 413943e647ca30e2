"""The score: bounds, symmetry, permutations, and the program of InterCode."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.environments.sql.score import score

VALUES = st.one_of(st.none(), st.integers(-2, 2), st.sampled_from(["a", "b"]))
ROWS = st.lists(st.tuples(VALUES, st.integers(0, 1)), max_size=7)
DISTINCT = st.lists(st.tuples(st.integers(0, 9)), max_size=8, unique=True)


@pytest.mark.parametrize(
    ("agent", "gold", "wanted"),
    [
        ([], [], 1),
        ([], [(1,)], 0),
        ([(1,)], [], 0),
        ([(1,)], [(1,)], 1),
        ([(1,), (2,)], [(2,)], 1 / 2),  # one common row has no order
        ([(1,), (1,)], [(1,)], 1 / 2),  # bags: how often counts
        ([(1,), (1,)], [(1,), (1,)], 1),
        ([(1,), (2,)], [(2,), (1,)], -1),  # the reverse
        ([(1,), (3,), (2,)], [(1,), (2,), (3,)], 1 / 3),
        ([(9,), (1,), (2,)], [(2,), (1,)], -2 / 3),
        ([(1,)], [(1.0,)], 0),  # rows are texts
        ([("1",)], [(1,)], 0),
        ([(1, "a")], [("a", 1)], 0),  # columns have an order
        ([(None,)], [("None",)], 0),
    ],
)
def test_by_hand(agent, gold, wanted):
    assert score(agent, gold) == pytest.approx(wanted)


def test_one_wrong_row_of_a_thousand_is_no_success():
    rows = [(i,) for i in range(1000)]
    assert 0.99 < score([*rows[:-1], (-1,)], rows) < 1
    assert score([*rows[:-2], rows[-1], rows[-2]], rows) < 1


@given(ROWS, ROWS)
def test_is_bounded_by_the_overlap_and_symmetric(agent, gold):
    union = Counter(map(str, agent)) | Counter(map(str, gold))
    common = Counter(map(str, agent)) & Counter(map(str, gold))
    overlap = common.total() / union.total() if union else 1
    assert -overlap <= score(agent, gold) <= overlap <= 1
    assert score(agent, gold) == pytest.approx(score(gold, agent))


@given(ROWS, ROWS)
def test_is_one_for_the_same_result_only(agent, gold):
    assert score(gold, gold) == 1
    assert (score(agent, gold) == 1) is (agent == gold)


@given(DISTINCT, st.randoms())
def test_a_permutation_keeps_the_overlap_and_its_reverse_has_the_other_sign(
    gold, random
):
    agent = random.sample(gold, len(gold))
    forward, backward = score(agent, gold), score(agent[::-1], gold)
    assert forward == pytest.approx(-backward if len(gold) > 1 else backward)
    # Moving the rows of both results alike changes nothing.
    places = random.sample(range(10), 10)
    moved = [[(places[i],) for (i,) in rows] for rows in (agent, gold)]
    assert score(*moved) == pytest.approx(forward)


def published(agent, gold):
    """InterCode's reward as its text has it, but not rounded."""
    from scipy.stats import kendalltau

    first, second = Counter(map(str, agent)), Counter(map(str, gold))
    common, union = first & second, first | second
    if not union:
        return 1
    left = [[], []]
    for rows, kept in zip((agent, gold), left, strict=True):
        rest = common.copy()
        for row in map(str, rows):
            if rest[row]:
                rest[row] -= 1
                kept.append(row)
    if not left[0]:
        return 0
    ranks = {row: i for i, row in enumerate(sorted(common))}
    tau = kendalltau(*([ranks[row] for row in rows] for rows in left)).statistic
    factor = 1 if math.isnan(tau) else tau
    return common.total() / union.total() * factor


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)  # importing scipy takes long
@given(ROWS, ROWS)
def test_full_marks_are_those_of_intercode(agent, gold):
    pytest.importorskip("scipy")
    assert (score(agent, gold) == 1) == (published(agent, gold) > 1 - 1e-9)


@pytest.mark.filterwarnings("ignore")
@settings(deadline=None)  # importing scipy takes long
@given(DISTINCT, DISTINCT)
def test_all_marks_are_those_of_intercode_where_the_gold_is_sorted(agent, gold):
    pytest.importorskip("scipy")
    gold = sorted(gold, key=str)
    assert score(agent, gold) == pytest.approx(published(agent, gold))
