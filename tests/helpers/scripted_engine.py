"""An engine that says given texts: what no random policy would say."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.engine import Completion, Request


class ScriptedEngine:
    """Says the same texts in every session, turn by turn, then the last one again.

    Attributes:
        prompts: what it was asked, as text, by session.
        released: sessions that have ended.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str]):
        self._tokenizer = tokenizer
        self._texts = texts
        self._turns: Counter[str] = Counter()
        self.prompts: dict[str, list[str]] = defaultdict(list)
        self.released: list[str] = []

    async def generate(self, request: Request) -> Completion:
        await asyncio.sleep(0)
        turn = self._turns[request.session]
        self._turns[request.session] += 1
        self.prompts[request.session].append(
            self._tokenizer.decode(list(request.prompt))
        )
        text = self._texts[min(turn, len(self._texts) - 1)]
        tokens = [*self._tokenizer.encode(text), self._tokenizer.eos_id]
        return Completion(
            np.array(tokens, np.int32), np.zeros(len(tokens), np.float32), 0, True
        )

    def release(self, session: str) -> None:
        self.released.append(session)
