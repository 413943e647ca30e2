"""The policy as its own creator: the engine's vLLM servers answer the creator, too.

Requests go beside the engine's, straight to `/v1/chat/completions`, with the policy's
own chat template. A push waits for the answers that are under way; requests that come
meanwhile are answered with the new weights. Answers of a server that ended are lost:
`caller.Caller` asks again, and the call waits until the server has been started again.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from reskill_jax.llm.backends import ChatRequest, ChatResponse, Model, OpenAI

_PAUSE = 0.5  # seconds between looks at a server that is not ready
_TOO_LONG = ("maximum context length", "max_model_len")  # in vLLM's own words


class TooLongError(ValueError):
    """A prompt, with what it leaves for the answer, is longer than the context."""

    status_code = 400


class Sidecar:
    """Asks servers in turn; `complete` may be called from many threads.

    Args:
        model: how to ask; its `timeout_s` includes the wait for a server.
        urls: of the servers, as the engine has them.
    """

    def __init__(self, model: Model, urls: Sequence[str]):
        self._servers = [_SidecarBackend(model, url) for url in urls]
        self._turns = itertools.count()

    def complete(self, request: ChatRequest) -> ChatResponse:
        """See `backends.Backend`."""
        turn = next(self._turns)
        return self._servers[turn % len(self._servers)].complete(request)


class _SidecarBackend(OpenAI):
    def __init__(self, model: Model, url: str):
        super().__init__(replace(model, limits=True))  # vLLM keeps to them
        self._url = url

    def complete(self, request: ChatRequest) -> ChatResponse:
        """Wait for the server, then ask.

        Raises:
            TooLongError: prompt or answer are too long for the server.
            Exception: any other error, see `backends.Backend`.
        """
        from openai import BadRequestError  # noqa: PLC0415

        left = self._wait(time.monotonic() + self._model.timeout_s)
        try:
            # As the policy is asked for its actions, see `policy.tokenizer`.
            plainly = {"enable_thinking": False}
            return self._ask(request, left, chat_template_kwargs=plainly)
        except BadRequestError as error:
            if any(words in str(error) for words in _TOO_LONG):
                raise TooLongError(
                    f"max_tokens={self._model.max_tokens}: prompt and answer exceed the"
                    " server's context: lower it, or start the server with a larger "
                    f"--max-model-len; it says: {error}"
                ) from error
            raise

    def _wait(self, deadline: float) -> float:
        """Return the seconds that are left when the server has got weights.

        Raises:
            TimeoutError: none are.
        """
        from httpx import HTTPError  # noqa: PLC0415

        while (left := deadline - time.monotonic()) > 0:
            try:
                answer = self._http.get("/weight_info", timeout=left)
                if answer.raise_for_status().json()["weight_version"] != "default":
                    return deadline - time.monotonic()
            except HTTPError:
                pass  # it is being started again
            time.sleep(min(_PAUSE, left))
        raise TimeoutError(
            f"{self._url} has not been ready in {self._model.timeout_s} s"
        )

    @cached_property
    def _http(self) -> Any:
        import httpx  # noqa: PLC0415

        socket = self._url.removeprefix("unix:")
        local = socket != self._url
        return httpx.Client(
            base_url="http://vllm" if local else self._url,
            transport=httpx.HTTPTransport(uds=socket if local else None),
            # A server that ends takes kept connections with it.
            headers={"Connection": "close"},
        )

    @cached_property
    def _client(self) -> Any:
        import openai  # noqa: PLC0415

        return openai.OpenAI(
            api_key=self._model.key or "none",
            base_url=f"{str(self._http.base_url).rstrip('/')}/v1",
            http_client=self._http,
            max_retries=0,
        )
