"""Weights of tokens in the loss, against their definitions."""

import numpy as np
import pytest
from grpo_cases import flatten, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.grpo.aggregation import AGGREGATIONS, token_weights
from reskill_jax.grpo.packing import pack

LONGEST = 100


def definition(aggregation, episodes, number, turn):
    """The weight of one token of a turn, written out."""
    lengths = [[len(t.response) for t in e.turns] for e in episodes]
    group = episodes[number].group
    prompts = {e.group for e in episodes}
    own = sum(
        sum(n) for e, n in zip(episodes, lengths, strict=True) if e.group == group
    )
    count = len(episodes)
    return {
        "episode": 1 / (count * sum(lengths[number])),
        "token": 1 / sum(map(sum, lengths)),
        "turn": 1 / (count * len(lengths[number]) * lengths[number][turn]),
        "prompt": 1 / (len(prompts) * own),
        "constant": 1 / (count * LONGEST),
    }[aggregation]


def weigh(episodes, aggregation, **packing):
    packed = pack(episodes, **({"buckets": (64,)} | packing))
    groups = [episode.group for episode in episodes]
    return packed, token_weights(packed, aggregation, groups=groups, longest=LONGEST)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("tokens", [64, 640])
def test_weights_equal_their_definition(aggregation, tokens):
    episodes = make_batch(6)[:-3]  # the last group is smaller
    batches, weights = weigh(
        episodes, aggregation, buckets=(32, 64), tokens_per_microbatch=tokens
    )
    seen = 0
    for batch, weight in zip(batches, weights, strict=True):
        assert weight.dtype == np.float32
        assert not weight[batch.mask == 0].any()
        for at in zip(*np.nonzero(batch.mask), strict=True):
            place = batch.episode[at], batch.turn[at]
            expected = definition(aggregation, episodes, *place)
            assert weight[at] == pytest.approx(expected)
            seen += 1
    assert seen == sum(len(t.response) for e in episodes for t in e.turns)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), aggregation=st.sampled_from(AGGREGATIONS))
def test_trees_and_flat_rows_weigh_the_same_and_sum_to_one(seed, aggregation):
    episodes = make_batch(seed)
    trees, flat = (
        {
            (int(b.episode[at]), int(b.turn[at])): float(w[at])
            for b, w in zip(
                *weigh(e, aggregation, tokens_per_microbatch=128), strict=True
            )
            for at in zip(*np.nonzero(b.mask), strict=True)
        }
        for e in (episodes, [flatten(episode) for episode in episodes])
    )
    assert trees == flat
    _, weights = weigh(episodes, aggregation, tokens_per_microbatch=128)
    tokens = sum(len(t.response) for e in episodes for t in e.turns)
    whole = tokens / len(episodes) / LONGEST if aggregation == "constant" else 1
    assert sum(w.sum() for w in weights) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("aggregation", ["episode", "turn", "prompt", "constant"])
def test_tokens_outside_the_mask_leave_the_normaliser(aggregation):
    episodes = make_batch(3)
    (packed,) = pack(episodes, buckets=(64,), tokens_per_microbatch=64 * 20)
    packed.mask[packed.episode == 2] = 0
    groups = [episode.group for episode in episodes]
    (weights,) = token_weights([packed], aggregation, groups=groups, longest=LONGEST)
    assert not weights[packed.episode == 2].any()
    rest = [episode for number, episode in enumerate(episodes) if number != 2]
    for at in zip(*np.nonzero(packed.mask), strict=True):
        number = int(packed.episode[at])
        expected = definition(
            aggregation, rest, number - (number > 2), int(packed.turn[at])
        )
        assert weights[at] == pytest.approx(expected)


def test_what_cannot_be_weighed_is_refused():
    with pytest.raises(ValueError, match="without any response token"):
        token_weights([], "episode")
    with pytest.raises(ValueError, match=r"aggregation='row': choose one of 'episode'"):
        token_weights([], "row")
    with pytest.raises(ValueError, match=r"longest=0: .* give 1 or more"):
        token_weights([], "constant")
