"""Attention behind one function, and the mask of tree-packed rows.

Three backends compute it: `xla` anywhere, `cudnn` on GPUs and `splash` on TPUs.

Letters: B batch, T tokens, N query heads, K key-value heads (N = K * G), H head width,
S queries, M blocks of P tokens.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from reskill_jax.policy.ops import block_attention
from reskill_jax.policy.sharding import ROWS, mesh_of, platform_of

BACKENDS = ("xla", "cudnn", "splash")

_LONG = 1024  # tokens; from here on a CPU gains by skipping blocks that are masked
_TILES = (512, 256, 128)  # sides of splash's tiles; the first that divides T is used
_LONGEST_ON_GPU = 4096  # tokens; at 16,384 XLA's program takes 41 GiB of the card
_QUERIES = 2048  # per call of splash, whose masks take 12 bytes per query and key


def tree_mask(visible_end: jax.Array) -> jax.Array:
    """Return the attention mask of rows that pack episodes as trunks with branches.

    Tokens are ordered so that those which attend to token j form one range that starts
    at j: i attends to j iff j <= i < visible_end[j].

    Args:
        visible_end: int32 [B, T], the end of that range, exclusive; 0 in padding.

    Returns:
        bool [B, T, T], True where query i (axis 1) attends to key j (axis 2).
    """
    return _mask(jnp.arange(visible_end.shape[1]), visible_end)


def _mask(queries: jax.Array, visible_end: jax.Array) -> jax.Array:
    """Return the rows of `tree_mask` of queries at slots [S]: bool [..., S, T]."""
    queries = queries[:, None]
    causal = queries >= jnp.arange(visible_end.shape[-1])
    return causal & (queries < visible_end[..., None, :])


def choose_backend(attention: str, platform: str, dtype: str) -> str:
    """Return the fastest backend for a platform if `attention` is auto, else that one.

    Args:
        attention: auto, or one of `BACKENDS`.
        platform: cpu, gpu or tpu.
        dtype: compute dtype; cudnn has no float32.

    Raises:
        ValueError: the backend does not run there.
    """
    if attention == "auto":
        fastest = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
        return "xla" if (fastest, dtype) == ("cudnn", "float32") else fastest
    if attention == "cudnn" and (platform, dtype) != ("gpu", "bfloat16"):
        raise ValueError(
            f"attention='cudnn' is for GPUs and bfloat16, not {platform} and "
            f"dtype={dtype!r}: choose 'auto' or 'xla'"
        )
    if attention == "splash" and platform == "gpu":
        raise ValueError("attention='splash' is for TPUs, not for a GPU: choose 'auto'")
    return attention


def check_row_lengths(buckets: Sequence[int], backend: str, platform: str = "") -> None:
    """Refuse lengths of rows that a backend cannot compute.

    Args:
        buckets: lengths of rows, tokens.
        backend: one of `BACKENDS`.
        platform: of the devices; GPUs have no room for long rows by `xla`.

    Raises:
        ValueError: names the argument.
    """
    if (backend, platform) == ("xla", "gpu") and max(buckets) > _LONGEST_ON_GPU:
        raise ValueError(
            f"buckets={tuple(buckets)}: attention by 'xla' keeps all pairs of tokens, "
            f"for which a GPU has room up to rows of {_LONGEST_ON_GPU}: choose "
            "attention='cudnn' with dtype='bfloat16', or shorter rows"
        )
    step = {"splash": _TILES[-1], "cudnn": 2}.get(backend, 1)
    if wrong := [length for length in buckets if length % step]:
        raise ValueError(
            f"buckets={tuple(buckets)}: attention by {backend!r} needs lengths in "
            f"multiples of {step}, not {wrong[0]}: change them, or use 'xla'"
        )


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    visible_end: jax.Array,
    *,
    backend: str = "xla",
) -> jax.Array:
    """Compute masked attention within rows, see `tree_mask`; softmax is float32.

    On a mesh every device attends with its own rows and heads.

    Args:
        query: [B, T, N, H].
        key: [B, T, K, H].
        value: [B, T, K, H].
        visible_end: int32 [B, T], see `tree_mask`.
        backend: one of `BACKENDS`; splash needs T in multiples of 128.

    Returns:
        [B, T, N, H]; in padding, finite values without meaning.

    Raises:
        ValueError: T is no multiple that splash can tile.
    """
    if backend == "cudnn":
        mask = tree_mask(visible_end)[:, None]
        # Every mask is within the causal one: told so, cudnn skips half of the pairs.
        with _no_bias_gradient():
            return jax.nn.dot_product_attention(
                query, key, value, mask=mask, is_causal=True, implementation="cudnn"
            )
    query = query * query.shape[-1] ** -0.5
    length, platform = query.shape[1], platform_of(mesh_of(query))
    if backend == "splash":
        attend = _splash(length, interpret=platform != "tpu")
        return _per_device(attend, query, key, value, visible_end)
    whole_blocks = length % block_attention.BLOCK == 0
    if length >= _LONG and whole_blocks and platform == "cpu":
        return _per_device(_sparse, query, key, value, visible_end)
    return _dense(query, key, value, visible_end)


@contextlib.contextmanager
def _no_bias_gradient() -> Iterator[None]:
    """Have cudnn's backward pass write no gradient of the mask, [T, T] per row.

    Up to 0.11.0 jax asks for one although a mask has none: 512 MiB for 16,384 tokens.
    What is asked for is settled while the forward pass is traced.
    """
    from jax._src.cudnn import fused_attention_stablehlo as cudnn  # noqa: PLC0415

    asks = getattr(cudnn, "should_export_dbias", None)
    if asks is None:  # a later jax
        yield
        return
    cudnn.should_export_dbias = lambda *shapes: False
    try:
        yield
    finally:
        cudnn.should_export_dbias = asks


Attention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]


def _per_device(
    attend: Attention,
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    visible_end: jax.Array,
) -> jax.Array:
    """Apply `attend` on every device to its own rows and heads."""
    if (mesh := mesh_of(query)) is not None:
        heads = P(ROWS, None, "tensor")
        attend = jax.shard_map(
            attend,
            mesh=mesh,
            in_specs=(heads, heads, heads, P(ROWS)),
            out_specs=heads,
            check_vma=False,
        )
    return attend(query, key, value, visible_end)


def _splash(length: int, *, interpret: bool) -> Attention:
    """Return the Pallas kernel for TPUs, row by row; other platforms interpret it."""
    # Imported here, since Pallas takes a second that other programs need not spend.
    from jax.experimental.pallas.ops.tpu.splash_attention import (  # noqa: PLC0415
        splash_attention_kernel,
    )

    tile = next((tile for tile in _TILES if length % tile == 0), None)
    if tile is None:
        raise ValueError(
            f"backend='splash' needs rows in multiples of {_TILES[-1]} tokens, not "
            f"{length}: use other row lengths, or 'xla'"
        )
    sizes = splash_attention_kernel.BlockSizes(
        *(tile,) * 8  # the backward pass has a kernel for queries and one for keys
    )
    make = functools.partial(
        splash_attention_kernel.make_splash_mha_single_device,
        block_sizes=sizes,
        residual_checkpoint_name=block_attention.ATTENDED,
        interpret=interpret,
    )
    queries = max(n for n in range(tile, _QUERIES + 1, tile) if length % n == 0)
    # Masks are large, and cheap to compute again.
    keep = jax.checkpoint_policies.save_only_these_names(block_attention.ATTENDED)

    def one_row(row: tuple[jax.Array, ...]) -> jax.Array:
        query, key, value, visible_end = row  # heads first
        # Gradients of keys are summed over the spans of queries: not in bfloat16.
        keys = key.astype(jnp.float32), value.astype(jnp.float32)

        @functools.partial(jax.checkpoint, policy=keep)
        def one_span(span: tuple[jax.Array, jax.Array]) -> jax.Array:
            query, slots = span  # [N, S, H], [S]
            # The kernel divides by the sum of weights: padding attends to itself.
            mask = _mask(slots, visible_end) | (slots[:, None] == jnp.arange(length))
            kernel = make(mask[None])
            for name in ("fwd", "dq", "dkv"):
                # A label that must not be traced, as jax 0.10's kernels do.
                field = f"{name}_mask_info"
                info = getattr(kernel, field)._replace(is_dynamic_mask=None)
                setattr(kernel, field, info)
            return kernel(query, *(x.astype(query.dtype) for x in keys))

        heads, _, width = query.shape
        spans = query.reshape(heads, -1, queries, width).swapaxes(0, 1)
        slots = jnp.arange(length).reshape(-1, queries)
        out = jax.lax.map(one_span, (spans, slots))
        return out.swapaxes(0, 1).reshape(query.shape)

    def rows(
        query: jax.Array, key: jax.Array, value: jax.Array, visible_end: jax.Array
    ) -> jax.Array:
        heads_first = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
        return jax.lax.map(one_row, (*heads_first, visible_end)).transpose(0, 2, 1, 3)

    return rows


def _dense(
    query: jax.Array, key: jax.Array, value: jax.Array, visible_end: jax.Array
) -> jax.Array:
    """Attend from each block of queries to all keys up to its end."""
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    # Heads first: XLA's CPU backend is faster by a third than on the layout of rows.
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    query = query.transpose(0, 2, 3, 1, 4)  # [B, K, G, T, H]
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)  # [B, K, T, H]
    out = block_attention.dense(query, key, value, tree_mask(visible_end))
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _sparse(
    query: jax.Array, key: jax.Array, value: jax.Array, visible_end: jax.Array
) -> jax.Array:
    """Attend from each block of queries to the blocks of keys that are not masked.

    Rows are joined into one, since `visible_end` keeps them apart.
    """
    batch, length, heads, width = query.shape
    kv_heads, block = key.shape[2], block_attention.BLOCK
    visible_end = jnp.where(
        visible_end > 0, visible_end + jnp.arange(batch)[:, None] * length, 0
    )
    query = query.reshape(-1, block, kv_heads, heads // kv_heads, width)
    query = query.transpose(0, 2, 3, 1, 4)  # [M, K, G, P, H]
    key, value = (
        x.reshape(-1, block, kv_heads, width).transpose(0, 2, 1, 3)
        for x in (key, value)
    )  # [M, K, P, H]
    out = block_attention.sparse(query, key, value, visible_end.reshape(-1, block))
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)
