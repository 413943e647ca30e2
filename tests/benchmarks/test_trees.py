"""What the benchmark of trees counts, against a count by hand."""

import numpy as np
import pytest

from reskill_jax.benchmarks import trees
from reskill_jax.environments.protocol import Task
from reskill_jax.rollout.episode import Episode, Turn


@pytest.fixture
def episode():
    """Two turns on a trunk of 7: prompts of 3 + 2 and 6 + 1 tokens, responses of 2."""
    trunk = np.arange(10, 17, dtype=np.int32)
    turns = [
        Turn(
            0, length, np.arange(20, 20 + branch, dtype=np.int32),
            np.array([30, 31], np.int32), np.zeros(2, np.float32), 0, "", "", "", True,
        )
        for length, branch in ((3, 2), (6, 1))
    ]  # fmt: skip
    return Episode(Task("t", "", "", ""), 0, 0, 0, "", trunks=[trunk], turns=turns)


def test_flat_rows_hold_the_same_prompts_and_responses(episode):
    flat = trees.as_flat(episode)
    assert [len(turn.branch) for turn in flat.turns] == [5, 7]
    assert flat.turns[1].branch.tolist() == [10, 11, 12, 13, 14, 15, 20]
    assert all(turn.trunk_length == 0 for turn in flat.turns)


def test_tokens_and_pairs_are_those_counted_by_hand(episode):
    hidden, feed_forward, layers, heads, kv_heads, width = trees.LARGE
    matrices = hidden * (2 * width * (heads + kv_heads) + 3 * feed_forward)

    def flops(tokens, pairs):
        return 2 * layers * (tokens * matrices + 2 * pairs * heads * width)

    # The last response token predicts nothing and has no slot.
    flat = trees.cost([trees.as_flat(episode)], (64,))
    rows = 6, 8
    assert flat == (14, flops(14, sum(n * (n + 1) / 2 for n in rows)))
    tree = trees.cost([episode], (64,))
    trunk, first, second = 6 * 7 / 2, 4 + 5 + 6, 7 + 8
    assert tree == (6 + 3 + 2, flops(11, trunk + first + second))


def test_episodes_are_stored_whole(episode, tmp_path):
    trees.write(tmp_path / "e.json", [episode])
    (found,) = trees.read(tmp_path / "e.json")
    assert trees.cost([found], (64,)) == trees.cost([episode], (64,))
    for ours, theirs in zip(found.turns, episode.turns, strict=True):
        prompt = trees.flat_prompt(found, ours)
        assert prompt.tolist() == trees.flat_prompt(episode, theirs).tolist()
        assert ours.response.tolist() == theirs.response.tolist()
