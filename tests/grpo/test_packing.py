import dataclasses

import jax
import numpy as np
import pytest
from grpo_cases import TASK, flat_prompt, flatten, make_batch, make_episode, make_turn
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.grpo.packing import pack, targets_only, tree_tokens
from reskill_jax.rollout.episode import Episode

BUCKETS = (32, 64, 128)


def rows_of(batches):
    """All non-empty rows as dicts of unpadded arrays."""
    for batch in batches:
        names = [field.name for field in dataclasses.fields(batch)]
        for r in range(batch.tokens.shape[0]):
            used = batch.visible_end[r] > 0
            if used.any():
                yield {name: getattr(batch, name)[r][used] for name in names}


def read_turn(rows, episode, turn):
    """Reconstruct one turn as (prompt, response, positions, log-probs) from a row."""
    (row,) = [
        r for r in rows if ((r["episode"] == episode) & (r["turn"] == turn)).any()
    ]
    own = (row["episode"] == episode) & (row["turn"] == turn)
    last = np.flatnonzero(own)[-1]
    slots = np.arange(len(own))
    seen = (slots <= last) & (last < row["visible_end"])
    assert seen[own].all()
    predicting = own & (row["mask"] > 0)
    response = row["targets"][predicting]
    tokens = row["tokens"][seen]
    prompt = tokens[: len(tokens) - len(response) + 1]
    np.testing.assert_array_equal(tokens[len(prompt) :], response[:-1])
    return prompt, response, row["positions"][seen], row["sampler_logprobs"][predicting]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.sampled_from([128, 200, 512]),
    longest=st.sampled_from([48, 64, 128]),  # the short ones cut trees between turns
    flat=st.booleans(),
)
def test_every_turn_can_be_read_back(seed, tokens, longest, flat):
    episodes = make_batch(seed, groups=2, size=3)
    if flat:
        episodes = [flatten(episode) for episode in episodes]
    batches = pack(episodes, buckets=(32, longest), tokens_per_microbatch=tokens)
    rows = list(rows_of(batches))
    responses = 0
    for e, episode in enumerate(episodes):
        for t, turn in enumerate(episode.turns):
            prompt, response, positions, logprobs = read_turn(rows, e, t)
            np.testing.assert_array_equal(prompt, flat_prompt(episode, turn))
            np.testing.assert_array_equal(response, turn.response)
            np.testing.assert_array_equal(positions, np.arange(len(positions)))
            np.testing.assert_array_equal(logprobs, turn.logprobs)
            responses += len(turn.response)
    assert sum(row["mask"].sum() for row in rows) == responses


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_tree_holds_the_used_trunk_once_and_no_more(seed):
    (episode,) = make_batch(seed, groups=1, size=1)
    episode.trunks = [trunk + 100 * k for k, trunk in enumerate(episode.trunks)]
    batches = pack([episode], buckets=BUCKETS, tokens_per_microbatch=256)
    expected = sum(len(t.branch) + len(t.response) - 1 for t in episode.turns)
    for window in range(len(episode.trunks)):
        expected += max(t.trunk_length for t in episode.turns if t.window == window)
    assert sum(np.count_nonzero(batch.visible_end) for batch in batches) == expected


def two_episodes():
    """One group: a head of two tokens, then trunks that part."""
    rng = np.random.default_rng(0)
    episodes = []
    for index, trunk in enumerate([[1, 2, 3, 4], [1, 2, 5]]):
        turns = [make_turn(rng, 0, 2), make_turn(rng, 0, 3)]
        for k, turn in enumerate(turns):
            turn.branch = np.array([10 * (index + 1) + k])
            turn.response = np.array([6, 7])
            turn.logprobs = np.zeros(2)
        trunks = [np.array(trunk, np.int32)]
        episodes.append(Episode(TASK, 0, index, 0, "", "", trunks, turns))
    return episodes


