"""The decoder: one Flax module for Qwen3, Qwen2 and Llama, small or large.

Modules exist at the boundary only: `init` makes one and returns its parameters as a
nested dict of float32 arrays, layers stacked on a leading axis L; the functions below
take that dict, for plain `jax.jit`, `jax.grad` and optax.

    params = init(config, jax.random.key(0))
    states = hidden_states(config, params, tokens, positions, visible_end)

Letters: B batch, T tokens, D hidden, F feed-forward, N heads, K kv heads, H head width,
L layers, V vocabulary, C context, P positions per block.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from reskill_jax.policy.compute import DEFAULT, REMAT, Compute
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.kv_cache import KVCache, attend_to_cache, write_to_cache
from reskill_jax.policy.lora import Adapted, adapted, base_of, layer_adapters, within
from reskill_jax.policy.ops.attention import attention
from reskill_jax.policy.ops.rope import frequencies
from reskill_jax.policy.sharding import ROWS, constrain

Params = dict[str, Any]
# (query [B, T, N, H], key [B, T, K, H], value [B, T, K, H]) -> [B, T, N, H]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, head = config.hidden_size, config.head_dim
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        linear = functools.partial(nnx.LinearGeneral, dtype=config.dtype, rngs=rngs)
        self.query = linear(width, (heads, head), use_bias=config.qkv_bias)
        self.key = linear(width, (kv_heads, head), use_bias=config.qkv_bias)
        self.value = linear(width, (kv_heads, head), use_bias=config.qkv_bias)
        self.out = linear(
            (heads, head), width, axis=(-2, -1), use_bias=config.attention_bias
        )
        if config.qk_norm:
            self.query_norm = _norm(config, head, rngs)
            self.key_norm = _norm(config, head, rngs)

    def __call__(
        self,
        x: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        attend: Attend,
        adapters: Any = None,
    ) -> jax.Array:
        """Mix tokens: [B, T, D] -> [B, T, D]."""

        def project(name: str, x: jax.Array) -> jax.Array:
            linear, adapter = getattr(self, name), within(adapters, name)
            return by_token(functools.partial(adapted, linear, adapter), x)

        query, key, value = (project(name, x) for name in ("query", "key", "value"))
        if self.config.qk_norm:
            query, key = self.query_norm(query), self.key_norm(key)
        out = attend(_rotate(query, rotation), _rotate(key, rotation), value)
        return project("out", out)


class FeedForward(nnx.Module):
    """SwiGLU."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        linear = functools.partial(
            nnx.Linear, use_bias=False, dtype=config.dtype, rngs=rngs
        )
        self.gate = linear(config.hidden_size, config.intermediate_size)
        self.up = linear(config.hidden_size, config.intermediate_size)
        self.down = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x: jax.Array, adapters: Any = None) -> jax.Array:
        """Map each token: [B, T, D] -> [B, T, D]."""

        def project(name: str, x: jax.Array) -> jax.Array:
            return adapted(getattr(self, name), within(adapters, name), x)

        def feed(x: jax.Array) -> jax.Array:
            return project("down", jax.nn.silu(project("gate", x)) * project("up", x))

        return by_token(feed, x)


class Layer(nnx.Module):
    """One pre-norm block."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.attention_norm = _norm(config, config.hidden_size, rngs)
        self.attention = Attention(config, rngs=rngs)
        self.mlp_norm = _norm(config, config.hidden_size, rngs)
        self.mlp = FeedForward(config, rngs=rngs)

    def __call__(
        self,
        x: jax.Array,
        rotation: tuple[jax.Array, jax.Array],
        attend: Attend,
        adapters: Any = None,
    ) -> jax.Array:
        """Apply the block, and its adapters: [B, T, D] -> [B, T, D]."""
        inner = within(adapters, "attention")
        x = x + self.attention(self.attention_norm(x), rotation, attend, inner)
        return x + self.mlp(self.mlp_norm(x), within(adapters, "mlp"))


class Decoder(nnx.Module):
    """Embedding, L stacked layers, final norm and, when untied, an output matrix."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(
            config.vocab_size,
            config.hidden_size,
            embedding_init=nnx.initializers.normal(0.02),
            dtype=config.dtype,
            rngs=rngs,
        )

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def stack(rngs: nnx.Rngs) -> Layer:
            return Layer(config, rngs=rngs)

        self.layers = stack(rngs)
        self.norm = _norm(config, config.hidden_size, rngs)
        if not config.tie_word_embeddings:
            self.lm_head = nnx.Linear(
                config.hidden_size,
                config.vocab_size,
                use_bias=False,
                dtype=config.dtype,
                rngs=rngs,
            )


def init(config: DecoderConfig, key: jax.Array) -> Params:
    """Return random parameters: float32, layers stacked on axis 0 of `layers`."""
    return nnx.to_pure_dict(nnx.state(Decoder(config, rngs=nnx.Rngs(key))))


