"""Which cache block holds what: sharing, keeping and evicting prompt prefixes.

A full block of prompt tokens is known by a digest of all tokens up to its end, so that
every request whose prompt starts with them uses the same block: later turns of an
episode, and other episodes of its group until they diverge. Unused blocks are kept
until their room is needed; the least recently used are evicted first.
"""

import hashlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lease:
    """The blocks of one request, held until `BlockPool.release`.

    Attributes:
        blocks: numbers of the blocks of its positions, in order.
        missing: indices into `blocks` of those whose keys must be computed.
        shared: how many blocks were there already.
    """

    blocks: tuple[int, ...]
    missing: tuple[int, ...]
    shared: int


class BlockPool:
    """Bookkeeping of `count` blocks of `size` positions; holds no arrays."""

    def __init__(self, count: int, size: int):
        self.count = count
        self.size = size
        self.clear()

    def clear(self) -> None:
        """Forget everything, leases too."""
        self._free = deque(range(self.count))
        self._users = [0] * self.count
        self._by_digest: dict[bytes, int] = {}
        self._digest: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # oldest first

    def acquire(self, prompt: Sequence[int], length: int) -> Lease | None:
        """Lease blocks for `length` positions that start with `prompt`.

        The blocks that are full of prompt tokens, save its last one (which is decoded,
        not prefilled), are shared; the lease's `missing` ones must be computed in the
        order of the calls of `acquire`. The rest are the caller's own.

        Returns:
            None if there is no room until a lease is released.
        """
        digests = self._digests(prompt[:-1])
        hits = [self._by_digest.get(digest) for digest in digests]
        room = len(self._free) + len(self._idle)
        room -= sum(hit in self._idle for hit in hits if hit is not None)
        total = -(-length // self.size)
        if total - sum(hit is not None for hit in hits) > room:
            return None
        for hit in hits:  # first, lest `_take` evict one of them
            if hit is not None:
                self._use(hit)
        blocks, missing = [], []
        prefilled = -(-(len(prompt) - 1) // self.size)
        for index in range(total):
            hit = hits[index] if index < len(hits) else None
            if hit is None:
                hit = self._take()
                self._use(hit)
                if index < len(digests):
                    self._by_digest[digests[index]] = hit
                    self._digest[hit] = digests[index]
                if index < prefilled:
                    missing.append(index)
            blocks.append(hit)
        return Lease(tuple(blocks), tuple(missing), prefilled - len(missing))

    def release(self, lease: Lease) -> None:
        """Give a lease back; shared blocks are kept, the request's own are freed."""
        for block in reversed(lease.blocks):  # a prefix's end goes before its start
            self._users[block] -= 1
            if self._users[block]:
                continue
            if block in self._digest:
                self._idle[block] = None
            else:
                self._free.append(block)

    def _use(self, block: int) -> None:
        self._users[block] += 1
        self._idle.pop(block, None)

    def _take(self) -> int:
        if self._free:
            return self._free.popleft()
        block, _ = self._idle.popitem(last=False)
        del self._by_digest[self._digest.pop(block)]
        return block

    def _digests(self, tokens: Sequence[int]) -> list[bytes]:
        """Return one digest per full block, each of all tokens up to its end."""
        array = np.asarray(tokens, np.int32)
        digests, last = [], b""
        for stop in range(self.size, len(array) + 1, self.size):
            piece = array[stop - self.size : stop].tobytes()
            last = hashlib.blake2b(last + piece, digest_size=16).digest()
            digests.append(last)
        return digests