def test_episodes_of_a_group_share_the_head_of_their_trunks():
    (batch,) = pack(two_episodes(), buckets=[13], tokens_per_microbatch=13)
    expected = {
        "tokens": [1, 2, 3, 11, 6, 10, 6, 5, 21, 6, 20, 6, 0],
        "positions": [0, 1, 2, 3, 4, 2, 3, 2, 3, 4, 2, 3, 0],
        "visible_end": [12, 12, 5, 5, 5, 7, 7, 10, 10, 10, 12, 12, 0],
        "episode": [0] * 7 + [1] * 5 + [-1],
        "turn": [-1, -1, -1, 1, 1, 0, 0, -1, 1, 1, 0, 0, -1],
    }
    for name, row in expected.items():
        np.testing.assert_array_equal(getattr(batch, name)[0], row, err_msg=name)


def test_a_head_is_written_again_where_the_row_has_no_room():
    batches = pack(two_episodes(), buckets=[11], tokens_per_microbatch=22)
    assert sum(np.count_nonzero(batch.visible_end) for batch in batches) == 14


def test_layout_of_one_tree_by_hand():
    rng = np.random.default_rng(0)
    turns = [make_turn(rng, 0, 2), make_turn(rng, 0, 3)]
    turns[0].branch, turns[0].response = np.array([10, 11]), np.array([12, 13])
    turns[1].branch, turns[1].response = np.array([20]), np.array([21, 22, 23])
    turns[0].logprobs, turns[1].logprobs = np.array([-1, -2]), np.array([-3, -4, -5])
    trunk = np.array([1, 2, 3, 4], np.int32)
    episode = Episode(TASK, 0, 0, 0, "", "", [trunk], turns)
    (batch,) = pack([episode], buckets=[12], tokens_per_microbatch=24)
    expected = {
        "tokens": [1, 2, 3, 20, 21, 22, 10, 11, 12, 0, 0, 0],
        "positions": [0, 1, 2, 3, 4, 5, 2, 3, 4, 0, 0, 0],
        "visible_end": [9, 9, 6, 6, 6, 6, 9, 9, 9, 0, 0, 0],
        "targets": [0, 0, 0, 21, 22, 23, 0, 12, 13, 0, 0, 0],
        "mask": [0, 0, 0, 1, 1, 1, 0, 1, 1, 0, 0, 0],
        "sampler_logprobs": [0, 0, 0, -3, -4, -5, 0, -1, -2, 0, 0, 0],
        "episode": [0] * 9 + [-1] * 3,
        "turn": [-1, -1, -1, 1, 1, 1, 0, 0, 0, -1, -1, -1],
    }
    for name, row in expected.items():
        array = getattr(batch, name)
        assert array.shape == (2, 12)
        assert array.dtype == (
            np.float32 if name in ("mask", "sampler_logprobs") else np.int32
        )
        np.testing.assert_array_equal(array[0], row, err_msg=name)
    assert not batch.visible_end[1].any()
    assert not batch.mask[1].any()


def test_shapes_are_static_and_order_deterministic():
    episodes = make_batch(3)
    batches = pack(episodes, buckets=(64, 16, 32), tokens_per_microbatch=150)
    assert {b.tokens.shape for b in batches} <= {(9, 16), (4, 32), (2, 64)}
    lengths = [b.tokens.shape[1] for b in batches]
    assert lengths == sorted(lengths)
    again = pack(episodes, buckets=(64, 16, 32), tokens_per_microbatch=150)
    jax.tree.map(np.testing.assert_array_equal, batches, again)


def test_turns_out_of_order_get_their_own_trunk_prefix():
    episode = make_episode(np.random.default_rng(8), windows=1, turns=6)
    episode.turns.reverse()
    rows = list(rows_of(pack([episode], buckets=[128], tokens_per_microbatch=128)))
    assert len({turn.trunk_length for turn in episode.turns}) > 2
    for t, turn in enumerate(episode.turns):
        prompt, response, *_ = read_turn(rows, 0, t)
        np.testing.assert_array_equal(prompt, flat_prompt(episode, turn))
        np.testing.assert_array_equal(response, turn.response)


def test_small_trees_share_rows_and_fill_longer_ones():
    rng = np.random.default_rng(1)

    def single(length):  # one turn of exactly `length` slots
        turn = make_turn(rng, 0, 0)
        turn.branch, turn.response = np.ones(length, np.int32), np.ones(1, np.int32)
        turn.logprobs = np.zeros(1, np.float32)
        return Episode(TASK, 0, 0, 0, "", "", [], [turn])

    episodes = [single(n) for n in (3, 12, 4, 4, 8)]
    short, long = pack(episodes, buckets=(8, 16), tokens_per_microbatch=16)
    assert sorted(set(long.episode[0])) == [1, 2]  # 12 + 4
    assert [sorted(set(row) - {-1}) for row in short.episode] == [[4], [0, 3]]
    assert short.visible_end[1].tolist() == [4] * 4 + [7] * 3 + [0]


