"""The engine protocol: what samples responses, and what it is asked.

Token ids travel, never text: the trainer sees exactly the ids that the engine saw and
sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np


@dataclass(frozen=True)
class Sampling:
    """How to sample.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_p: tokens are drawn from the smallest set of most likely ones with this much
            probability; the engine vllm takes 1 only, which is no limit.
        max_tokens: length limit of the response.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64


@dataclass(frozen=True)
class Request:
    """One response to sample.

    Attributes:
        session: requests of one episode share it, so that an engine can keep the keys
            and values of the common prefix.
        prompt: token ids, the flat prompt (trunk prefix + branch).
        sampling: temperature, top-p and length limit.
        seed: the sampled tokens are a function of (weights, prompt, sampling, seed).
    """

    session: str
    prompt: Sequence[int]
    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Completion:
    """A sampled response.

    Attributes:
        tokens: int32 [n], ending with a token that ends responses unless cut by the
            limit.
        logprobs: float32 [n], of the sampled tokens at the sampling temperature
            (temperature 1 when greedy), over the whole vocabulary as the trainer
            computes them, before `top_p` cuts: ratios start at 1.
        version: weight version that produced them.
        stopped: whether the response ended by itself.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    version: int
    stopped: bool


class Engine(Protocol):
    """Samples responses from the current weights.

    Attributes:
        batch_invariant: whether a response does not depend on which others are sampled
            beside it; otherwise figures move a little from one evaluation to the next.
    """

    @property
    def batch_invariant(self) -> bool:
        """See above; a class attribute will do."""
        ...

    async def generate(self, request: Request) -> Completion:
        """Sample one response; many calls run concurrently and are batched."""
        ...

    def release(self, session: str) -> None:
        """Forget what is kept for a session (its episode has ended)."""
        ...

    def push(self, params: Any, version: int) -> None:
        """Serve these weights from now on; kept keys and values are dropped."""
        ...

    def sleep(self) -> None:
        """Free what takes room until the next `push`, when no request is running."""
        ...

    def close(self) -> None:
        """Stop the engine and free its memory."""
        ...
