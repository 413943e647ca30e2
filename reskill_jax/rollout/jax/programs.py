"""The programs of the embedded engine, compiled once each.

All have one shape, in which rows are independent.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.decoder import (
    Params,
    cached_hidden_states,
    fill_cache,
    logits,
)
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.kv_cache import KVCache, abstract_cache
from reskill_jax.policy.sharding import ROWS, constrain, mesh_of
from reskill_jax.rollout.jax.sampling import sample


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def prefill(
    config: DecoderConfig,
    params: Params,
    cache: KVCache,
    tokens: jax.Array,
    starts: jax.Array,
    tables: jax.Array,
) -> KVCache:
    """Compute keys and values of blocks of prompts.

    Args:
        config: the decoder's shape.
        params: the weights.
        cache: donated.
        tokens: int32 [B, P].
        starts: int32 [B], the position of each row's first token.
        tables: int32 [B, C / P], see `policy.kv_cache`.

    Returns:
        The new cache.
    """
    positions = starts[:, None] + jnp.arange(tokens.shape[1])
    return fill_cache(config, params, tokens, positions, tables, cache)


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def decode(
    config: DecoderConfig,
    steps: int,
    params: Params,
    cache: KVCache,
    tables: jax.Array,
    state: dict[str, jax.Array],
    sampling: tuple[jax.Array, jax.Array, jax.Array],
    eos_ids: jax.Array,
) -> tuple[jax.Array, jax.Array, KVCache]:
    """Sample up to `steps` tokens per row.

    Args:
        config: the decoder's shape.
        steps: most tokens.
        params: the weights.
        cache: donated.
        tables: int32 [B, C / P], see `policy.kv_cache`.
        state: int32 [B] each: the last `token`, its `position`, the `index` of the next
            one in the response, and how many are `left` to sample, 0 when done.
        sampling: temperature and top-p, float32 [B], and seeds, uint32 [B, 2].
        eos_ids: int32 [E], the tokens that end a response; there may be none.

    Returns:
        Tokens int32 and log-probs float32, [B, steps], without meaning after the end of
        a response; the new cache.
    """
    rows = tables.shape[0]
    count = cache.keys.shape[1]
    tokens = jnp.zeros((steps, rows), jnp.int32)
    logprobs = jnp.zeros((steps, rows), jnp.float32)

    def more(carry):
        step, state, *_ = carry
        return (step < steps) & jnp.any(state["left"] > 0)

    def advance(carry):
        step, state, tokens, logprobs, cache = carry
        active = state["left"] > 0
        states, cache = cached_hidden_states(
            config,
            params,
            state["token"][:, None],
            state["position"][:, None],
            jnp.where(active[:, None], tables, count),
            cache,
        )
        # First split as the weights are: else these would be gathered, not the scores.
        scores = logits(config, params, states[:, 0])
        scores = constrain(constrain(scores, ROWS, "tensor"), ROWS)
        token, logprob = sample(scores, *sampling, state["index"])
        ended = jnp.any(token[:, None] == eos_ids, axis=1)
        state = {
            "token": token,
            "position": state["position"] + active,
            "index": state["index"] + 1,
            "left": jnp.where(ended, 0, state["left"] - active),
        }
        tokens = tokens.at[step].set(token)
        return step + 1, state, tokens, logprobs.at[step].set(logprob), cache

    carry = (jnp.int32(0), state, tokens, logprobs, cache)
    _, _, tokens, logprobs, cache = jax.lax.while_loop(more, advance, carry)
    return tokens.T, logprobs.T, cache


def abstract_calls(
    config: DecoderConfig,
    params: Params,
    *,
    max_sequences: int,
    context: int,
    block_size: int,
    prefill_rows: int,
    decode_rows: int,
    decode_steps: int,
) -> tuple[KVCache, dict[str, tuple[Any, tuple[Any, ...]]]]:
    """Describe the engine's programs, to compile them without an engine.

    Args:
        config: the decoder's shape.
        params: abstract weights, on the mesh that is compiled for.
        max_sequences: as `JaxEngine` takes it, like those that follow.
        context: likewise.
        block_size: likewise.
        prefill_rows: likewise.
        decode_rows: likewise.
        decode_steps: likewise.

    Returns:
        The abstract cache; and by name, each program with all its arguments.
    """
    blocks = max_sequences * context // block_size
    mesh = mesh_of(params)
    cache = abstract_cache(config, blocks, block_size, mesh)
    width = context // block_size
    whole = None if mesh is None else NamedSharding(mesh, P())

    def array(*shape: int, dtype: Any = jnp.int32) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    rows = decode_rows
    state = {name: array(rows) for name in ("token", "position", "index", "left")}
    floats = array(rows, dtype=jnp.float32)
    sampling = (floats, floats, array(rows, 2, dtype=jnp.uint32))
    blocks_of = (array(prefill_rows, width), array(rows, width))
    tokens = array(prefill_rows, block_size)
    starts = array(prefill_rows)
    first = (config, params, cache, tokens, starts, blocks_of[0])
    then = (config, decode_steps, params, cache, blocks_of[1], state, sampling)
    return cache, {"prefill": (prefill, first), "decode": (decode, (*then, array(1)))}