def test_a_prompt_is_its_own_tree_without_a_trunk():
    episode = flatten(make_episode(np.random.default_rng(5), windows=1))
    (batch,) = pack([episode], buckets=[128], tokens_per_microbatch=128)
    assert len(set(batch.visible_end[batch.visible_end > 0])) == len(episode.turns)
    assert np.count_nonzero(batch.positions[batch.visible_end > 0] == 0) == len(
        episode.turns
    )


def test_a_tree_that_fits_no_bucket_is_cut_between_turns():
    rng = np.random.default_rng(0)
    turns = [make_turn(rng, 0, n) for n in (2, 3, 4)]
    for turn in turns:
        turn.branch, turn.response = np.array([9, 9]), np.array([7])
        turn.logprobs = np.zeros(1, np.float32)
    trunk = np.array([1, 2, 3, 4], np.int32)
    episode = Episode(TASK, 0, 0, 0, "", "", [trunk], turns)
    (batch,) = pack([episode], buckets=[8], tokens_per_microbatch=16)
    assert batch.tokens.tolist() == [
        [1, 2, 3, 4, 9, 9, 9, 9],  # the two turns with the longest trunks
        [1, 2, 9, 9, 0, 0, 0, 0],  # the first, which repeats the least
    ]
    assert batch.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 3, 4]


def test_too_long_turn_names_lengths_and_key():
    episodes = make_batch(0)
    with pytest.raises(ValueError, match=r"buckets=\(8,\): \[\d+, .* add a bucket"):
        pack(episodes, buckets=[8], tokens_per_microbatch=64)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"buckets": []}, r"buckets=\(\)"),
        ({"buckets": [64, 512]}, r"tokens_per_microbatch=256 .* 512"),
    ],
)
def test_bad_options_name_the_key(options, words):
    with pytest.raises(ValueError, match=words):
        pack(make_batch(0), tokens_per_microbatch=256, **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"branch": np.zeros(0, np.int32)}, "0 branch and"),
        ({"response": np.zeros(0, np.int32)}, "0 response tokens"),
        ({"logprobs": np.zeros(9)}, "9 log-probs for"),
        ({"window": 7, "trunk_length": 1}, "window 7 of"),
        ({"trunk_length": 999}, "prompt holds 999 trunk tokens"),
    ],
)
def test_malformed_turns_are_named(change, words):
    episode = make_episode(np.random.default_rng(2))
    vars(episode.turns[1]).update(change)
    with pytest.raises(ValueError, match=r"rollout 0, turn 1: .*" + words):
        pack([episode], buckets=[128], tokens_per_microbatch=128)


def test_nothing_to_pack():
    assert pack([], buckets=[16], tokens_per_microbatch=16) == []


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_targets_alone_are_the_response_tokens_of_each_turn(seed):
    episodes = make_batch(seed, groups=1, size=3)
    packed = targets_only(episodes, first=5)
    counts = {
        (5 + i, k): len(turn.response)
        for i, episode in enumerate(episodes)
        for k, turn in enumerate(episode.turns)
    }
    assert packed.mask.shape == (1, sum(counts.values()))
    assert packed.mask.all()
    found = list(zip(packed.episode[0].tolist(), packed.turn[0].tolist(), strict=True))
    assert {key: found.count(key) for key in set(found)} == counts


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_slots_of_an_episode_alone_are_counted_without_packing(seed):
    episode = make_episode(np.random.default_rng(seed))
    episode.trunks = [trunk + i for i, trunk in enumerate(episode.trunks)]  # no head
    (packed,) = pack([episode], buckets=(256,), tokens_per_microbatch=256)
    assert tree_tokens(episode) == np.count_nonzero(packed.visible_end)
    flat = flatten(episode)
    packed = pack([flat], buckets=(64,), tokens_per_microbatch=640)
    assert tree_tokens(flat) == sum(np.count_nonzero(p.visible_end) for p in packed)
