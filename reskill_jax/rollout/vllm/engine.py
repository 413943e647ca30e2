"""Samples with vLLM servers, which run beside the trainer in another environment.

    engine = VllmEngine(config, params, servers=servers, ...)
    completion = await engine.generate(request)      # from any number of coroutines
    engine.push(params, version)

All of an episode's requests go to one server, whose prefix cache holds its trunk. A
push brings all weights to all servers, through files (`files_transfer`) or from device
to device (`nccl_transfer`), and checks by the log-probs of a fixed text that they
compute what the trainer does. A server that ends or hangs is restarted and gets the
weights again, and its requests are sent again: a response is a function of weights,
prompt and seed.

Servers on the trainer's own devices (`colocate`) sleep while the policy is updated:
they give their memory back, and the next push wakes them.

With several trainer processes, each has an engine and servers of its own. They push
together, since preparing weights and scoring the text are programs on all devices; what
follows, and all that happens between pushes, is independent. A process that fails ends
the run, since the others would wait for it.
"""

import asyncio
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from concurrent import futures
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar

import httpx
import numpy as np

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import Adapted, merge
from reskill_jax.rollout.engine import Completion, Request
from reskill_jax.rollout.vllm.api import Api, ServerError, UnusableError
from reskill_jax.rollout.vllm.server import Server

T = TypeVar("T")
W = TypeVar("W")

_REQUEST_ERRORS = (httpx.HTTPError, ServerError)
_CURED_BY_RESTART = (httpx.HTTPError, UnusableError)
# Another reason for differing log-probs, if the output layer is tied to the embedding.
_TIED = (
    " Or does it run on a CPU without our plugin (rollout/vllm/plugin)? There, vLLM's "
    "own reload does not update an output layer that is tied to the embedding: start "
    "the server with the plugin"
)
# (params, tokens [n]) -> the log-probs of all tokens but the first, float32 [n - 1].
Score = Callable[[Params, Sequence[int]], np.ndarray]


class Transfer(Protocol[W]):
    """How weights reach servers; coroutines run in the engine's event loop."""

    def prepare(self, params: Params, version: int) -> W:
        """Return what `send` needs, until `discard`; called by all processes together.

        The parameters must stay unchanged until the next push, since a server that is
        restarted gets them again.
        """

    async def send(self, api: Api, weights: W, version: str, *, fresh: bool) -> None:
        """Have a server serve weights; called for all servers at the same time.

        Args:
            api: of the server.
            weights: from `prepare`.
            version: that the server is to report.
            fresh: whether these are its first weights since its start.

        Raises:
            ServerError: the server refuses them and keeps its old ones.
            UnusableError: the server must be restarted.
            httpx.HTTPError: the server ended or hangs.
            RuntimeError: the weights are damaged and were not sent.
        """

    def discard(self, weights: W) -> None:
        """Free what `prepare` allocated."""

    def close(self) -> None:
        """Free everything."""


@dataclass
class Replica:
    """A server and its state.

    Attributes:
        api: its routes.
        server: its process; None if it was started elsewhere.
        repair: held while it is restarted or gets weights.
        restarts: how often it was restarted.
        ready: whether it has answered since its last start.
        tempers: whether it was found to give log-probs at the sampling temperature.
        sleeps: whether it was found to have the sleep mode.
        sessions: episodes that are played on it.
    """

    api: Api
    server: Server | None
    repair: asyncio.Lock = field(default_factory=asyncio.Lock)
    restarts: int = 0
    ready: bool = False
    tempers: bool = False
    sleeps: bool = False
    sessions: set[str] = field(default_factory=set)


