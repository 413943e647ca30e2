"""The routes of a vLLM server that we use, and nothing else.

They are those of vLLM 0.30 to 0.33, with `VLLM_SERVER_DEV_MODE=1` and
`--enable-scale-out`; `Api.check_routes` asks a server whether it has them.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
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
# Further ones, of servers that share their devices with the trainer.
_SLEEP_ROUTES = ("/sleep", "/wake_up", "/is_sleeping", "/server_info")
# Ends the version of a server while vLLM's own reload changes its weights.
_PARTLY = " (partly)"
# After an error a server closes the connection without saying so, and the next request
# on it would be lost. Only requests for responses reuse connections: they are retried.
_CLOSE = {"Connection": "close"}
_LARGEST = float(np.finfo(np.float32).max)
_MAX_SHOWN = 300  # characters of a response that an error message quotes


class ServerError(RuntimeError):
    """A server answered with an error, or in an unexpected form.

    Attributes:
        status: of the HTTP response; 0 if its content was wrong.
    """

    def __init__(self, route: str, status: int, text: str):
        answered = f" answered {status}" if status else ""
        super().__init__(f"{route}{answered}: {text[:_MAX_SHOWN]}")
        self.status = status


class UnusableError(RuntimeError):
    """A server must be restarted: its weights may be incomplete."""


@dataclass(frozen=True)
class Sampled:
    """The sampled response to one request.

    Attributes:
        tokens: int32 [n].
        logprobs: float32 [n].
        versions: of the weights that sampled them.
        stopped: whether the response ended with a stop token.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    versions: tuple[int, ...]
    stopped: bool


