"""Similar texts are found, best first, whatever the order of entries."""

import asyncio

import numpy as np
import pytest

from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.llm.embedders import Lexical, Threaded
from reskill_jax.llm.retry import CallError, Failure
from reskill_jax.memories.retrieval import similarities, top


def test_the_most_similar_is_best():
    texts = ["heat an egg in the microwave", "look at a book under the lamp", ""]
    found = asyncio.run(similarities(Lexical(), "heat some egg", texts))
    assert found[0] == pytest.approx(2 / np.sqrt(2 * 3), abs=2e-6)
    assert found.argmax() == 0
    assert abs(found[1]) < 0.2
    assert asyncio.run(similarities(Lexical(), "heat", [])).shape == (0,)


def test_top_takes_what_is_above_the_threshold_and_breaks_ties_by_id():
    scores = np.array([0.5, 0.9, 0.5, 0.4])
    assert top(scores, ["c", "d", "a", "b"], k=3, threshold=0.4) == [1, 2, 0]
    assert top(scores, ["c", "d", "a", "b"], k=1, threshold=0.4) == [1]
    assert top(scores, ["c", "d", "a", "b"], k=3, threshold=0.9) == []


def test_a_service_that_does_not_answer_costs_the_episode_not_the_run():
    def fail(texts):
        raise CallError(Failure.UNREACHABLE, "nobody there")

    embedder = Threaded("absent", lambda: fail)
    with pytest.raises(EpisodeLostError, match="absent: unreachable: nobody there"):
        asyncio.run(similarities(embedder, "a", ["b"]))
