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
from reskill_jax.policy.layer import Layer, make_norm, rotation_of
from reskill_jax.policy.lora import Adapted, base_of, layer_adapters
from reskill_jax.policy.ops.attention import attention, attention_from
from reskill_jax.policy.sharding import ROWS, constrain, mesh_of, platform_of

Params = dict[str, Any]

_SHALLOW = 8  # layers


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
        self.norm = make_norm(config, config.hidden_size, rngs)
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


def skips_last(config: DecoderConfig, params: Params | Adapted) -> bool:
    """Tell whether the last layer is computed only where its states are read.

    The other layers are then a stack of their own: a copy of weights and gradients,
    which shallow decoders on a CPU can afford, for what is a good part of them.
    """
    mesh = mesh_of(params)
    shallow = 0 < config.num_hidden_layers <= _SHALLOW
    return shallow and mesh is None and platform_of(mesh) == "cpu"


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
    model = _merge(config, base_of(params))
    stack = nnx.split(model.layers)[1], layer_adapters(params, config.dtype)
    return model.norm(
        _run(config, params, stack, tokens, positions, visible_end, compute)
    )


def states_reader(
    config: DecoderConfig,
    params: Params | Adapted,
    tokens: jax.Array,
    positions: jax.Array,
    visible_end: jax.Array,
    compute: Compute = DEFAULT,
) -> Callable[[jax.Array], jax.Array]:
    """Run whole rows up to the last layer, of which only keys and values are computed.

    Args:
        config: the decoder's shape.
        params: see `hidden_states`, like those that follow.
        tokens: likewise.
        positions: likewise.
        visible_end: likewise.
        compute: likewise.

    Returns:
        What computes `hidden_states` at some slots of each row: int32 [B, S] ->
        [B, S, D].
    """
    model = _merge(config, base_of(params))
    definition, layers = nnx.split(model.layers)
    stack = layers, layer_adapters(params, config.dtype)
    below, (last, adapters) = _split_last(stack)
    x = _run(config, params, below, tokens, positions, visible_end, compute)
    layer, rotation = nnx.merge(definition, last), rotation_of(config, positions)
    key, value = layer.keys_values(x, rotation, adapters)

    def read(slots: jax.Array) -> jax.Array:
        def look(query: jax.Array) -> jax.Array:
            return attention_from(slots, query, key, value, visible_end)

        here = take(rotation[0], slots), take(rotation[1], slots)
        return model.norm(layer.rest(take(x, slots), here, look, adapters))

    return read


def take(x: jax.Array, slots: jax.Array) -> jax.Array:
    """Take slots [B, S] of rows [B, T, ...]."""
    return jnp.take_along_axis(x, slots.reshape(*slots.shape, *(1,) * (x.ndim - 2)), 1)


def _run(
    config: DecoderConfig,
    params: Params | Adapted,
    stack: Any,
    tokens: jax.Array,
    positions: jax.Array,
    visible_end: jax.Array,
    compute: Compute,
) -> jax.Array:
    """Embed rows and run them through a stack of layers with adapters: [B, T, D]."""
    base = base_of(params)
    rotation = rotation_of(config, positions)
    definition = nnx.graphdef(_merge(config, base).layers)
    attend = functools.partial(
        attention, visible_end=visible_end, backend=compute.attention_backend
    )

    def step(x: jax.Array, xs: tuple[nnx.State, Any]) -> tuple[jax.Array, None]:
        layer, adapters = xs
        x = checkpoint_name(x, "layer_input")
        x = nnx.merge(definition, layer)(x, rotation, attend, adapters)
        return constrain(x, ROWS), None

    if (policy := REMAT[compute.remat]) is not None:
        # The loops over layers, one per pass, keep the two computations apart already.
        step = jax.checkpoint(step, policy=policy, prevent_cse=False)
    x = constrain(_embed(config, base, tokens), ROWS)
    return jax.lax.scan(step, x, stack)[0]


def _split_last(stack: Any) -> tuple[Any, Any]:
    """Split stacked layers into all but the last, stacked, and the last."""
    return jax.tree.map(lambda x: x[:-1], stack), jax.tree.map(lambda x: x[-1], stack)


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
    model = _merge(config, params)
    stack = nnx.split(model.layers)[1]
    x, cache = _run_cached(config, params, stack, tokens, positions, tables, cache)
    return model.norm(x), cache


def fill_cache(
    config: DecoderConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    tables: jax.Array,
    cache: KVCache,
) -> KVCache:
    """Write keys and values as `cached_hidden_states` does, without any states."""
    args = tokens, positions, tables, cache
    if not skips_last(config, params):
        return cached_hidden_states(config, params, *args)[1]
    definition, layers = nnx.split(_merge(config, params).layers)
    below, last = _split_last(layers)
    x, cache = _run_cached(config, params, below, *args)
    layer, index = nnx.merge(definition, last), jnp.int32(config.num_hidden_layers - 1)
    new = layer.keys_values(x, rotation_of(config, positions))
    return write_to_cache(cache, index, tables, positions, new)


def _run_cached(
    config: DecoderConfig,
    params: Params,
    layers: Any,
    tokens: jax.Array,
    positions: jax.Array,
    tables: jax.Array,
    cache: KVCache,
) -> tuple[jax.Array, KVCache]:
    """Embed chunks and run them through the first layers: [B, T, D], and the cache."""
    rotation = rotation_of(config, positions)
    definition = nnx.graphdef(_merge(config, params).layers)

    def step(carry, xs):
        x, cache = carry
        layer, index = xs

        def attend(query, key, value):
            nonlocal cache
            new = (key, value)
            cache = write_to_cache(cache, index, tables, positions, new)
            return attend_to_cache(cache, index, tables, positions, query)

        x = nnx.merge(definition, layer)(x, rotation, attend)
        return (constrain(x, ROWS), cache), None

    indices = jnp.arange(len(jax.tree.leaves(layers)[0]))
    x = constrain(_embed(config, params, tokens), ROWS)
    return jax.lax.scan(step, (x, cache), (layers, indices))[0]


def logits(config: DecoderConfig, params: Params, states: jax.Array) -> jax.Array:
    """Project states [..., D] onto the vocabulary: float32 [..., V]."""
    if config.tie_word_embeddings:
        kernel = params["embed"]["embedding"].T
    else:
        kernel = params["lm_head"]["kernel"]
    kernel = kernel.astype(config.dtype)
    return jnp.matmul(states, kernel, preferred_element_type=jnp.float32)


def _embed(config: DecoderConfig, params: Params, tokens: jax.Array) -> jax.Array:
    """Look tokens [B, T] up: [B, T, D].

    They are cast afterwards, so that gradients of frequent tokens are summed in the
    type of the parameters: bfloat16 would lose all but the first hundreds.
    """
    return params["embed"]["embedding"][tokens].astype(config.dtype)


@functools.cache
def _structure(config: DecoderConfig) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))


def _merge(config: DecoderConfig, params: Params) -> Decoder:
    return nnx.merge(_structure(config), params)
