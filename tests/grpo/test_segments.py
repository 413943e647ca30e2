"""Sums over turns within packed rows, against loops."""

import jax
import numpy as np
import pytest
from grpo_cases import flatten, make_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.segments import turn_mean, turn_sum

compiled_sum, compiled_mean = jax.jit(turn_sum), jax.jit(turn_mean)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), flat=st.booleans())
def test_sums_and_means_are_those_of_each_turn(seed, flat):
    episodes = make_batch(seed)
    if flat:
        episodes = [flatten(episode) for episode in episodes]
    (packed,) = pack(episodes, buckets=[64], tokens_per_microbatch=64 * 60)
    rng = np.random.default_rng(seed)
    values = rng.normal(size=packed.mask.shape).astype(np.float32)
    values[packed.mask == 0] = np.nan  # what stands there does not count
    sums, means = compiled_sum(values, packed), compiled_mean(values, packed)
    for at in zip(*np.nonzero(packed.mask), strict=True):
        same = (packed.episode == packed.episode[at]) & (packed.turn == packed.turn[at])
        own = values[same & (packed.mask > 0)]
        assert len(own) == len(
            episodes[packed.episode[at]].turns[packed.turn[at]].response
        )
        assert float(sums[at]) == pytest.approx(own.sum(dtype=float), abs=1e-5)
        assert float(means[at]) == pytest.approx(own.mean(dtype=float), abs=1e-5)


def test_means_are_of_what_the_mask_leaves():
    (packed,) = pack(make_batch(0), buckets=[64], tokens_per_microbatch=64 * 60)
    values = np.ones(packed.mask.shape, np.float32)
    rows, columns = np.nonzero(packed.mask)
    packed.mask[rows[::2], columns[::2]] = 0
    means = compiled_mean(values, packed)
    np.testing.assert_array_equal(np.asarray(means)[packed.mask > 0], 1)