def abstract_params(config: DecoderConfig) -> Params:
    """Return the tree of `jax.ShapeDtypeStruct` that `init` fills."""
    return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def hidden_states(
    config: DecoderConfig,
    params: Params | Adapted,
    tokens: jax.Array,
    positions: jax.Array,
    visible_end: jax.Array,
    compute: Compute = DEFAULT,
) -> jax.Array:
    """Run whole rows; returns the states after the final norm, [B, T, D].

    Args:
        config: the decoder's shape.
        params: as `init` returns them, or with adapters.
        tokens: int32 [B, T].
        positions: int32 [B, T], for RoPE.
        visible_end: int32 [B, T], the attention mask, see `attention.tree_mask`.
        compute: how it is computed. On a mesh, rows are split as `sharding.ROWS` says.
    """
    base, adapters = base_of(params), layer_adapters(params, config.dtype)
    model = _merge(config, base)
    rotation = _rotation(config, positions)
    definition, layers = nnx.split(model.layers)

    def step(x: jax.Array, xs: tuple[nnx.State, Any]) -> tuple[jax.Array, None]:
        layer, adapters = xs
        attend = functools.partial(
            attention, visible_end=visible_end, backend=compute.attention_backend
        )
        x = checkpoint_name(x, "layer_input")
        x = nnx.merge(definition, layer)(x, rotation, attend, adapters)
        return constrain(x, ROWS), None

    if (policy := REMAT[compute.remat]) is not None:
        # The loops over layers, one per pass, keep the two computations apart already.
        step = jax.checkpoint(step, policy=policy, prevent_cse=False)
    x = constrain(_embed(config, base, tokens), ROWS)
    x, _ = jax.lax.scan(step, x, (layers, adapters))
    return model.norm(x)


def cached_hidden_states(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    tables: jax.Array,
    cache: KVCache,
) -> tuple[jax.Array, KVCache]:
    """Run chunks of sequences whose earlier keys and values lie in a cache.

    Keys and values of the chunk are written before they are read, so that several rows
    may be successive chunks of one sequence.

    Args:
        config: the decoder's shape.
        params: as `init` returns them.
        tokens: int32 [B, T].
        positions: int32 [B, T], consecutive; T is 1, or a block of the cache, aligned.
        tables: int32 [B, C / P], the blocks of each row's sequence; numbers out of
            range make a padding row, whose keys are not written.
        cache: keys and values of all sequences. On a mesh, it is split by heads, and
            rows as `sharding.ROWS` says.

    Returns:
        The states after the final norm, [B, T, D], and the new cache.
    """
    step, carry = _cached_layers(config, params, tokens, positions, tables, cache)
    x, cache = jax.lax.fori_loop(0, config.num_hidden_layers, step, carry)
    return _merge(config, params).norm(x), cache


def fill_cache(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    tables: jax.Array,
    cache: KVCache,
) -> KVCache:
    """Write keys and values as `cached_hidden_states` does, without any states.

    The last layer is outside of the loop, where the compiler drops all of it but keys
    and values.
    """
    step, carry = _cached_layers(config, params, tokens, positions, tables, cache)
    last = config.num_hidden_layers - 1
    return step(last, jax.lax.fori_loop(0, last, step, carry))[1]


def _cached_layers(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    tables: jax.Array,
    cache: KVCache,
) -> tuple[Callable[..., tuple[jax.Array, KVCache]], tuple[jax.Array, KVCache]]:
    """Return what applies a layer, (number, carry) -> carry, and the first carry."""
    rotation = _rotation(config, positions)
    definition, layers = nnx.split(_merge(config, params).layers)

    def step(index, carry):
        x, cache = carry

        def attend(query, key, value):
            nonlocal cache
            new = (key, value)
            cache = write_to_cache(cache, index, tables, positions, new)
            return attend_to_cache(cache, index, tables, positions, query)

        layer = nnx.merge(definition, jax.tree.map(lambda x: x[index], layers))
        return constrain(layer(x, rotation, attend), ROWS), cache

    return step, (constrain(_embed(config, params, tokens), ROWS), cache)


def logits(config: DecoderConfig, params: Params, states: jax.Array) -> jax.Array:
    """Project states [..., D] onto the vocabulary: float32 [..., V]."""
    if config.tie_word_embeddings:
        kernel = params["embed"]["embedding"].T
    else:
        kernel = params["lm_head"]["kernel"]
    kernel = kernel.astype(config.dtype)
    return jnp.matmul(states, kernel, preferred_element_type=jnp.float32)


def by_token(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Apply a map of single tokens [M, ...] -> [M, ...] to [B, T, ...].

    XLA's CPU backend sums a weight's gradient over two axes at half of the speed that
    it has for one: without this, an update of the laboratory's 1M-parameter policy
    takes 1.13 times as long.
    """
    y = function(x.reshape(-1, *x.shape[2:]))
    return y.reshape(*x.shape[:2], *y.shape[1:])


def _embed(config: DecoderConfig, params: Params, tokens: jax.Array) -> jax.Array:
    """Look tokens [B, T] up: [B, T, D].

    They are cast afterwards, so that gradients of frequent tokens are summed in the
    type of the parameters: bfloat16 would lose all but the first hundreds.
    """
    return params["embed"]["embedding"][tokens].astype(config.dtype)


def _norm(config: DecoderConfig, width: int, rngs: nnx.Rngs) -> nnx.RMSNorm:
    return nnx.RMSNorm(
        width, epsilon=config.rms_norm_eps, dtype=config.dtype, rngs=rngs
    )


@functools.cache
def _structure(config: DecoderConfig) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))


def _merge(config: DecoderConfig, params: Params) -> Decoder:
    return nnx.merge(_structure(config), params)


def _rotation(
    config: DecoderConfig, positions: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines of RoPE in float32, [B, T, 1, H / 2] each."""
    frequency, scale = frequencies(
        config.head_dim, config.rope_theta, config.rope_scaling
    )
    angle = positions[..., None, None].astype(jnp.float32) * frequency
    return jnp.cos(angle) * scale, jnp.sin(angle) * scale


def _rotate(x: jax.Array, rotation: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotate the pairs (i, i + H / 2) of [B, T, N, H], as Hugging Face does."""
    cosine, sine = rotation
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    rotated = (first * cosine - second * sine, second * cosine + first * sine)
    return jnp.concatenate(rotated, axis=-1).astype(x.dtype)
