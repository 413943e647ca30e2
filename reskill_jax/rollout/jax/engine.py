"""The embedded engine: continuous batching over the decoder's block cache.

    engine = JaxEngine(config, params, eos_ids=eos_ids)
    completion = await engine.generate(request)      # from any number of coroutines

A request starts when it arrives: what its prompt shares with earlier prompts is in the
cache already, the rest is prefilled in blocks, then it joins the running decode batch.
Device work runs in a thread, so that the event loop is free for environments.

What a request returns does not depend on the load, bit for bit. All programs have one
shape (`prefill_rows` blocks; `decode_rows` sequences), in which rows are independent;
blocks start at multiples of their size, so a token is always computed at the same place
of the same program; and only prefilled blocks are shared, never decoded tokens.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from concurrent import futures
from dataclasses import dataclass, field

import numpy as np
from jax.sharding import Mesh

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.kv_cache import KVCache, empty_cache
from reskill_jax.policy.lora import Adapted
from reskill_jax.policy.sharding import copy_to_engine, row_shards
from reskill_jax.rollout.engine import Completion, Request
from reskill_jax.rollout.jax.blocks import BlockPool, Lease
from reskill_jax.rollout.jax.programs import decode, prefill


@dataclass(eq=False)
class _Job:
    """A request and what is known of its response so far."""

    request: Request
    future: asyncio.Future[Completion]
    lease: Lease | None = None
    version: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def _length(job: _Job) -> int:
    """Count the tokens of a sequence so far."""
    return len(job.request.prompt) + len(job.tokens)


def check_rows(mesh: Mesh | None, **rows: int) -> None:
    """Refuse rows that cannot be split evenly over the engine's mesh.

    Raises:
        ValueError: names the argument.
    """
    for key, count in rows.items():
        if count % row_shards(mesh):
            raise ValueError(
                f"{key}={count} cannot be split evenly over the mesh's data x fsdp "
                f"= {row_shards(mesh)} parts: make it a multiple"
            )


class JaxEngine:
    """Samples with the decoder in this process; see the module's docstring.

    Attributes:
        counters: tokens so far: "prompt" of all requests, "reused" of those found in
            the cache, "prefilled" and "decoded".
    """

    batch_invariant = True  # rows of its programs follow from the configuration

    def __init__(
        self,
        config: DecoderConfig,
        params: Params | Adapted,
        *,
        eos_ids: Sequence[int],
        version: int = 0,
        max_sequences: int = 64,
        context: int = 512,
        block_size: int = 32,
        prefill_rows: int = 16,
        decode_rows: int = 16,
        decode_steps: int = 4,
        mesh: Mesh | None = None,
    ):
        """Make an engine.

        Args:
            config: the decoder's shape.
            params: its weights, which may be spread over several processes; copied.
            eos_ids: the tokens that end a response; without any, its length does.
            version: of the weights.
            max_sequences: sequences of full length that the cache has room for.
            context: longest prompt plus response, in tokens.
            block_size: positions per cache block.
            prefill_rows: blocks per prefill call.
            decode_rows: sequences per decode call.
            decode_steps: tokens per sequence and decode call; a new request waits at
                most that long to join.
            mesh: the devices to compute on, all of this process (`engine_mesh`); rows
                are split over them, and the cache by heads.

        Raises:
            ValueError: if `context` is not a multiple of `block_size`, or the rows
                cannot be split evenly over the mesh.
        """
        if context % block_size:
            raise ValueError(
                f"context={context} is not a multiple of block_size={block_size}"
            )
        check_rows(mesh, prefill_rows=prefill_rows, decode_rows=decode_rows)
        self._config = config
        self._mesh = mesh
        self._eos_ids = tuple(eos_ids)
        self._context = context
        self._chunk = block_size
        self._prefill_rows = prefill_rows
        self._decode_rows = decode_rows
        self._decode_steps = decode_steps
        self._pool = BlockPool(max_sequences * context // block_size, block_size)
        self._cache: KVCache | None = None
        self._queue: deque[_Job] = deque()  # not admitted
        self._chunks: deque[tuple[_Job, int]] = deque()  # admitted, to prefill
        self._running: list[_Job] = []  # admitted
        self._pump: asyncio.Task[None] | None = None
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="jax-engine")
        self._closed = False
        self.counters: Counter[str] = Counter()
        self._params: Params | None = copy_to_engine(params, config, mesh)
        self._version = version
        self._pushed: tuple[Params, int] | None = None

    async def generate(self, request: Request) -> Completion:
        """Sample one response; calls run concurrently and are batched.

        Raises:
            ValueError: if prompt and response cannot fit, or the request is malformed.
            RuntimeError: if the engine is closed.
        """
        self._check(request)
        loop = asyncio.get_running_loop()
        job = _Job(request, loop.create_future())
        self._queue.append(job)
        pump = self._pump
        if pump is None or pump.done() or pump.get_loop().is_closed():
            self._pump = loop.create_task(self._run())
        return await job.future

    def release(self, session: str) -> None:
        """Do nothing: blocks belong to prefixes, and the oldest are evicted by need."""

    def push(self, params: Params | Adapted, version: int) -> None:
        """Serve a copy of these weights from now on; kept keys and values are dropped.

        Requests that have begun end on the weights they began with; those that come
        later wait for them.
        """
        self._pushed = (copy_to_engine(params, self._config, self._mesh), version)

    def sleep(self) -> None:
        """Free weights, keys and values; the next `push` brings weights again.

        Raises:
            RuntimeError: if requests are running.
        """
        if self._running or self._queue:
            raise RuntimeError("the engine cannot sleep while requests are running")
        self._reset()
        self._params, self._pushed = None, None

    def close(self) -> None:
        """Stop the engine and free its memory."""
        self._closed = True
        self._thread.shutdown(wait=True)
        self._cache = self._params = self._pushed = None

    def _check(self, request: Request) -> None:
        if self._closed:
            raise RuntimeError("the engine is closed")
        if self._params is None and self._pushed is None:
            raise RuntimeError("the engine sleeps: push weights first")
        sampling = request.sampling
        length = len(request.prompt)
        if not length or sampling.max_tokens < 1:
            raise ValueError(
                f"session {request.session!r}: a prompt of {length} tokens and "
                f"max_tokens={sampling.max_tokens}: both must be at least 1"
            )
        if length + sampling.max_tokens > self._context:
            raise ValueError(
                f"session {request.session!r}: prompt of {length} tokens + "
                f"max_tokens={sampling.max_tokens} = {length + sampling.max_tokens} "
                f"is longer than context={self._context}: raise it or shorten the "
                "prompt"
            )
        if sampling.temperature < 0 or not 0 < sampling.top_p <= 1:
            raise ValueError(
                f"temperature={sampling.temperature} must be >= 0 and "
                f"top_p={sampling.top_p} in (0, 1]"
            )

    async def _run(self) -> None:
        """Serve until nothing waits; whatever goes wrong reaches every waiter."""
        step = None
        try:
            while self._queue or self._running:
                self._admit()
                step = self._thread.submit(self._step)
                await asyncio.wrap_future(step)
                self._finish()
                await asyncio.sleep(0)  # let those answered ask again, to join at once
        except BaseException as error:
            if step is not None:
                futures.wait([step])  # cancelled here, it still runs in its thread
            for job in (*self._running, *self._queue):
                if not job.future.done():
                    if isinstance(error, Exception):
                        job.future.set_exception(error)
                    else:
                        job.future.cancel()
            self._reset()
            if not isinstance(error, Exception):
                raise

    def _reset(self) -> None:
        """Forget all requests and all kept keys."""
        self._queue.clear()
        self._chunks.clear()
        self._running.clear()
        self._pool.clear()
        self._cache = None

    def _admit(self) -> None:
        """Move requests from the queue to the device's work, first in, first out."""
        if self._pushed is not None:
            if self._running:
                return
            self._params, self._version = self._pushed
            self._pushed = None
            self._pool.clear()
        while self._queue:
            job = self._queue[0]
            prompt = job.request.prompt
            if not job.future.done():
                length = len(prompt) + job.request.sampling.max_tokens - 1
                lease = self._pool.acquire(prompt, length)
                if lease is None:
                    return
                job.lease, job.version = lease, self._version
                self._chunks.extend((job, index) for index in lease.missing)
                self._running.append(job)
                self.counters["prompt"] += len(prompt)
                self.counters["reused"] += lease.shared * self._chunk
            self._queue.popleft()

    def _step(self) -> None:
        """Run one prefill call and one decode call per tile of ready requests.

        Runs in the device thread, while the event loop's side touches only the queue.
        """
        if self._cache is None:
            self._cache = empty_cache(
                self._config, self._pool.count, self._chunk, self._mesh
            )
        if self._chunks:
            count = min(self._prefill_rows, len(self._chunks))
            self._prefill([self._chunks.popleft() for _ in range(count)])
        # Blocks are prefilled in the order of admission, so a request whose own blocks
        # are done also finds those that it shares with earlier ones.
        blocked = self._chunks[0][0] if self._chunks else None
        ready = []
        for job in self._running:
            if job is blocked:
                break
            ready.append(job)
        # While prompts wait, only full tiles decode: a call costs the same half empty.
        spare = len(ready) % self._decode_rows if self._chunks else 0
        # A tile reads as many blocks of each row as its longest sequence has.
        decoding = sorted(ready[: len(ready) - spare], key=_length)
        for start in range(0, len(decoding), self._decode_rows):
            self._decode(decoding[start : start + self._decode_rows])

    def _prefill(self, chunks: Sequence[tuple[_Job, int]]) -> None:
        size = self._chunk
        tokens = np.zeros((self._prefill_rows, size), np.int32)
        starts = np.zeros(self._prefill_rows, np.int32)
        tables = self._tables([job for job, _ in chunks], self._prefill_rows)
        for row, (job, index) in enumerate(chunks):
            piece = job.request.prompt[:-1][index * size : (index + 1) * size]
            tokens[row, : len(piece)] = piece
            starts[row] = index * size
            self.counters["prefilled"] += len(piece)
        self._cache = prefill(
            self._config, self._params, self._cache, tokens, starts, tables
        )

    def _decode(self, jobs: Sequence[_Job]) -> None:
        """Extend each job by up to `decode_steps` tokens."""
        rows = self._decode_rows
        state = {
            "token": np.zeros(rows, np.int32),
            "position": np.zeros(rows, np.int32),
            "index": np.zeros(rows, np.int32),
            "left": np.zeros(rows, np.int32),
        }
        temperature = np.ones(rows, np.float32)
        top_p = np.ones(rows, np.float32)
        seeds = np.zeros((rows, 2), np.uint32)
        for row, job in enumerate(jobs):
            request, done = job.request, len(job.tokens)
            state["token"][row] = job.tokens[-1] if done else request.prompt[-1]
            state["position"][row] = _length(job) - 1
            state["index"][row] = done
            state["left"][row] = request.sampling.max_tokens - done
            temperature[row] = request.sampling.temperature
            top_p[row] = request.sampling.top_p
            seeds[row] = (request.seed >> 32 & 0xFFFFFFFF, request.seed & 0xFFFFFFFF)
        tokens, logprobs, self._cache = decode(
            self._config,
            self._decode_steps,
            self._params,
            self._cache,
            self._tables(jobs, rows),
            state,
            (temperature, top_p, seeds),
            np.array(self._eos_ids, np.int32),
        )
        for job, new, scores in zip(
            jobs,
            np.asarray(tokens).tolist(),
            np.asarray(logprobs).tolist(),
            strict=False,
        ):
            for token, score in zip(new, scores, strict=True):
                if self._ended(job):
                    break
                job.tokens.append(token)
                job.logprobs.append(score)
                self.counters["decoded"] += 1

    def _tables(self, jobs: Sequence[_Job], rows: int) -> np.ndarray:
        """Return the jobs' blocks, int32 [rows, C / P]; out of range in padding."""
        shape = (rows, self._context // self._chunk)
        tables = np.full(shape, self._pool.count, np.int32)
        for row, job in enumerate(jobs):
            assert job.lease is not None
            tables[row, : len(job.lease.blocks)] = job.lease.blocks
        return tables

    def _ended(self, job: _Job) -> bool:
        limit = job.request.sampling.max_tokens
        return len(job.tokens) == limit or self._stopped(job)

    def _stopped(self, job: _Job) -> bool:
        return bool(job.tokens) and job.tokens[-1] in self._eos_ids

    def _finish(self) -> None:
        """Answer the requests whose response has ended."""
        for job in [job for job in self._running if self._ended(job)]:
            assert job.lease is not None
            self._running.remove(job)
            self._pool.release(job.lease)
            if not job.future.done():
                job.future.set_result(
                    Completion(
                        tokens=np.array(job.tokens, np.int32),
                        logprobs=np.array(job.logprobs, np.float32),
                        version=job.version,
                        stopped=self._stopped(job),
                    )
                )
