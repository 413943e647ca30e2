"""Attention behind one function, and the mask of tree-packed rows.

Three programs compute it: `xla` anywhere, `cudnn` on GPUs and `splash` on TPUs.

Letters: B batch, T queries, S keys, N query heads, K key-value heads (N = K * G), H
head width. Every mask here is causal: query i never sees a key j > i.
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.sharding import ROWS, platform_of

BACKENDS = ("xla", "cudnn", "splash")

_BLOCK = 128  # queries per block: a block skips the keys after its last query
_TILES = (512, 256, 128)  # of splash, per side; the first that divides T
_MASKED = -1e30  # finite, so that a row that sees nothing (padding) yields no NaN


def tree_mask(until: jax.Array) -> jax.Array:
    """Return who sees whom in rows that pack episodes as trunks with branches.

    In the order of the tokens all that follow from token j, and so see it, stand right
    behind it: i sees j iff j <= i < until[j].

    Args:
        until: int32 [B, T], the first token behind j that does not see it; 0 in
            padding.

    Returns:
        bool [B, T, T], [b, i, j].
    """
    slots = jnp.arange(until.shape[1])
    causal = slots[:, None] >= slots
    return causal & (slots[:, None] < until[:, None, :])


def choose_backend(name: str, platform: str, dtype: str) -> str:
    """Return the fastest program for a platform if `name` is auto, else `name`.

    Args:
        name: auto, or one of `BACKENDS`.
        platform: cpu, gpu or tpu.
        dtype: compute dtype; cudnn has no float32.

    Raises:
        ValueError: if the program does not run there.
    """
    if name == "auto":
        fastest = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
        return "xla" if (fastest, dtype) == ("cudnn", "float32") else fastest
    if name == "cudnn" and (platform, dtype) != ("gpu", "bfloat16"):
        raise ValueError(
            f"config.policy.attention='cudnn' is for GPUs and bfloat16, not {platform} "
            f"and config.policy.dtype={dtype!r}: choose 'auto' or 'xla'"
        )
    if name == "splash" and platform == "gpu":
        raise ValueError(
            "config.policy.attention='splash' is for TPUs, not for a GPU: choose 'auto'"
        )
    return name


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    *,
    backend: str = "xla",
    mesh: Mesh | None = None,
) -> jax.Array:
    """Attend within rows; softmax is float32.

    Args:
        query: [B, T, N, H].
        key: [B, T, K, H].
        value: [B, T, K, H].
        mask: bool [B, T, T], False wherever j > i.
        backend: one of `BACKENDS`; splash wants T in multiples of 128.
        mesh: the devices; rows and heads are split.

    Returns:
        [B, T, N, H]; rows that see nothing are finite, to be ignored.

    Raises:
        ValueError: on a T that splash cannot tile.
    """
    if backend == "cudnn":
        return jax.nn.dot_product_attention(
            query, key, value, mask=mask[:, None], implementation="cudnn"
        )
    if backend == "splash":
        return _splash(query, key, value, mask, mesh)
    return _xla(query, key, value, mask)


def _splash(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: jax.Array,
    mesh: Mesh | None,
) -> jax.Array:
    """Run the Pallas kernel for TPUs, row by row; other platforms interpret it."""
    # Imported here, since Pallas takes a second that other programs need not spend.
    from jax.experimental.pallas.ops.tpu.splash_attention import (  # noqa: PLC0415
        splash_attention_kernel,
    )

    length = query.shape[1]
    tile = next((tile for tile in _TILES if length % tile == 0), None)
    if tile is None:
        raise ValueError(
            f"config.policy.attention='splash' needs rows in multiples of {_TILES[-1]} "
            f"tokens, not {length}: change config.grpo.buckets, or choose 'xla'"
        )
    sizes = splash_attention_kernel.BlockSizes(
        *(tile,) * 8  # the backward pass has a kernel for queries and one for keys
    )
    make = functools.partial(
        splash_attention_kernel.make_splash_mha_single_device,
        block_sizes=sizes,
        interpret=platform_of(mesh) != "tpu",
    )

    def one_row(row: tuple[jax.Array, ...]) -> jax.Array:
        query, key, value, mask = row  # heads first
        kernel = make(mask[None])
        for name in ("fwd", "dq", "dkv"):
            # A label that must not be traced, as jax 0.10's kernels do.
            info = getattr(kernel, f"{name}_mask_info")._replace(is_dynamic_mask=None)
            setattr(kernel, f"{name}_mask_info", info)
        return kernel(query, key, value)

    def rows(query, key, value, mask):
        heads_first = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
        return jax.lax.map(one_row, (*heads_first, mask)).transpose(0, 2, 1, 3)

    if mesh is not None:
        heads = P(ROWS, None, "tensor")
        rows = jax.shard_map(
            rows,
            mesh=mesh,
            in_specs=(heads, heads, heads, P(ROWS)),
            out_specs=heads,
            check_vma=False,
        )
    # The kernel divides by the sum of what a query sees: padding sees itself.
    mask = mask | jnp.eye(length, dtype=bool)
    return rows(query * query.shape[-1] ** -0.5, key, value, mask)


def _xla(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Take queries in blocks, each against the keys up to its own end.

    On a causal mask this is half of the work. The backward pass computes the weights
    again instead of keeping them (Dao et al. 2022, arXiv 2205.14135), which on a CPU
    takes about half of the time, too.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    # Heads first: XLA's CPU backend is faster by a third than on the layout of rows.
    query = query * width**-0.5
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    query = query.transpose(0, 2, 3, 1, 4)  # [B, K, G, T, H]
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)  # [B, K, S, H]
    out = _attend(query, key, value, mask)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


@jax.custom_vjp
def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Softmax attention of [B, K, G, T, H] on [B, K, S, H] under bool [B, T, S]."""
    return _attend_forward(query, key, value, mask)[0]


