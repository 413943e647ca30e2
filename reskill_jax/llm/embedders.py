"""Texts to vectors, for memories that look up what is similar.

An embedder is asked from the coroutines that play episodes. What computes or waits runs
in threads of its own, so that one slow answer never stops other episodes; a group's
rollouts, which all ask about the same task, share one answer.
"""

import asyncio
import hashlib
import math
import re
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reskill_jax.llm.retry import CallError, Failure

NAMES = ("lexical", "encoder", "openai")
DIMENSIONS = 1024  # of lexical vectors
_KEPT = 20_000  # texts whose vectors are remembered
_THREADS = 16  # calls under way at a time
_TOKEN = re.compile(r"[^\W_]+")
# Words that say how, not what: they would make all English sentences alike.
_SMALL = """
    a an and are as at be been but by can do does for from had has have if in into is it
    its of on or so some that the their them then there these they this those to was
    were when where which while will with you your
"""
_FUNCTION_WORDS = frozenset(_SMALL.split())
# Computes vectors of texts: float32 [n, d].
Compute = Callable[[Sequence[str]], NDArray[np.float32]]


class Embedder(Protocol):
    """Turns texts into vectors; their products are cosines."""

    @property
    def name(self) -> str:
        """What computes; vectors of different names cannot be compared."""
        ...

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 [n, d], rows of length one.

        Raises:
            CallError: a service gave no usable answer; its `failure` says why.
        """
        ...


class Lexical:
    """Vectors of hashed words: nothing to download, the same on every machine.

    Each word counts by the square root of how often it occurs, at a place and with a
    sign that its hash gives (Weinberger et al. 2009).
    """

    name = f"lexical-{DIMENSIONS}"

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Embedder`; takes microseconds, so it needs no thread."""
        return lexical(texts)


def lexical(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return the vectors of `Lexical`.

    A text of function words only is embedded by these, one without words as a whole, so
    that every row has length one.
    """
    rows = np.zeros((len(texts), DIMENSIONS), np.float64)
    for row, text in zip(rows, texts, strict=True):
        words = _TOKEN.findall(text.lower())
        content = [word for word in words if word not in _FUNCTION_WORDS]
        for word, count in sorted(Counter(content or words or [text]).items()):
            place, sign = _place(word)
            row[place] += sign * math.sqrt(count)
        if not row.any():  # two words met with opposite signs
            row[_place(text)[0]] = 1.0
    return _of_length_one(rows)


def _place(word: str) -> tuple[int, int]:
    code = word.encode("utf-8", "surrogatepass")
    number = int.from_bytes(hashlib.blake2b(code, digest_size=8).digest(), "little")
    return number % DIMENSIONS, 1 if number >> 63 else -1


class Threaded:
    """Embeds in threads, each text once; for many event loops at a time.

    Args:
        name: of what computes.
        make: makes it, when the first text comes.
    """

    def __init__(self, name: str, make: Callable[[], Compute]):
        self.name = name
        self._compute = _once(make)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="embedder")
        self._lock = threading.Lock()
        self._vectors: OrderedDict[str, Future[NDArray[np.float32]]] = OrderedDict()
        self._width = 0  # of all vectors; not known before the first

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `Embedder`."""
        futures = self._ask(texts)
        rows = [await asyncio.shield(asyncio.wrap_future(f)) for f in futures]
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)

    def _ask(self, texts: Sequence[str]) -> list[Future[NDArray[np.float32]]]:
        """Return the vectors to come; those that nobody asked for yet are begun."""
        with self._lock:
            known = self._vectors
            new = [t for t in dict.fromkeys(texts) if _is_lost(known.get(t))]
            for text in new:
                known[text] = Future()
            for text in texts:
                known.move_to_end(text)
            futures = [known[text] for text in texts]
            begun = {text: known[text] for text in new}
            while len(known) > _KEPT:
                known.popitem(last=False)
        if begun:
            self._threads.submit(self._answer, begun)
        return futures

    def _answer(self, begun: dict[str, Future[NDArray[np.float32]]]) -> None:
        try:
            vectors = self._compute()(list(begun))
            rows = _of_length_one(_checked(vectors, len(begun)))
            self._check_width(rows.shape[1])
        except BaseException as error:
            for future in begun.values():
                future.set_exception(error)
        else:
            for future, row in zip(begun.values(), rows, strict=True):
                future.set_result(row)

    def _check_width(self, width: int) -> None:
        """Refuse vectors that cannot be compared with those that are remembered."""
        with self._lock:
            self._width = self._width or width
            if width != self._width:
                raise CallError(
                    Failure.BAD_RESPONSE,
                    f"vectors of {width} numbers, those before had {self._width}",
                )


def embed_now(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed where no event loop runs, e.g. when a strategy observes; see `Embedder`."""
    return asyncio.run(_embed(embedder, texts))


async def _embed(embedder: Embedder, texts: Sequence[str]) -> NDArray[np.float32]:
    return await embedder.embed(texts)


def _once(make: Callable[[], Compute]) -> Callable[[], Compute]:
    """Make something when it is first needed, by one thread at a time."""
    lock = threading.Lock()
    made: list[Compute] = []

    def get() -> Compute:
        with lock:
            if not made:
                made.append(make())
            return made[0]

    return get


def _is_lost(future: Future[NDArray[np.float32]] | None) -> bool:
    """Tell whether a text has to be asked for (again)."""
    if future is None:
        return True
    return future.done() and future.exception() is not None


def _checked(vectors: NDArray[np.float32], count: int) -> NDArray[np.float64]:
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2 or len(rows) != count or not np.isfinite(rows).all():
        raise ValueError(
            f"vectors of shape {rows.shape}: an embedder must give {count} rows of "
            "finite numbers"
        )
    return rows


def _of_length_one(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    lengths = np.sqrt((rows * rows).sum(1, keepdims=True))
    if not (lengths > 0).all():
        raise ValueError("vectors: a text got a vector of length 0")
    return (rows / lengths).astype(np.float32)
