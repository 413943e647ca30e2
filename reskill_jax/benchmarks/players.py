"""What the benchmark of engines compares: ours, and transformers' `generate` on torch.

Both return tokens and their log-probs, which `difference` compares with those of the
decoder.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.rollout.engine import Completion, Engine, Request, Sampling

T = TypeVar("T")
_logprobs = jax.jit(token_logprobs, static_argnums=0)

Play = Sequence[Sequence[Sequence[int]]]  # the prompt of [episode][turn]
Answer = tuple[np.ndarray, np.ndarray]  # tokens and their log-probs, [n] each


class OnEngine:
    """Plays on one of our engines.

    Args:
        engine: whose responses do not end by themselves.
        response: tokens of a response.
        prefilled: returns how many tokens the engine has prefilled so far.
    """

    def __init__(self, engine: Engine, response: int, prefilled: Callable[[], float]):
        self.prefilled = prefilled
        self._engine = engine
        self._sampling = Sampling(max_tokens=response)

    def play(self, play: Play) -> None:
        """Play all episodes at once, each at its own pace."""

        async def play_one(number: int, turns: Sequence[Sequence[int]]) -> None:
            for turn, prompt in enumerate(turns):
                await self._generate(number, prompt, turn)
            self._engine.release(f"{number}")

        asyncio.run(_gather(play_one(*numbered) for numbered in enumerate(play)))

    def answer(self, batch: Sequence[Sequence[int]]) -> list[Answer]:
        """Sample a response to every prompt."""
        found = asyncio.run(
            _gather(self._generate(i, prompt, 0) for i, prompt in enumerate(batch))
        )
        return [(completion.tokens, completion.logprobs) for completion in found]

    async def _generate(
        self, session: int, prompt: Sequence[int], seed: int
    ) -> Completion:
        request = Request(f"{session}", prompt, self._sampling, seed)
        found = await self._engine.generate(request)
        if len(found.tokens) != self._sampling.max_tokens:
            raise RuntimeError(
                f"a response of {len(found.tokens)} tokens: unequal work"
            )
        return found


class OnTransformers:
    """Plays with `generate` of transformers on torch.

    Args:
        directory: of the model.
        response: tokens of a response.
    """

    def __init__(self, directory: Path, response: int):
        import torch  # noqa: PLC0415
        from transformers import AutoModelForCausalLM  # noqa: PLC0415

        self._torch = torch
        self._response = response
        self._prefilled = 0
        self._model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def prefilled(self) -> float:
        """Return how many tokens were prefilled so far, without padding."""
        return self._prefilled

    def play(self, play: Play) -> None:
        """Play turn by turn, all episodes in a batch."""
        for turn in zip(*play, strict=True):
            self.answer(turn)

    def answer(self, batch: Sequence[Sequence[int]]) -> list[Answer]:
        """Sample a response to every prompt."""
        torch = self._torch
        width = max(map(len, batch))
        tokens = np.zeros((len(batch), width), np.int64)
        mask = np.zeros_like(tokens)
        for row, prompt in enumerate(batch):
            tokens[row, width - len(prompt) :] = prompt
            mask[row, width - len(prompt) :] = 1
        self._prefilled += int(mask.sum())
        with torch.inference_mode():
            found = self._model.generate(
                torch.as_tensor(tokens),
                attention_mask=torch.as_tensor(mask),
                max_new_tokens=self._response,
                do_sample=True,
                top_k=0,  # all tokens
                pad_token_id=0,
                return_dict_in_generate=True,
                output_logits=True,
            )
            new = found.sequences[:, width:, None]
            logprobs = torch.stack(found.logits, 1).log_softmax(-1).gather(-1, new)
        return list(zip(new[..., 0].numpy(), logprobs[..., 0].numpy(), strict=True))


async def _gather(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    return await asyncio.gather(*work)


def scores(
    config: DecoderConfig, params: Params, texts: Sequence[Sequence[int]]
) -> list[np.ndarray]:
    """Return the decoder's log-probs of all tokens of each text but the first."""
    width = max(map(len, texts)) - 1
    tokens, targets, visible_end = np.zeros((3, len(texts), width), np.int32)
    for row, text in enumerate(texts):
        last = len(text) - 1
        tokens[row, :last], targets[row, :last] = text[:-1], text[1:]
        visible_end[row, :last] = last
    positions = np.broadcast_to(np.arange(width), tokens.shape)
    found, _ = _logprobs(config, params, tokens, positions, visible_end, targets)
    return [
        row[: len(text) - 1] for row, text in zip(np.asarray(found), texts, strict=True)
    ]


def difference(
    config: DecoderConfig,
    params: Params,
    batch: Sequence[Sequence[int]],
    answers: Sequence[Answer],
) -> float:
    """Return the largest difference of answers' log-probs from the decoder's."""
    texts = [
        [*prompt, *tokens] for prompt, (tokens, _) in zip(batch, answers, strict=True)
    ]
    return max(
        float(np.abs(row[-len(found) :] - found).max())
        for row, (_, found) in zip(scores(config, params, texts), answers, strict=True)
    )