def _attend_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    outs, normalisers = [], []
    for start, stop in _blocks(query.shape[3]):
        scores = _scores(query, key, mask, start, stop)
        peak = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - peak)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = (weights / total).astype(value.dtype)
        outs.append(jnp.einsum("bkgts,bksh->bkgth", weights, value[:, :, :stop]))
        normalisers.append(peak + jnp.log(total))
    out = jnp.concatenate(outs, axis=3)
    return out, (query, key, value, mask, out, jnp.concatenate(normalisers, axis=3))


def _attend_backward(
    kept: tuple[jax.Array, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    """Differentiate softmax attention block by block.

    With weights P and d_weights = d_out V', d_scores = P (d_weights - delta), where
    delta = sum over keys of P d_weights = sum over H of out d_out.
    """
    query, key, value, mask, out, normaliser = kept
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    delta = product("bkgth,bkgth->bkgt", d_out, out)[..., None]
    d_query = []
    d_key = jnp.zeros(key.shape, jnp.float32)
    d_value = jnp.zeros(value.shape, jnp.float32)
    for start, stop in _blocks(query.shape[3]):
        rows = jnp.s_[:, :, :, start:stop]
        scores = _scores(query, key, mask, start, stop)
        weights = jnp.exp(scores - normaliser[rows])
        d_weights = product("bkgth,bksh->bkgts", d_out[rows], value[:, :, :stop])
        d_scores = (weights * (d_weights - delta[rows])).astype(key.dtype)
        weights = weights.astype(value.dtype)
        d_query.append(product("bkgts,bksh->bkgth", d_scores, key[:, :, :stop]))
        d_key = d_key.at[:, :, :stop].add(
            product("bkgts,bkgth->bksh", d_scores, query[rows])
        )
        d_value = d_value.at[:, :, :stop].add(
            product("bkgts,bkgth->bksh", weights, d_out[rows])
        )
    return (
        jnp.concatenate(d_query, axis=3).astype(query.dtype),
        d_key.astype(key.dtype),
        d_value.astype(value.dtype),
        None,
    )


_attend.defvjp(_attend_forward, _attend_backward)


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(at, min(at + _BLOCK, length)) for at in range(0, length, _BLOCK)]


def _scores(
    query: jax.Array, key: jax.Array, mask: jax.Array, start: int, stop: int
) -> jax.Array:
    """Scores of a block of queries on the keys up to its end, float32."""
    scores = jnp.einsum(
        "bkgth,bksh->bkgts",
        query[:, :, :, start:stop],
        key[:, :, :stop],
        preferred_element_type=jnp.float32,
    )
    return jnp.where(mask[:, None, None, start:stop, :stop], scores, _MASKED)
