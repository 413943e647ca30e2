"""Starts the engine, samples, compares with the trainer, and pushes new weights."""

import asyncio
import time
from dataclasses import replace

import numpy as np
from jax.experimental import multihost_utils

from reskill_jax import build, distributed
from reskill_jax.doctor.checks import Finding, Session, ok, part, skipped, wrong
from reskill_jax.doctor.host import memory_in_use
from reskill_jax.doctor.learner import made_episode
from reskill_jax.grpo.packing import pack
from reskill_jax.grpo.preparation import make_forward
from reskill_jax.policy.sharding import mesh_of, put_rows, row_shards
from reskill_jax.rollout.engine import Completion, Request

_REQUESTS = 4  # at a time
_PROMPT, _RESPONSE = 96, 32  # tokens
_PUSHED = 1  # version of the weights after the update
_GIVEN_BACK = 2**30  # bytes that servers that sleep give back at least, in all


def engine(session: Session) -> Finding:
    """Start the engine with the starting weights, and sample."""
    config = session.config
    started = time.perf_counter()
    session.engine, session.servers = build.make_engine(
        config,
        part(session.policy),
        part(session.policy).join(part(session.state).params),
        0,
        session.resources,
    )
    ready = time.perf_counter() - started
    completions = _sample(session)
    first = time.perf_counter() - started - ready
    _sample(session)
    again = time.perf_counter() - started - ready - first
    tokens = sum(len(completion.tokens) for completion in completions)
    return ok(
        f"{config.engine.name}, ready in {ready:.1f} s; {tokens} tokens of "
        f"{_REQUESTS} prompts in {again:.2f} s, first in {first:.1f} s"
    )


def agreement(session: Session) -> Finding:
    """Compare the engine's log-probs with the trainer's, in the run's types."""
    return _compare(session, _sample(session))


def sleep(session: Session) -> Finding:
    """Have servers on the trainer's devices sleep, and wake them by a push."""
    if session.config.engine.name != "vllm" or not session.config.engine.vllm.colocate:
        return skipped("no servers on the trainer's devices (engine.vllm.colocate)")
    serving = part(session.engine)
    before, started = memory_in_use(), time.perf_counter()
    serving.sleep()
    asleep = time.perf_counter() - started
    freed = None if before is None else before - (memory_in_use() or 0)
    started = time.perf_counter()
    serving.push(part(session.policy).join(part(session.state).params), 0)
    awake = time.perf_counter() - started
    _sample(session)
    text = f"asleep in {asleep:.1f} s, awake with weights in {awake:.1f} s"
    if freed is None:
        return ok(f"{text}; nvidia-smi does not tell what memory it gave back")
    text += f"; gave back {freed / 2**30:.1f} GiB"
    if freed < _GIVEN_BACK:
        return wrong(
            text,
            "servers that run already need --enable-sleep-mode, and GPUs that "
            "nvidia-smi shows here",
        )
    return ok(text)


def push(session: Session) -> Finding:
    """Push the updated weights, and compare again."""
    serving = part(session.engine)
    started = time.perf_counter()
    serving.push(part(session.policy).join(part(session.state).params), _PUSHED)
    seconds = time.perf_counter() - started
    completions = _sample(session)
    served = {completion.version for completion in completions}
    if served != {_PUSHED}:
        return wrong(
            f"after a push of version {_PUSHED} responses are of version {served}",
            "restart the servers: they keep old weights",
        )
    found = _compare(session, completions)
    return replace(found, text=f"in {seconds:.2f} s; {found.text}")


def _sample(session: Session) -> list[Completion]:
    """Sample responses to random prompts, the same ones at every call."""
    config, serving = session.config, part(session.engine)
    sampling = build.sampling(config)
    sampling = replace(sampling, max_tokens=min(sampling.max_tokens, _RESPONSE))

    async def all_at_once() -> list[Completion]:
        names = [f"doctor/{number}" for number in range(_REQUESTS)]
        requests = [
            Request(name, prompt.tolist(), sampling, seed)
            for seed, (name, prompt) in enumerate(
                zip(names, _prompts(session), strict=True)
            )
        ]
        try:
            return await asyncio.gather(*map(serving.generate, requests))
        finally:
            for name in names:
                serving.release(name)

    return asyncio.run(all_at_once())


def _prompts(session: Session) -> list[np.ndarray]:
    policy = part(session.policy)
    generator = np.random.default_rng(1)
    # Ids that the tokenizer has: a model may embed more, which no prompt holds.
    most = policy.tokenizer.vocab_size
    length = min(_PROMPT, session.config.prompt.max_tokens)
    return [
        generator.integers(0, most, length).astype(np.int32) for _ in range(_REQUESTS)
    ]


def _compare(session: Session, completions: list[Completion]) -> Finding:
    """Score the responses as training does."""
    config, policy = session.config, part(session.policy)
    params = part(session.policy).join(part(session.state).params)
    mine = [(c.tokens.tolist(), c.logprobs.tolist()) for c in completions]
    prompts = _prompts(session)
    episodes = [
        made_episode(
            number,
            prompts[number % _REQUESTS],
            np.array(tokens, np.int32),
            np.array(logprobs, np.float32),
        )
        # Programs on the mesh are entered by all processes with the same rows.
        for number, (tokens, logprobs) in enumerate(
            answer for process in distributed.gather(mine) for answer in process
        )
    ]
    forward = make_forward(build.make_logprob_fn(config, policy.config, policy.mesh))
    differences = []
    for packed in pack(
        episodes,
        buckets=config.grpo.buckets,
        tokens_per_microbatch=config.grpo.tokens_per_microbatch,
        row_shards=row_shards(policy.mesh),
    ):
        scores = forward(params, put_rows(mesh_of(params), packed))
        if not scores.is_fully_addressable:
            scores = multihost_utils.process_allgather(scores, tiled=True)
        scores = np.asarray(scores)
        chosen = np.asarray(packed.mask) > 0
        differences.append(np.abs(scores - packed.sampler_logprobs)[chosen])
    found = np.concatenate(differences)
    mean, most = float(found.mean()), float(found.max())
    limit = config.grpo.logprob_diff_warning
    text = (
        f"log-probs of engine and trainer differ by {mean:.2g} nats on average, "
        f"{most:.2g} at most, in {policy.config.dtype}"
    )
    if not mean <= limit:
        return wrong(
            f"{text}; the limit is config.grpo.logprob_diff_warning={limit:g}",
            "see whether engine and trainer have the same weights and dtype, and try "
            "config.policy.attention=xla; with config.grpo.old_logprobs=recompute "
            "training corrects for it",
        )
    return ok(text)
