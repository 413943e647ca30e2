"""Log-probabilities of given tokens, without logits of whole rows."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from reskill_jax.policy.compute import DEFAULT, Compute
from reskill_jax.policy.decoder import Params, hidden_states, logits
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import Adapted, base_of
from reskill_jax.policy.sharding import VOCABULARY, constrain

_UNROLLED = 8  # chunks; more are a loop in the program, or it would grow with T


def token_logprobs(
    config: DecoderConfig,
    params: Params | Adapted,
    tokens: jax.Array,
    positions: jax.Array,
    visible_end: jax.Array,
    targets: jax.Array,
    *,
    temperature: float | jax.Array = 1.0,
    wanted: jax.Array | None = None,
    compute: Compute = DEFAULT,
) -> tuple[jax.Array, jax.Array]:
    """Score `targets` as the tokens that follow each index.

    Logits exist for `compute.logprob_chunk` columns at a time, forward and backward,
    and are computed again in the backward pass; those of a chunk as long as the rows
    are kept instead. Logsumexp and entropy are float32.

    On a mesh a chunk's states go to all devices that share the parameters, and each has
    the logits of its part of the vocabulary. The other way round every chunk would
    gather the whole output matrix, twice, and reduce a gradient of its size.

    Args:
        config: the decoder's shape.
        params: its parameters, with adapters or without.
        tokens: int32 [B, T].
        positions: int32 [B, T], those of the flat prompt.
        visible_end: int32 [B, T], see `attention.tree_mask`; 0 is padding.
        targets: int32 [B, T], the token to score after each index.
        temperature: divides the logits; broadcasts to [B, T].
        wanted: bool [B, T], where scores are wanted; None: everywhere. Chunks without
            any are skipped, for which each row's wanted columns come first.
        compute: how it is computed.

    Returns:
        Log-probabilities and entropies, float32 [B, T] each; what they are on padding
        and where they are not wanted has no meaning. The compiler drops the entropy
        where nothing uses it.
    """
    states = hidden_states(config, params, tokens, positions, visible_end, compute)
    temperature = jnp.broadcast_to(jnp.float32(temperature), targets.shape)
    columns: tuple[jax.Array, ...] = (states, targets, temperature)
    head = _split_head(config, base_of(params))
    score: Callable[..., Any] = functools.partial(_score, config, head)
    length, chunk = tokens.shape[1], compute.logprob_chunk
    order = None
    if chunk < length:
        score = jax.checkpoint(score)
        if wanted is not None:
            score = _where_wanted(score)
            order = jnp.argsort(~wanted, axis=1, stable=True)
            columns = tuple(_take(x, order) for x in (*columns, wanted))
    whole = length // chunk * chunk if length // chunk > _UNROLLED else 0
    parts = [
        score(*(x[:, at : at + chunk] for x in columns))
        for at in range(whole, length, chunk)
    ]
    if whole:
        pieces = tuple(_cut(x[:, :whole], chunk) for x in columns)
        _, (logprobs, entropy) = jax.lax.scan(
            lambda _, piece: (None, score(*piece)), None, pieces
        )
        parts.insert(0, (_join(logprobs), _join(entropy)))
    logprobs, entropy = (jnp.concatenate(x, axis=1) for x in zip(*parts, strict=True))
    if order is not None:
        back = jnp.argsort(order, axis=1)
        logprobs, entropy = _take(logprobs, back), _take(entropy, back)
    return logprobs, entropy


def _take(x: jax.Array, order: jax.Array) -> jax.Array:
    """Take columns [B, C] of [B, T, ...]."""
    return jnp.take_along_axis(x, order.reshape(*order.shape, *(1,) * (x.ndim - 2)), 1)


def _where_wanted(score: Callable[..., Any]) -> Callable[..., Any]:
    """Make a `_score` that returns zeros for chunks without a column that is wanted."""

    def some(*columns: jax.Array) -> tuple[jax.Array, jax.Array]:
        *others, wanted = columns
        zeros = jnp.zeros(wanted.shape, jnp.float32)
        return jax.lax.cond(jnp.any(wanted), score, lambda *_: (zeros, zeros), *others)

    return some


def _cut(x: jax.Array, chunk: int) -> jax.Array:
    """Turn [B, T, ...] into [T / chunk, B, chunk, ...]."""
    return jnp.moveaxis(x.reshape(x.shape[0], -1, chunk, *x.shape[2:]), 1, 0)


def _join(x: jax.Array) -> jax.Array:
    """Turn [T / chunk, B, chunk] into [B, T]."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1)


def _split_head(config: DecoderConfig, params: Params) -> Params:
    """Return the parameters that `logits` reads, split over the vocabulary."""
    if config.tie_word_embeddings:
        kernel = params["embed"]["embedding"]
        return {"embed": {"embedding": constrain(kernel, VOCABULARY)}}
    kernel = params["lm_head"]["kernel"]
    return {"lm_head": {"kernel": constrain(kernel, None, VOCABULARY)}}


def _score(
    config: DecoderConfig,
    params: Params,
    states: jax.Array,
    targets: jax.Array,
    temperature: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Log-probs and entropies, float32 [B, C], from states [B, C, D]."""
    scores = logits(config, params, constrain(states, "data"))
    scaled = constrain(scores, "data", None, VOCABULARY)
    scaled = scaled / temperature[..., None]
    normaliser = jax.nn.logsumexp(scaled, axis=-1)
    chosen = jnp.take_along_axis(scaled, targets[..., None], axis=-1)[..., 0]
    mean = jnp.sum(jax.nn.softmax(scaled, axis=-1) * scaled, axis=-1)
    # Rounding can put the difference a little above its bound.
    return jnp.minimum(chosen - normaliser, 0.0), normaliser - mean
