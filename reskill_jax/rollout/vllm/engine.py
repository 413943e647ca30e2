"""Samples with vLLM servers: processes beside the trainer, in an environment of theirs.

    engine = VllmEngine(config, params, model, servers, ...)
    completion = await engine.generate(request)      # from any number of coroutines
    engine.push(params, version)

All of an episode's requests go to one server, whose prefix cache holds its trunk. A
push brings all weights to all servers, through files (`vllm_files`) or from device to
device (`vllm_nccl`), and checks by the log-probs of a fixed text that they compute what
the trainer does. A server that ends or hangs is started again, gets the weights again,
and requests that it lost are asked again: a request's answer is a function of weights,
prompt and seed.

Of several trainer processes each has an engine with servers of its own. They push
together, for preparing weights and scoring the text are programs on all devices; what
follows, and whatever happens between pushes, is each one's own affair. One that fails
ends the run, since the others would wait for it.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import httpx
import numpy as np

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.rollout.engine import Completion, Request
from reskill_jax.rollout.vllm.api import Api, ServerError, UnusableError
from reskill_jax.rollout.vllm.server import Server

T = TypeVar("T")
W = TypeVar("W")

_FAULTS = (httpx.HTTPError, ServerError)
# What a server that is started again does not suffer from any more.
_BROKEN = (httpx.HTTPError, UnusableError)
# Why else another's server may compute something else, if the output layer is tied.
_TIED = (
    " Or does it run on a CPU without our plugin (rollout/vllm/plugin)? There, "
    "vLLM's own reload leaves an output layer that is tied to the embedding as it was: "
    "start the server with the plugin"
)
# Scores a text under weights: tokens [n] -> the log-probs of all but the first [n - 1].
Score = Callable[[Params, Sequence[int]], np.ndarray]


class Transfer(Protocol[W]):
    """How weights come to servers; coroutines run in the engine's loop."""

    def prepare(self, params: Params, version: int) -> W:
        """Return what `send` needs, until `discard`; called by all processes together.

        The parameters stay as they are until the next push, or until nothing is asked
        any more: a server that is started again gets them again.
        """

    async def send(self, api: Api, weights: W, version: str, *, fresh: bool) -> None:
        """Have a server serve weights; servers get them at the same time.

        Args:
            api: its routes.
            weights: of `prepare`.
            version: what the server is to call them.
            fresh: it has got none since it was started.

        Raises:
            ServerError: it refuses them, and serves what it served.
            UnusableError: it cannot be used any more until it is started again.
            httpx.HTTPError: it ended, or hangs.
            RuntimeError: they are not fit to be sent, and were not.
        """

    def discard(self, weights: W) -> None:
        """Free what `prepare` took."""

    def close(self) -> None:
        """Free everything."""


@dataclass
class Replica:
    """A server and what we know of it.

    Attributes:
        api: its routes.
        server: its process; None if somebody else runs it.
        repair: held while it is being brought back.
        starts: how often it has been started again.
        ready: whether it has ever been.
        sessions: episodes that are played on it.
    """

    api: Api
    server: Server | None
    repair: asyncio.Lock = field(default_factory=asyncio.Lock)
    starts: int = 0
    ready: bool = False
    sessions: set[str] = field(default_factory=set)