class Api:
    """One server; all methods but `close` are coroutines of one event loop."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        max_connections: int = 256,
        *,
        vocab_size: int = 2**31,
        sleeps: bool = False,
    ):
        """Connect lazily.

        Args:
            url: http://host:port, or unix:/path/to/socket.
            timeout_s: seconds that any response may take.
            max_connections: that are open at the same time; they are kept open.
            vocab_size: every token that is sampled is below it.
            sleeps: whether the server may be asleep when weights come, so that it is
                to be woken.
        """
        self._vocab_size = vocab_size
        self._sleeps = sleeps
        socket = url.removeprefix("unix:") if url.startswith("unix:") else None
        limits = httpx.Limits(
            max_connections=max_connections, max_keepalive_connections=max_connections
        )
        self.url = url
        self._client = httpx.AsyncClient(
            base_url="http://vllm" if socket else url,
            transport=httpx.AsyncHTTPTransport(uds=socket, limits=limits),
            # No limit for the wait for a free connection.
            timeout=httpx.Timeout(timeout_s, pool=None),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def is_ready(self) -> bool:
        """Tell whether the server is up.

        Raises:
            ServerError: whatever listens there is not a vLLM server.
        """
        try:
            answer = await self._client.get("/health", timeout=5.0)
        except httpx.TransportError:
            return False
        if 400 <= answer.status_code < 500:
            raise ServerError(
                "/health",
                answer.status_code,
                f"{self.url} is not a vLLM server: does another program listen there?",
            )
        return answer.status_code == 200

    async def check_routes(self) -> None:
        """Check that the server has all routes that we use.

        Raises:
            ServerError: some are missing; the message says which, and what to do.
        """
        known = (await self._get("/openapi.json")).get("paths")
        known = known if isinstance(known, dict) else {}
        wanted = _ROUTES + (_SLEEP_ROUTES if self._sleeps else ())
        if missing := [route for route in wanted if route not in known]:
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

    async def check_sleep_mode(self) -> None:
        """Check that the server can give the memory of its devices back.

        One that cannot answers as if it could.

        Raises:
            ServerError: it was started without its sleep mode, or does not tell.
        """
        await self.check_routes()
        route = "/server_info"
        info = await self._get(f"{route}?config_format=json")
        try:
            enabled = info["vllm_config"]["model_config"]["enable_sleep_mode"]
        except (KeyError, TypeError) as error:
            raise ServerError(route, 0, f"{error!r} in {info}") from error
        if enabled is not True:
            raise ServerError(
                route,
                0,
                "it runs without sleep mode, so that it would keep the memory that "
                "the trainer needs: start it with --enable-sleep-mode",
            )

    async def sleep(self) -> None:
        """Give the memory of the server's devices back until an update.

        Running requests finish first. Weights move to the host's memory (level 1), not
        away: a server that refuses the next ones must still have them.

        Raises:
            ServerError: it does not sleep.
        """
        await self._post("/sleep?level=1&mode=wait")
        await self._require_sleeping(True)

    async def _require_sleeping(self, wanted: bool) -> None:
        route = "/is_sleeping"
        answer = await self._get(route)
        if answer.get("is_sleeping") is not wanted:
            raise ServerError(route, 0, f"{answer}, which should be {wanted}")

    async def generate(
        self, request: Request, stops: Sequence[int], salt: str
    ) -> Sampled:
        """Sample one response.

        Args:
            request: what to sample.
            stops: the tokens that end the response, and no others do.
            salt: of the prefix cache: only keys and values that were computed for
                requests with the same one are used.

        Raises:
            ServerError: the response is unusable, e.g. the request was aborted.
            httpx.TransportError: there was no response.
        """
        sampling = request.sampling
        parameters = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": -1,
            "seed": request.seed,
            "stop_token_ids": list(stops),
        }
        return await self._sample(request.prompt, parameters, cache_salt=salt)

    async def tempers_logprobs(self) -> bool:
        """Tell whether log-probs are those at the sampling temperature.

        This is so where they are of what is drawn from (`processed_logprobs`): then
        they are 0 if a single token can be drawn.
        """
        parameters = {"max_tokens": 1, "temperature": 1.0, "top_k": 1}
        sampled = await self._sample([0], parameters)
        return bool(np.all(sampled.logprobs == 0))

    async def _sample(
        self, prompt: Sequence[int], parameters: Mapping[str, Any], **options: str
    ) -> Sampled:
        """Sample a response; what the parameters leave out changes nothing."""
        route = "/inference/v1/generate"
        body: dict[str, Any] = {
            "token_ids": list(map(int, prompt)),
            "sampling_params": {
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "presence_penalty": 0.0,
                "frequency_penalty": 0.0,
                "ignore_eos": True,  # the server's own, which may be others
                "logprobs": 0,
                "detokenize": False,
                **parameters,
            },
            **options,
        }
        answer = await self._post(route, body, keep=True)
        try:
            (choice,) = answer["choices"]
            return _sampled(choice, vocab_size=self._vocab_size, **parameters)
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(route, 0, f"{error!r} in {answer}") from error

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
            return _logprobs(
                entry[str(token)]
                for entry, token in zip(entries, tokens[1:], strict=True)
            )
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ServerError(route, 0, f"{error!r} in {answer}") from error

    async def model(self) -> str:
        """Return the name of the model that is served."""
        answer = await self._get("/v1/models")
        try:
            return str(answer["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise ServerError("/v1/models", 0, f"{error!r} in {answer}") from error

    async def init_transfer(self, info: Mapping[str, Any]) -> None:
        """Initialise the server's transfer engine, before the first update."""
        await self._post("/init_weight_transfer_engine", {"init_info": dict(info)})

    async def end_transfer(self) -> None:
        """Shut down the server's transfer engine; it may be initialised again."""
        await self._post("/shutdown_weight_transfer_engine")

    async def world_size(self) -> int:
        """Return the number of processes that the server splits its model over."""
        route = "/get_world_size"
        size = (await self._get(route)).get("world_size")
        if not isinstance(size, int) or size < 1:
            raise ServerError(route, 0, f"world_size {size!r}")
        return size

    @asynccontextmanager
    async def update(self, version: str, *, atomic: bool = True) -> AsyncIterator[None]:
        """Update the weights, which `receive` brings in the body of the `with`.

        Running requests finish on the old weights.

        Args:
            version: of the new weights.
            atomic: whether the server keeps its old weights, and goes on with them,
                when the update fails.

        Raises:
            ServerError: the server refused the weights and keeps its old ones; or it
                reports another version afterwards.
            UnusableError: the update failed and was not atomic, so that the weights may
                be incomplete; the server is left paused, so that it answers nothing.
        """
        async with self._paused(version, atomic):
            await self._post("/start_weight_update")
            yield
            await self._post("/finish_weight_update", {"weight_version": version})

    async def reload(self, directory: str, version: str) -> None:
        """Update the weights by vLLM's own reload, which every server has.

        It checks nothing before it empties the model. Running requests finish on the
        old weights.

        Args:
            directory: with safetensors files, which were checked.
            version: of the new weights.

        Raises:
            ServerError: the server reports another version afterwards.
            UnusableError: this reload or an earlier one failed: the weights may be
                incomplete, and the server is left paused.
        """
        if (served := await self.weight_version()).endswith(_PARTLY):
            raise UnusableError(
                f"{self.url} has version {served!r} of the weights, since a reload "
                f"failed or was interrupted: restart that server (can it read "
                f"{directory}?)"
            )
        async with self._paused(version, atomic=False):
            # This version stays if the reload fails, so that later ones notice.
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
        """Pause for a change of weights in the body of the `with`; see `update`.

        A server that sleeps is given room for weights first, and for keys and values
        when it has them: the new weights may need room of their own meanwhile.
        """
        if self._sleeps:
            await self._post("/wake_up?tags=weights")
        await self._post("/pause?mode=wait")
        try:
            yield
            # Salts keep requests of other versions apart, but not those that waited
            # while weights came, nor those of others, who send none.
            answer = await self._post("/reset_prefix_cache")
            if answer.get("success") is not True:
                raise ServerError("/reset_prefix_cache", 0, str(answer))
        except BaseException as error:
            if atomic:
                await self._resume()
            elif isinstance(error, Exception):
                raise UnusableError(
                    f"{self.url} may have incomplete weights of version {version}: "
                    f"{error!r}"
                ) from error
            raise
        await self._resume()
        if (served := await self.weight_version()) != version:
            raise ServerError(
                "/weight_info",
                0,
                f"version {served!r}, not {version!r}: does another run push to this "
                "server?",
            )

    async def _resume(self) -> None:
        if self._sleeps:
            await self._post("/wake_up?tags=kv_cache")
        await self._post("/resume")
        if self._sleeps:
            await self._require_sleeping(False)

    async def receive(self, info: Mapping[str, Any]) -> None:
        """Have the server's transfer engine receive weights; return when it has."""
        await self._post("/update_weights", {"update_info": dict(info)})

    async def weight_version(self) -> str:
        """Return the version of the served weights; "default" after a start."""
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


