"""The routes of a vLLM server that we use, and nothing else.

They are those of vLLM 0.30 to 0.33, with `VLLM_SERVER_DEV_MODE=1` and
`--enable-scale-out`. Whether a server has them is found out from the server.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np

from reskill_jax.rollout.engine import Request

_ROUTES = (
    "/inference/v1/generate",
    "/v1/completions",
    "/init_weight_transfer_engine",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/pause",
    "/resume",
    "/reset_prefix_cache",
    "/weight_info",
    "/update_weight_version",
    "/collective_rpc",
)
# What a server's version ends with while vLLM's own reload changes its weights.
_PARTLY = " (partly)"
# A server closes the connection after an error, without a word: what comes next on it
# would be lost. Only requests for responses, which are asked again, use kept ones.
_CLOSE = {"Connection": "close"}
_SHOWN = 300  # characters of an answer that an error message shows


class ServerError(RuntimeError):
    """A server answered with an error, or with something else than agreed.

    Attributes:
        status: of the HTTP answer; 0 if its content was wrong.
    """

    def __init__(self, route: str, status: int, text: str):
        super().__init__(f"{route} answered {status}: {text[:_SHOWN]}")
        self.status = status


class UnusableError(RuntimeError):
    """A server has to be started again: it has parts of weights, or waits for them."""


@dataclass(frozen=True)
class Sampled:
    """What came back for one request.

    Attributes:
        tokens: int32 [n].
        logprobs: float32 [n].
        versions: of the weights that sampled them, in order, without repetitions.
        stopped: whether the response ended by itself.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    versions: tuple[str, ...]
    stopped: bool


