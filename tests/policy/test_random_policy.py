import filecmp

import jax
import numpy as np
import pytest

from reskill_jax.policy import random_policy as module
from reskill_jax.policy.random_policy import random_policy
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "a"))


def test_it_is_made_once_and_is_a_function_of_the_seed(tmp_path, monkeypatch):
    first = random_policy("tiny", 1)
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert random_policy("tiny", 1) == first
    assert {path: path.stat().st_mtime_ns for path in first.iterdir()} == before

    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "b"))
    again = random_policy("tiny", 1)
    assert again.name == first.name
    files = [path.name for path in first.iterdir()]
    assert filecmp.cmpfiles(first, again, files, shallow=False)[0] == files

    other = random_policy("tiny", 2)
    assert other.name != first.name
    _, one = load(first)
    _, two = load(other)
    assert not np.array_equal(jax.tree.leaves(one)[0], jax.tree.leaves(two)[0])


def test_it_reads_any_text_in_fewer_tokens_than_bytes():
    directory = random_policy("tiny", 0)
    decoder, _ = load(directory)
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.vocab_size == decoder.vocab_size
    text = (
        "Go to the shelf and take the vase. SELECT naïve FROM 表; <action>look</action>"
    )
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) < 0.7 * len(text.encode())


def test_nothing_is_left_of_one_that_could_not_be_written(monkeypatch, tmp_path):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(module, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        random_policy("tiny", 0)
    assert list((tmp_path / "a" / "random_policy").iterdir()) == []
