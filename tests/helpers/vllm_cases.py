"""A small model, a server of it on CPUs, and what is asked of it."""

import asyncio
import tempfile
from pathlib import Path

import jax
import numpy as np

from reskill_jax.policy.decoder import init
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.rollout.engine import Request, Sampling
from reskill_jax.rollout.vllm.engine import VllmEngine
from reskill_jax.rollout.vllm.files_transfer import FilesTransfer
from reskill_jax.rollout.vllm.server import Server, ServerOptions

ON_CPU = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
CPU_ARGUMENTS = ("--enforce-eager", "--kv-cache-memory-bytes=33554432")


def weights(config, seed):
    """Random weights, large, so that two seeds differ by several nats."""
    params = init(config, jax.random.key(seed))
    return jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, params)


def logprobs_of(config, params, tokens, temperature=1.0):
    """What our decoder says of tokens[1:]."""
    tokens = np.asarray(tokens, np.int32)[None]
    length = tokens.shape[1] - 1
    positions = np.arange(length)[None]
    visible_end = np.full((1, length), length)
    score = jax.jit(token_logprobs, static_argnums=0)
    found, _ = score(
        config,
        params,
        tokens[:, :-1],
        positions,
        visible_end,
        tokens[:, 1:],
        temperature=temperature,
    )
    return np.asarray(found[0])


def serve(executable, model):
    """Start a server of the model."""
    options = ServerOptions(
        executable=executable,
        model=model[0],
        dtype="float32",
        max_length=512,
        max_sequences=16,
        gpu_memory_utilization=0,
        arguments=CPU_ARGUMENTS,
        environment=ON_CPU,
    )
    return Server(options, Path(tempfile.mkdtemp(prefix="reskill-test-")))


def start(executable, model, tmp_path, *, timeout_s=120.0, servers=None, **options):
    _, config, eos = model
    return VllmEngine(
        config,
        weights(config, 0),
        servers=servers or [serve(executable, model)],
        transfer=FilesTransfer(config, tmp_path / "weights"),
        eos_ids=(eos,),
        score=lambda params, tokens: logprobs_of(config, params, tokens),
        logprob_tolerance=1e-4,
        timeout_s=timeout_s,
        **options,
    )


def requests(model, count, tokens=12, length=40, first=0):
    generator = np.random.default_rng(first)
    prompts = generator.integers(4, 200, (count, length)).tolist()
    return [
        Request(f"s{first + i}", prompt, Sampling(max_tokens=tokens), seed=first + i)
        for i, prompt in enumerate(prompts)
    ]


def ask(engine, asked):
    async def everything():
        return await asyncio.gather(*map(engine.generate, asked))

    return asyncio.run(everything())


def difference(model, params, request, completion):
    """How far its log-probs are from ours."""
    text = [*request.prompt, *completion.tokens.tolist()]
    expected = logprobs_of(model[1], params, text)[len(request.prompt) - 1 :]
    return float(np.abs(expected - completion.logprobs).max())