class Api:
    """One server; all methods but `close` are coroutines of one event loop."""

    def __init__(self, url: str, timeout: float, connections: int = 256):
        """Connect lazily.

        Args:
            url: http://host:port, or unix:/path/to/socket.
            timeout: seconds that any answer may take.
            connections: that are open at once, at most; they are kept.
        """
        socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        limits = httpx.Limits(
            max_connections=connections, max_keepalive_connections=connections
        )
        self.url = url
        self._client = httpx.AsyncClient(
            base_url="http://vllm" if socket else url,
            transport=httpx.AsyncHTTPTransport(uds=socket, limits=limits),
            # A request waits for a free connection as long as it has to.
            timeout=httpx.Timeout(timeout, pool=None),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def is_ready(self) -> bool:
        """Tell whether the server is up.

        Raises:
            ServerError: something else than a vLLM server listens there.
        """
        try:
            answer = await self._client.get("/health", timeout=5.0)
        except httpx.TransportError:
            return False
        if 400 <= answer.status_code < 500:
            raise ServerError(
                "/health",
                answer.status_code,
                f"{self.url} is no vLLM server, does something else listen there?",
            )
        return answer.status_code == 200

    async def check_routes(self) -> None:
        """Check that the server is one that we can work with.

        Raises:
            ServerError: it lacks routes; the message says which, and what to do.
        """
        known = (await self._get("/openapi.json")).get("paths", {})
        if missing := [route for route in _ROUTES if route not in known]:
            try:
                version = (await self._get("/version"))["version"]
            except (ServerError, KeyError):
                version = "of unknown version"
            raise ServerError(
                "/openapi.json",
                0,
                f"this vLLM {version} lacks {', '.join(missing)}: start it with "
                "VLLM_SERVER_DEV_MODE=1 and --enable-scale-out; versions 0.30 to 0.33 "
                "are supported",
            )

    async def generate(self, request: Request, stop: int) -> Sampled:
        """Sample one response, which ends with `stop`; -1: at its length only.

        Raises:
            ServerError: no usable answer, e.g. because the request was aborted.
            httpx.TransportError: no answer.
        """
        sampling = request.sampling
        body = {
            "token_ids": list(map(int, request.prompt)),
            "sampling_params": {
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": -1,
                "min_p": 0.0,
                "seed": request.seed,
                "stop_token_ids": [stop] if stop >= 0 else [],
                "ignore_eos": stop < 0,
                "logprobs": 0,
                "detokenize": False,
            },
        }
        route = "/inference/v1/generate"
        answer = await self._post(route, body, keep=True)
        try:
            (choice,) = answer["choices"]
            tokens = np.array(choice["token_ids"], np.int32)
            content = choice["logprobs"]["content"]
            logprobs = np.array([x["logprob"] for x in content], np.float32)
            spans = choice.get("weight_versions") or []
            versions = tuple(dict.fromkeys(str(span["version"]) for span in spans))
            reason = choice["finish_reason"]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(route, 0, f"{error!r} in {answer}") from error
        if reason not in ("stop", "length") or len(tokens) != len(logprobs):
            raise ServerError(
                route,
                0,
                f"finish_reason {reason!r}, {len(tokens)} tokens, {len(logprobs)} "
                "log-probs",
            )
        if not len(tokens) or not np.isfinite(logprobs).all():
            raise ServerError(route, 0, f"{len(tokens)} tokens, log-probs {logprobs}")
        return Sampled(tokens, logprobs, versions, reason == "stop")

    async def prompt_logprobs(self, model: str, tokens: Sequence[int]) -> np.ndarray:
        """Return the log-probs of all tokens but the first, float32 [n - 1]."""
        route = "/v1/completions"
        body = {
            "model": model,
            "prompt": list(map(int, tokens)),
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 0,
        }
        answer = await self._post(route, body)
        try:
            entries = answer["choices"][0]["prompt_logprobs"][1:]
            found = [
                entry[str(token)]["logprob"]
                for entry, token in zip(entries, tokens[1:], strict=True)
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ServerError(route, 0, f"{error!r} in {answer}") from error
        return np.array(found, np.float32)

    async def model(self) -> str:
        """Return the name of the model that is served."""
        answer = await self._get("/v1/models")
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ServerError("/v1/models", 0, f"{error!r} in {answer}") from error

    async def init_transfer(self, info: Mapping[str, Any]) -> None:
        """Tell the server's transfer engine what it has to know before updates."""
        await self._post("/init_weight_transfer_engine", {"init_info": dict(info)})

    async def end_transfer(self) -> None:
        """Have the server's transfer engine let go of whoever sent before."""
        await self._post("/shutdown_weight_transfer_engine")

    async def world_size(self) -> int:
        """Return over how many processes the server splits its model."""
        route = "/get_world_size"
        size = (await self._get(route)).get("world_size")
        if not isinstance(size, int) or size < 1:
            raise ServerError(route, 0, f"world_size {size!r}")
        return size

    @asynccontextmanager
    async def update(self, version: str, *, atomic: bool = True) -> AsyncIterator[None]:
        """Take new weights, which `receive` brings in the body of the `with`.

        Requests that run end on the old ones.

        Args:
            version: of the weights.
            atomic: the server has all of its old weights if it does not get the new
                ones: it goes on with them.

        Raises:
            ServerError: the weights were refused, and the server has its old ones; or
                its version is not the one that was sent.
            UnusableError: they were not, and it may have parts of both: it is left
                paused, so that nobody gets to see what it computes.
        """
        async with self._paused(version, atomic):
            await self._post("/start_weight_update")
            yield
            await self._post("/finish_weight_update", {"weight_version": version})

    async def reload(self, directory: str, version: str) -> None:
        """Take new weights by vLLM's own reload, which every server has.

        It checks nothing before it empties the model. Requests that run end on the old
        weights.

        Args:
            directory: with safetensors files that are known to fit.
            version: of the weights.

        Raises:
            ServerError: the server's version is not the one that was sent.
            UnusableError: this reload failed, or an earlier one, whoever asked for it:
                the server may have parts of weights, and is left paused.
        """
        if (served := await self.weight_version()).endswith(_PARTLY):
            raise UnusableError(
                f"{self.url} has version {served!r} of the weights, since a reload "
                "failed or was interrupted: start that server again (does it see "
                f"{directory}?)"
            )
        async with self._paused(version, atomic=False):
            # Stays if the reload fails, so that no later one builds on what is left.
            await self._post(
                "/update_weight_version", {"new_version": version + _PARTLY}
            )
            arguments = {"weights_path": directory}
            await self._post(
                "/collective_rpc", {"method": "reload_weights", "kwargs": arguments}
            )
            await self._post("/update_weight_version", {"new_version": version})

    @asynccontextmanager
    async def _paused(self, version: str, atomic: bool) -> AsyncIterator[None]:
        """Change weights in the body of the `with`; see `update`."""
        await self._post("/pause?mode=wait")
        try:
            yield
            answer = await self._post("/reset_prefix_cache")
            if answer.get("success") is not True:
                raise ServerError("/reset_prefix_cache", 0, str(answer))
        except BaseException as error:
            if atomic:
                await self._post("/resume")
            elif isinstance(error, Exception):
                raise UnusableError(
                    f"{self.url} may have parts of version {version} of the weights: "
                    f"{error!r}"
                ) from error
            raise
        await self._post("/resume")
        if (served := await self.weight_version()) != version:
            raise ServerError(
                "/weight_info",
                0,
                f"version {served!r}, not {version!r}: does another run push to it?",
            )

    async def receive(self, info: Mapping[str, Any]) -> None:
        """Have the server's transfer engine receive weights; answers when it has."""
        await self._post("/update_weights", {"update_info": dict(info)})

    async def weight_version(self) -> str:
        """Return the version that is served; "default" after a start."""
        try:
            return str((await self._get("/weight_info")).get("weight_version"))
        except ServerError as error:
            if error.status == 404:
                await self.check_routes()
            raise

    async def _get(self, route: str) -> dict[str, Any]:
        return _read(route, await self._client.get(route, headers=_CLOSE))

    async def _post(
        self, route: str, body: Any = None, *, keep: bool = False
    ) -> dict[str, Any]:
        headers = {} if keep else _CLOSE
        return _read(
            route, await self._client.post(route, json=body or {}, headers=headers)
        )


def _read(route: str, answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise ServerError(route, answer.status_code, answer.text)
    if not answer.content:
        return {}
    try:
        document = answer.json()
    except ValueError as error:
        raise ServerError(route, 0, f"no JSON: {answer.text!r}") from error
    if not isinstance(document, dict):
        raise ServerError(route, 0, f"no object: {document!r}")
    return document
