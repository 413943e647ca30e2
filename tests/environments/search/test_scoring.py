"""Answers are compared as the seven sets compare them."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.environments.search.scoring import exact_match, f1, normalise

WORDS = st.text("aAn theT.,'-é9", max_size=20)


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("The Beatles!", "beatles", True),
        ("an  apple\ta day", "Apple Day", True),
        ("U.S.", "us", True),
        ("thean", "the an", False),
        ("1,234", "1234", True),
        ("Röntgen", "rontgen", False),
        ("", "the", False),
        ("", "", False),
        ("the", "The", True),  # nothing else is left of it
        ("a", "the", False),
        ("?", "!", False),
    ],
)
def test_exact_match(answer, gold, equal):
    assert exact_match(answer, ["something else", gold]) is equal


@given(WORDS)
def test_normalisation_takes_the_published_steps_in_their_order(text):
    small = text.lower()
    bare = "".join(c for c in small if c not in string.punctuation)
    bare = " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
    assert normalise(text) == (bare or " ".join(small.split()))


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_1_where_the_match_is_exact(answer, gold):
    score = f1(answer, [gold])
    assert 0 <= score <= 1
    assert score == f1(gold, [answer])
    if exact_match(answer, [gold]):
        assert score == 1


def test_f1_takes_the_nearest_of_the_right_answers():
    assert f1("Marie Curie of Warsaw", ["Pierre", "Curie, Marie"]) == pytest.approx(
        2 / 3
    )
    assert f1("anything", []) == 0
