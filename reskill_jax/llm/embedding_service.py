"""Embeddings of a server that speaks OpenAI's ``/v1/embeddings``; nothing is trusted.

Needs the extra ``llm``, which is imported with the first call.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reskill_jax.llm.backends import ChatResponse, Model, read, usage
from reskill_jax.llm.budget import Budget, Spending
from reskill_jax.llm.retry import (
    Breaker,
    CallError,
    Failure,
    RetryPolicy,
    again_after,
    classify,
)
from reskill_jax.modules import missing
from reskill_jax.scrub import scrub

_MAX_BYTES = 64 << 20  # of an answer; 64 vectors of 4096 numbers have about 6 MB
_TEXTS_PER_CALL = 64
_LARGEST = 1e15  # of a vector's numbers; squares of larger ones may overflow
_MAX_CHARACTERS = 20_000  # of a text; services refuse longer ones than about this


@dataclass(frozen=True)
class Service:
    """Which server to ask, and how.

    Attributes:
        model: its name at that service.
        base_url: address; empty: OpenAI's own.
        api_key_variable: environment variable that holds the key.
        timeout_s: seconds for one attempt, all in all.
        max_attempts: for one call, the first included.
        max_calls: of this process, with their repetitions; 0: no limit.
    """

    model: str
    base_url: str = ""
    api_key_variable: str = ""
    timeout_s: float = 30.0
    max_attempts: int = 4
    max_calls: int = 0

    def problem(self) -> str:
        """Return why it cannot be asked here, beginning with an attribute; or ""."""
        if needs := missing("llm", "openai", "tenacity", "pydantic"):
            return f"name='openai' {needs}"
        if not self.model:
            return "model='': name='openai' needs the name of a model"
        return self.chat_model().problem()

    def chat_model(self) -> Model:
        """Return the model as the backends of `llm.backends` describe one."""
        return Model(
            "openai",
            self.model,
            self.base_url,
            self.api_key_variable,
            timeout_s=self.timeout_s,
        )


class EmbeddingService:
    """Asks a service for vectors: again after failures that may pass, in a budget.

    Args:
        service: which one.
        sleep: waits so many seconds; tests give their own.
    """

    def __init__(
        self, service: Service, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._service = service
        self._retry = RetryPolicy(max_attempts=service.max_attempts)
        self._breaker = Breaker(self._retry, time.monotonic)
        self._sleep = sleep
        self.spending = Spending(Budget(0, 0, run_calls=service.max_calls))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 [len(texts), d].

        Raises:
            CallError: no attempt got a usable answer.
        """
        starts = range(0, len(texts), _TEXTS_PER_CALL)
        parts = [self._part(texts[at : at + _TEXTS_PER_CALL]) for at in starts]
        if len({part.shape[1] for part in parts}) != 1:
            raise CallError(Failure.BAD_RESPONSE, "vectors of different lengths")
        return np.concatenate(parts)

    def _part(self, texts: Sequence[str]) -> NDArray[np.float32]:
        from reskill_jax.llm.caller import make_retrying  # noqa: PLC0415

        chance = random.Random()
        return make_retrying(self._retry, self._sleep, chance)(self._attempt, texts)

    def _attempt(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if left := self._breaker.seconds_left():
            detail = f"too many failures, calls again in {left:.0f} s"
            raise CallError(Failure.CIRCUIT_OPEN, detail)
        if self.spending.reserve():
            detail = f"max_calls={self._service.max_calls} is spent"
            raise CallError(Failure.BUDGET, detail)
        started = time.monotonic()
        try:
            vectors, tokens = self._ask(texts)
        except Exception as error:  # the SDK has its own; all are named
            failure = classify(error)
            if failure is not Failure.RATE_LIMIT:
                self._breaker.failed()
            self.spending.count(f"errors/{failure}")
            key = self._service.chat_model().key
            shown = scrub(f"{type(error).__name__}: {error}", (key,))[:300]
            raise CallError(failure, shown, again_after(error)) from error
        self._breaker.succeeded()
        self.spending.settle(ChatResponse("", tokens), time.monotonic() - started)
        return vectors

    def _ask(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        seconds = self._service.timeout_s
        create = self._client.embeddings.with_streaming_response.create
        deadline = time.monotonic() + seconds
        with create(
            model=self._service.model,
            input=[text[:_MAX_CHARACTERS] or " " for text in texts],
            encoding_format="float",
            timeout=seconds,
        ) as response:
            answer = read(response.iter_bytes(), deadline, _MAX_BYTES)
        (tokens,) = usage(answer, "prompt_tokens")
        return parse(answer, len(texts)), tokens

    @cached_property
    def _client(self) -> Any:
        import openai  # noqa: PLC0415

        model = self._service.chat_model()
        url = model.base_url or None
        return openai.OpenAI(api_key=model.key, base_url=url, max_retries=0)


def parse(answer: dict[str, Any], count: int) -> NDArray[np.float32]:
    """Read an answer: each vector says which text it is of.

    Raises:
        ValueError: it does not hold one vector of finite numbers for every text.
    """
    rows: dict[int, Any] = {}
    for entry in _entries(answer):
        if entry["index"] in rows:
            raise ValueError(f"two embeddings of the text {entry['index']}")
        rows[entry["index"]] = entry["embedding"]
    if sorted(rows) != [*range(count)]:
        raise ValueError(f"embeddings of {len(rows)} texts, not of the {count} sent")
    vectors = np.array([rows[place] for place in range(count)], np.float32)
    if vectors.ndim != 2 or not vectors.shape[1] or not np.isfinite(vectors).all():
        raise ValueError("embeddings that are no vectors of finite numbers")
    if not vectors.any(1).all():
        raise ValueError("an embedding of length 0")
    return vectors


def _entries(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    data = answer.get("data")
    if not isinstance(data, list):
        raise ValueError("an answer without a list 'data'")
    for entry in data:
        if not isinstance(entry, dict) or type(entry.get("index")) is not int:
            raise ValueError("an entry without an integer 'index'")
        numbers = entry.get("embedding")
        if not isinstance(numbers, list) or not all(
            type(x) in (int, float) and abs(x) < _LARGEST for x in numbers
        ):
            raise ValueError("an embedding that is no list of numbers")
        yield entry
