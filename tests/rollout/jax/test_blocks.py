import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from reskill_jax.rollout.jax.blocks import BlockPool, Lease

SIZE, COUNT, CONTEXT = 4, 12, 24


def lease_of(pool: BlockPool, prompt: list[int], length: int) -> Lease:
    lease = pool.acquire(prompt, length)
    assert lease is not None
    return lease


class Model:
    """Which tokens each block was filled with, as a device would have them."""

    def __init__(self):
        self.pool = BlockPool(COUNT, SIZE)
        self.held: list[tuple[list[int], Lease]] = []
        self.content: dict[int, tuple[int, ...]] = {}

    def acquire(self, prompt, extra):
        lease = self.pool.acquire(prompt, len(prompt) + extra)
        if lease is None:
            return None
        for index in lease.missing:
            stop = min((index + 1) * SIZE, len(prompt) - 1)
            self.content[lease.blocks[index]] = tuple(prompt[:stop])
        self.held.append((prompt, lease))
        return lease

    def check(self):
        """Every lease finds its prompt, and nobody writes where others read."""
        for prompt, lease in self.held:
            for index in range(-(-(len(prompt) - 1) // SIZE)):
                stop = min((index + 1) * SIZE, len(prompt) - 1)
                assert self.content[lease.blocks[index]] == tuple(prompt[:stop])
            full = (len(prompt) - 1) // SIZE
            for block in lease.blocks[full:]:
                users = [b for _, other in self.held for b in other.blocks]
                assert users.count(block) == 1


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_leases_find_their_prompts_whatever_comes_and_goes(data):
    model = Model()
    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=CONTEXT - 4)
    for _ in range(data.draw(st.integers(1, 25))):
        if model.held and data.draw(st.booleans()):
            at = data.draw(st.integers(0, len(model.held) - 1))
            _, lease = model.held.pop(at)
            model.pool.release(lease)
        else:
            lease = model.acquire(data.draw(prompts), data.draw(st.integers(0, 4)))
            assert lease is not None or model.held  # alone, everything fits
        model.check()
    for _, lease in model.held:
        model.pool.release(lease)
    total = COUNT * SIZE
    assert model.pool.acquire(np.arange(3).tolist(), total) is not None


def test_a_prefix_is_shared_and_kept_until_its_room_is_needed():
    pool = BlockPool(8, 4)
    first = lease_of(pool, list(range(9)), 12)  # 8 tokens prefilled, all in full blocks
    assert (first.missing, first.shared, len(first.blocks)) == ((0, 1), 0, 3)
    second = lease_of(pool, [*range(8), 99], 10)
    assert (second.missing, second.shared) == ((), 2)
    assert second.blocks[:2] == first.blocks[:2]
    assert second.blocks[2] != first.blocks[2]
    pool.release(first)
    pool.release(second)
    diverged = lease_of(pool, [0, 1, 2, 3, 50, 5, 6, 7, 8], 9)
    assert (diverged.missing, diverged.shared) == ((1,), 1)
    pool.release(diverged)
    other = lease_of(pool, [70] * 30, 32)  # takes every block
    assert other.shared == 0
    assert pool.acquire([1], 1) is None
    pool.release(other)
    assert lease_of(pool, list(range(9)), 12).shared == 0


def test_the_least_recently_used_prefix_goes_first():
    pool = BlockPool(3, 2)
    for token in (1, 2, 1):
        lease = lease_of(pool, [token] * 3, 3)
        pool.release(lease)
    pool.release(lease_of(pool, [3] * 3, 3))  # room for two prefixes: evicts that of 2
    lease = lease_of(pool, [1] * 3, 3)
    assert lease.shared == 1
    pool.release(lease)
    assert lease_of(pool, [2] * 3, 3).shared == 0


@pytest.mark.parametrize("length", [1, 2, 5])
def test_short_prompts(length):
    pool = BlockPool(4, 4)
    lease = lease_of(pool, list(range(length)), length)
    assert lease.missing == tuple(range(-(-(length - 1) // 4)))