class VllmEngine:
    """Samples with vLLM; see the module's docstring.

    Attributes:
        counters: so far: "retried" requests, "restarted" servers.
    """

    def __init__(
        self,
        config: DecoderConfig,
        params: Params,
        *,
        servers: Sequence[Server | str],
        transfer: Transfer[Any],
        eos_id: int,
        score: Score,
        logprob_tolerance: float,
        version: int = 0,
        start_timeout_s: float = 600.0,
        timeout: float = 300.0,
        attempts: int = 3,
    ):
        """Wait for the servers and bring them the weights.

        Args:
            config: the decoder's shape.
            params: the weights.
            servers: processes of ours, or the addresses of others'.
            transfer: how weights come to them; closed with the engine.
            eos_id: the token that ends a response.
            score: computes what the servers should, for the check after a push.
            logprob_tolerance: of that check, in nats per token at most.
            version: of the weights.
            start_timeout_s: that a server may take to start.
            timeout: seconds for one answer.
            attempts: at one request.

        Raises:
            RuntimeError: a server does not start, or does not serve this policy.
        """
        self._transfer = transfer
        self._eos_id = eos_id
        self._score = score
        self._logprob_tolerance = logprob_tolerance
        self._start_timeout_s = start_timeout_s
        self._attempts = attempts
        self._home: dict[str, Replica] = {}  # of a session
        # What is sent, its version, and the fixed text's log-probs.
        self._weights: tuple[Any, int, np.ndarray] | None = None
        self.counters: Counter[str] = Counter()
        generator = np.random.default_rng(0)
        length = min(64, config.max_position_embeddings)
        self._text = generator.integers(0, config.vocab_size, length).tolist()
        self._tied = config.tie_word_embeddings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="vllm-engine", daemon=True
        )
        self._thread.start()
        self._replicas = [
            Replica(Api(server, timeout), None)
            if isinstance(server, str)
            else Replica(Api(server.url, timeout), server)
            for server in servers
        ]
        try:
            self.push(params, version)
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> Sequence[str]:
        """Where the servers are; requests to them are in nobody's way here."""
        return [replica.api.url for replica in self._replicas]

    async def generate(self, request: Request) -> Completion:
        """Sample one response; calls run concurrently.

        Raises:
            RuntimeError: no server answered, however often it was asked.
        """
        return await asyncio.wrap_future(self._submit(self._generate(request)))

    def release(self, session: str) -> None:
        """Forget where a session was played."""
        if replica := self._home.pop(session, None):
            replica.sessions.discard(session)

    def push(self, params: Params, version: int) -> None:
        """Serve these weights from now on; requests that run end on the old ones.

        Raises:
            OSError: there is no room for files.
            RuntimeError: a server does not take them, or computes something else.
        """
        weights = self._transfer.prepare(params, version)
        expected = self._score(params, self._text)
        before, self._weights = self._weights, (weights, version, expected)
        try:
            self._wait(self._for_all(self._bring))
        except BaseException:
            self._weights = before  # which a server that was asked in vain still has
            self._transfer.discard(weights)
            raise
        if before:
            self._transfer.discard(before[0])

    def sleep(self) -> None:
        """Do nothing: servers have devices of their own."""

    def close(self) -> None:
        """Stop the servers that are ours and free what the weights took."""
        try:
            self._wait(self._for_all(lambda replica: replica.api.close()))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            for replica in self._replicas:
                if replica.server:
                    replica.server.stop()
            self._transfer.close()

    async def _generate(self, request: Request) -> Completion:
        replica = self._replica(request.session)
        for attempt in range(1, self._attempts + 1):
            starts = replica.starts
            try:
                sampled = await replica.api.generate(request, self._eos_id)
                break
            except _FAULTS as error:
                refused = isinstance(error, ServerError) and 400 <= error.status < 500
                if refused or attempt == self._attempts:
                    raise RuntimeError(
                        f"session {request.session!r}: {replica.api.url} gave no "
                        f"answer at attempt {attempt}: {error!r}{_log_of(replica)}"
                    ) from error
                self.counters["retried"] += 1
                await self._repair(replica, starts, error)
        versions = [int(v) for v in sampled.versions]
        assert self._weights is not None
        return Completion(
            tokens=sampled.tokens,
            logprobs=np.minimum(sampled.logprobs, 0.0),
            version=min(versions, default=self._weights[1]),
            stopped=sampled.stopped,
        )

    def _replica(self, session: str) -> Replica:
        """Return where a session is played; a new one goes where there are fewest."""
        if session not in self._home:
            replica = min(self._replicas, key=lambda replica: len(replica.sessions))
            replica.sessions.add(session)
            self._home[session] = replica
        return self._home[session]

    async def _repair(self, replica: Replica, starts: int, error: Exception) -> None:
        """Bring a server back, unless it was since its `starts`-th start."""
        async with replica.repair:
            if replica.starts == starts and not await self._serves(replica):
                await self._start_again(replica, error)

    async def _serves(self, replica: Replica) -> bool:
        """Tell whether a server has the newest weights and computes with them."""
        assert self._weights is not None
        try:
            version = await replica.api.weight_version()
            await self._check(replica)
        except (*_FAULTS, RuntimeError):
            return False
        return version == str(self._weights[1])

    async def _bring(self, replica: Replica) -> None:
        """Bring a server the newest weights; it may have to be started again."""
        async with replica.repair:
            if replica.ready and not await replica.api.is_ready():
                await self._restart(replica)
            try:
                await self._send(replica)
            except _BROKEN as error:
                await self._start_again(replica, error)

    async def _start_again(self, replica: Replica, why: Exception) -> None:
        """Start a server again and send it the newest weights.

        Raises:
            RuntimeError: it breaks again.
        """
        await self._restart(replica)
        try:
            await self._send(replica)
        except _BROKEN as error:
            ours = replica.server is not None
            done = "was started again" if ours else "is not ours to start again"
            raise RuntimeError(
                f"{replica.api.url} {done}, after {why!r}, and did not take "
                f"weights again: {error!r}{_log_of(replica)}"
            ) from error

    async def _restart(self, replica: Replica) -> None:
        """Start a server again; one of somebody else has to come back by itself."""
        if replica.server is not None:
            await asyncio.to_thread(replica.server.restart)
        replica.starts += 1
        replica.ready = False
        self.counters["restarted"] += 1

    async def _send(self, replica: Replica) -> None:
        """Send a server, which may still be starting, the newest weights."""
        assert self._weights is not None
        weights, version, _ = self._weights
        await self._until_ready(replica)
        try:
            fresh = await replica.api.weight_version() == "default"
            if fresh:
                await replica.api.check_routes()
            await self._transfer.send(replica.api, weights, str(version), fresh=fresh)
        except ServerError as error:
            raise RuntimeError(
                f"{replica.api.url} does not take version {version} of the weights: "
                f"{error}{_log_of(replica)}"
            ) from error
        await self._check(replica)

    async def _until_ready(self, replica: Replica) -> None:
        """Wait for a server.

        Raises:
            RuntimeError: it ended, or takes too long.
        """
        loop, server = asyncio.get_running_loop(), replica.server
        started = loop.time()
        while not await replica.api.is_ready():
            waited = loop.time() - started
            ended = server is not None and server.ended()
            if ended or waited > self._start_timeout_s:
                raise RuntimeError(
                    f"the vLLM server {replica.api.url} "
                    f"{'ended' if ended else 'is not ready'} after {waited:.0f} s "
                    f"(config.engine.vllm.start_timeout_s={self._start_timeout_s:g})"
                    f"{_log_of(replica)}"
                )
            await asyncio.sleep(0.5)
        replica.ready = True

    async def _check(self, replica: Replica) -> None:
        """Compare the log-probs of a fixed text.

        Raises:
            RuntimeError: they differ by more than the tolerance.
        """
        assert self._weights is not None
        _, version, expected = self._weights
        name = await replica.api.model()
        found = await replica.api.prompt_logprobs(name, self._text)
        difference = float(np.abs(found - expected).max())
        if not difference <= self._logprob_tolerance:
            hint = _TIED if self._tied and replica.server is None else ""
            raise RuntimeError(
                f"{replica.api.url} serves {name!r} version {version}, but its "
                f"log-probs are up to {difference:.2g} off the trainer's "
                f"(config.engine.vllm.logprob_tolerance={self._logprob_tolerance:g}): "
                f"is it the same model, and the same dtype?{hint}"
            )

    async def _for_all(
        self, action: Callable[[Replica], Coroutine[Any, Any, T]]
    ) -> None:
        async with asyncio.TaskGroup() as running:
            for replica in self._replicas:
                running.create_task(action(replica))

    def _submit(self, work: Coroutine[Any, Any, T]) -> futures.Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._submit(work).result()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group


def _log_of(replica: Replica) -> str:
    if replica.server is None:
        return ""
    return f"\nthe end of {replica.server.log}:\n{replica.server.tail()}"
