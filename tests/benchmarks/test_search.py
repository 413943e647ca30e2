"""The benchmark of Search QA counts what was found, and plays as many as it says."""

import argparse
import asyncio

import pytest

from reskill_jax.benchmarks import search
from reskill_jax.environments.search.client import Found
from reskill_jax.environments.search.files import Question

QUESTION = Question("q", "nq", "who?", ("the Queen",), ("1", "2"))


class Client:
    """Finds by a table."""

    def __init__(self, table):
        self._table = table

    async def search(self, query, top_k):
        return self._table.get(query, [])


@pytest.mark.parametrize(
    ("ids", "text", "figures"),
    [
        ("12", "a queen", (1, 1, 1)),
        ("13", "queens", (1, 1, 0)),  # a string, as published, not a word
        ("34", "king", (0, 0, 0)),
        ("", "", (0, 0, 0)),
    ],
)
def test_recall_of_one_search(ids, text, figures):
    client = Client({"who?": [Found(name, text) for name in ids]})
    found = asyncio.run(search.recall(client, QUESTION))
    names = ("answer found", "any found", "all found")
    assert tuple(found[name] for name in names) == figures


def test_the_oracle_answers_right_where_the_results_hold_the_answer():
    titles = {"1": "One", "2": "Two"}
    one, two = Found("1", "the queen"), Found("2", "else")
    for table, expected in (
        ({"One": [one], "Two": [two]}, (1, 1)),
        ({"One": [one]}, (1, 0)),
        ({"Two": [two]}, (0, 0)),
    ):
        found = asyncio.run(search.oracle(Client(table), titles, QUESTION))
        assert (found["oracle EM"], found["oracle all found"]) == expected
        assert found["oracle searches"] == 2


def test_on_the_sample_everything_is_found_and_all_episodes_are_played():
    flags = argparse.Namespace(
        questions="sample", passages="sample", retriever="bm25", encoder="", limit=3
    )
    found = search.found_per_set(flags)
    assert set(found) == {"nq", "hotpotqa", "2wiki", "musique"}
    assert all(figures["oracle EM"] == 1 for figures in found.values())
    part, cpu_ms = search.rate(1, in_flight=20, latency_s=0.01)
    assert 0 < part <= 1
    assert cpu_ms > 0