class VllmEngine:
    """Samples with vLLM; see the module's docstring.

    Attributes:
        counters: totals of "retried" requests and "restarted" servers.
    """

    batch_invariant = False  # by default; its kernels round by batch size

    def __init__(
        self,
        config: DecoderConfig,
        params: Params | Adapted,
        *,
        servers: Sequence[Server | str],
        transfer: Transfer[Any],
        eos_ids: Sequence[int],
        score: Score,
        logprob_tolerance: float,
        version: int = 0,
        start_timeout_s: float = 600.0,
        timeout_s: float = 300.0,
        max_attempts: int = 3,
        colocate: bool = False,
    ):
        """Wait for the servers and bring them the weights.

        Args:
            config: the decoder's shape.
            params: the weights.
            servers: processes of ours, or addresses of servers started elsewhere.
            transfer: how weights reach them; closed with the engine.
            eos_ids: the tokens that end a response; without any, its length does.
            score: computes the expected log-probs for the check after a push.
            logprob_tolerance: largest difference in that check, in nats per token.
            version: of the weights.
            start_timeout_s: seconds that a server may take to start.
            timeout_s: seconds that a response may take.
            max_attempts: how often one request is tried.
            colocate: whether servers are on the trainer's devices, so that `sleep` has
                them give their memory back.

        Raises:
            RuntimeError: a server does not start, or does not serve this policy.
        """
        self._transfer = transfer
        self._eos_ids = tuple(eos_ids)
        self._score = score
        self._logprob_tolerance = logprob_tolerance
        self._start_timeout_s = start_timeout_s
        self._max_attempts = max_attempts
        self._colocate = colocate
        # Versions of other trainers that use the same servers are other ones.
        self._salt = uuid.uuid4().hex
        self._replica_of: dict[str, Replica] = {}  # by session
        # The newest weights, their version, and the fixed text's log-probs under them.
        self._weights: tuple[Any, int, np.ndarray] | None = None
        self._finishing: set[asyncio.Task[Any]] = set()
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
        connect = partial(
            Api, timeout_s=timeout_s, vocab_size=config.vocab_size, sleeps=colocate
        )
        self._replicas = [
            Replica(connect(server), None)
            if isinstance(server, str)
            else Replica(connect(server.url), server)
            for server in servers
        ]
        try:
            self.push(params, version)
        except BaseException:
            self.close()
            raise

    @property
    def urls(self) -> Sequence[str]:
        """Addresses of the servers, to which others may send requests, too."""
        return [replica.api.url for replica in self._replicas]

    async def generate(self, request: Request) -> Completion:
        """Sample one response; calls run concurrently.

        Raises:
            ValueError: `top_p` is below 1: vLLM's log-probs would be of the tokens that
                it keeps, not of the vocabulary (`Completion.logprobs`).
            RuntimeError: the request failed `max_attempts` times, or was refused.
        """
        if (top_p := request.sampling.top_p) < 1:
            raise ValueError(
                f"top_p={top_p}: vLLM's log-probs would be too high by the log of the "
                "mass that it keeps: use 1.0, or the engine jax"
            )
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._generate(request), self._loop)
        )

    def release(self, session: str) -> None:
        """Forget which server a session was played on."""
        if replica := self._replica_of.pop(session, None):
            replica.sessions.discard(session)

    def push(self, params: Params | Adapted, version: int) -> None:
        """Serve these weights from now on; running requests finish on the old ones.

        Raises:
            OSError: there is not enough space for files.
            RuntimeError: a server does not take them, or its log-probs differ.
        """
        plain: Params = merge(params)
        weights = self._transfer.prepare(plain, version)
        expected = self._score(plain, self._text)
        before, self._weights = self._weights, (weights, version, expected)
        pushing = self._for_all(self._update)
        try:
            self._wait(pushing)
        except BaseException:
            if pushing.done():  # else it was interrupted, and ends in `close`
                self._weights = before  # which a server that refused still has
                self._transfer.discard(weights)
            raise
        if before and before[1] != version:  # else these have taken its place
            self._transfer.discard(before[0])

    def sleep(self) -> None:
        """Have servers on the trainer's devices give their memory back until a push.

        Others, which have devices of their own, stay awake.

        Raises:
            RuntimeError: a server does not sleep.
        """
        if self._colocate:
            self._wait(self._for_all(self._put_to_sleep))

    def close(self) -> None:
        """Stop the servers that are ours and free the weights.

        Those that were started elsewhere get the weights that are under way.
        """
        try:
            self._wait(asyncio.run_coroutine_threadsafe(self._end(), self._loop))
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
        for attempt in range(1, self._max_attempts + 1):
            restarts = replica.restarts
            try:
                await self._check_temperature(replica, request.sampling.temperature)
                sampled = await replica.api.generate(
                    request, self._eos_ids, self._cache_salt()
                )
                break
            except _REQUEST_ERRORS as error:
                refused = isinstance(error, ServerError) and 400 <= error.status < 500
                if refused or attempt == self._max_attempts:
                    raise RuntimeError(
                        f"session {request.session!r}: attempt {attempt} to sample a "
                        f"response from {replica.api.url} failed: {error!r}"
                        f"{_log_of(replica)}"
                    ) from error
                self.counters["retried"] += 1
                await self._repair(replica, restarts, error)
        assert self._weights is not None
        return Completion(
            tokens=sampled.tokens,
            logprobs=np.minimum(sampled.logprobs, 0.0),
            version=min(sampled.versions, default=self._weights[1]),
            stopped=sampled.stopped,
        )

    def _cache_salt(self) -> str:
        """Keep what old weights have computed away from responses of the new ones."""
        assert self._weights is not None
        return f"{self._salt}-{self._weights[1]}"

    async def _check_temperature(self, replica: Replica, temperature: float) -> None:
        """Ask a server that is not ours, once, whether log-probs are as we need them.

        Raises:
            RuntimeError: they are those at temperature 1.
        """
        if temperature in (0.0, 1.0) or replica.server or replica.tempers:
            return
        replica.tempers = await replica.api.tempers_logprobs()
        if not replica.tempers:
            raise RuntimeError(
                f"{replica.api.url} gives log-probs at temperature 1, not at "
                f"{temperature:g}: start it with --logprobs-mode=processed_logprobs"
            )

    def _replica(self, session: str) -> Replica:
        """Return the server of a session; a new session gets the least busy one."""
        if session not in self._replica_of:
            replica = min(self._replicas, key=lambda replica: len(replica.sessions))
            replica.sessions.add(session)
            self._replica_of[session] = replica
        return self._replica_of[session]

    async def _repair(self, replica: Replica, restarts: int, error: Exception) -> None:
        """Restart a broken server, unless another request has since `restarts`."""
        async with replica.repair:
            if replica.restarts == restarts and not await self._serves(replica):
                await self._restart_and_send(replica, error)

    async def _serves(self, replica: Replica) -> bool:
        """Tell whether a server has the newest weights and computes with them."""
        assert self._weights is not None
        try:
            version = await replica.api.weight_version()
            await self._check(replica)
        except (*_REQUEST_ERRORS, RuntimeError):
            return False
        return version == str(self._weights[1])

    async def _update(self, replica: Replica) -> None:
        """Bring a server the newest weights, restarting it if need be."""
        async with replica.repair:
            if replica.ready and not await replica.api.is_ready():
                await self._restart(replica)
            try:
                await self._send(replica)
            except _CURED_BY_RESTART as error:
                await self._restart_and_send(replica, error)

    async def _put_to_sleep(self, replica: Replica) -> None:
        """Have a server give its memory back; one that ended or hangs is ended.

        Raises:
            RuntimeError: it does not, or was started elsewhere and does not answer.
        """
        async with replica.repair:
            try:
                await replica.api.sleep()
            except httpx.HTTPError as error:
                if replica.server is None:
                    raise RuntimeError(
                        f"{replica.api.url} did not answer when it should sleep: "
                        f"{error!r}"
                    ) from error
                await asyncio.to_thread(replica.server.stop)  # a push starts it again
            except ServerError as error:
                raise RuntimeError(
                    f"{replica.api.url} does not sleep: {error}{_log_of(replica)}"
                ) from error

    async def _restart_and_send(self, replica: Replica, why: Exception) -> None:
        """Restart a server and send it the newest weights.

        Raises:
            RuntimeError: it fails again.
        """
        await self._restart(replica)
        try:
            await self._send(replica)
        except _CURED_BY_RESTART as error:
            ours = replica.server is not None
            done = "was restarted" if ours else "was started elsewhere"
            raise RuntimeError(
                f"{replica.api.url} failed to take weights twice: {why!r}; it {done}; "
                f"then {error!r}{_log_of(replica)}"
            ) from error

    async def _restart(self, replica: Replica) -> None:
        """Restart a server; one that was started elsewhere must come back by itself."""
        if replica.server is not None:
            await asyncio.to_thread(replica.server.restart)
        replica.restarts += 1
        replica.ready = replica.tempers = replica.sleeps = False
        self.counters["restarted"] += 1

    async def _send(self, replica: Replica) -> None:
        """Send a server, which may still be starting, the newest weights."""
        assert self._weights is not None
        weights, version, _ = self._weights
        await self._wait_until_ready(replica)
        try:
            fresh = await replica.api.weight_version() == "default"
            if fresh:
                await replica.api.check_routes()
            if self._colocate and not replica.sleeps:
                await replica.api.check_sleep_mode()
                replica.sleeps = True
            sending = self._transfer.send(
                replica.api, weights, str(version), fresh=fresh
            )
            # Others use a server that was started elsewhere after us: half of an update
            # would leave it paused.
            await (sending if replica.server else self._finish(sending))
        except ServerError as error:
            raise RuntimeError(
                f"{replica.api.url} does not take version {version} of the weights: "
                f"{error}{_log_of(replica)}"
            ) from error
        await self._check(replica)

    async def _wait_until_ready(self, replica: Replica) -> None:
        """Wait for a server.

        Raises:
            RuntimeError: it ended, or took longer than `start_timeout_s`.
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
                    f"(start_timeout_s={self._start_timeout_s:g}){_log_of(replica)}"
                )
            await asyncio.sleep(0.5)
        replica.ready = True

    async def _check(self, replica: Replica) -> None:
        """Compare the server's log-probs of a fixed text with the trainer's.

        Raises:
            RuntimeError: they differ by more than `logprob_tolerance`.
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
                f"log-probs differ from the trainer's by up to {difference:.2g} "
                f"(logprob_tolerance={self._logprob_tolerance:g}): is it the same "
                f"model, and the same dtype?{hint}"
            )

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Await what is not to be left half done: cancelled, it ends first."""
        task = asyncio.create_task(work)
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            while not task.done():  # a group and `_end` may both cancel this
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([task])
            raise

    async def _end(self) -> None:
        """Cancel what is under way, and close all connections."""
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks - self._finishing:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in self._replicas:
            await replica.api.close()

    def _for_all(
        self, action: Callable[[Replica], Coroutine[Any, Any, T]]
    ) -> futures.Future[None]:
        async def run() -> None:
            async with asyncio.TaskGroup() as running:
                for replica in self._replicas:
                    running.create_task(action(replica))

        return asyncio.run_coroutine_threadsafe(run(), self._loop)

    def _wait(self, work: futures.Future[T]) -> T:
        try:
            return work.result()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group


def _log_of(replica: Replica) -> str:
    if replica.server is None:
        return ""
    return f"\nthe end of {replica.server.log}:\n{replica.server.tail()}"