def _sampled(
    choice: Mapping[str, Any],
    *,
    vocab_size: int,
    max_tokens: int,
    stop_token_ids: Sequence[int] = (),
    **_: Any,
) -> Sampled:
    """Check a sampled response against what was asked for.

    Raises:
        KeyError: something is missing, or of another form; likewise TypeError.
        ValueError: it cannot be the response to such a request.
    """
    tokens, reason = choice["token_ids"], choice["finish_reason"]
    logprobs = _logprobs(choice["logprobs"]["content"])
    if not all(type(token) is int and 0 <= token < vocab_size for token in tokens):
        raise ValueError(f"token_ids: not all are integers from 0 to {vocab_size - 1}")
    if not 1 <= len(tokens) == len(logprobs) <= max_tokens:
        raise ValueError(
            f"{len(tokens)} tokens and {len(logprobs)} log-probs, of 1 to {max_tokens}"
        )
    stopped = reason == "stop" and tokens[-1] in stop_token_ids
    if not stopped and reason != "length":
        raise ValueError(f"finish_reason {reason!r}, last token {tokens[-1]}")
    spans = choice.get("weight_versions") or []
    return Sampled(
        np.array(tokens, np.int32),
        logprobs,
        tuple(int(span["version"]) for span in spans),
        stopped,
    )


def _logprobs(entries: Iterable[Mapping[str, Any]]) -> np.ndarray:
    """Read log-probs from what a server says of tokens, float32 [n].

    Raises:
        KeyError: an entry has none, or is of another form; likewise TypeError.
        ValueError: one cannot be a log-prob.
    """
    found = [entry["logprob"] for entry in entries]
    # Rounding may leave something above 0.
    if not all(type(x) in (int, float) and -_LARGEST <= x <= 0.01 for x in found):
        raise ValueError("log-probs: not all are finite numbers, 0 or less")
    return np.array(found, np.float32)


def _read(route: str, answer: httpx.Response) -> dict[str, Any]:
    if answer.status_code != 200:
        raise ServerError(route, answer.status_code, answer.text)
    if not answer.content:
        return {}
    try:
        document = answer.json()
    except (ValueError, RecursionError) as error:
        raise ServerError(route, 0, f"not JSON: {answer.text!r}") from error
    if not isinstance(document, dict):
        raise ServerError(route, 0, f"not a JSON object: {document!r}")
    return document
