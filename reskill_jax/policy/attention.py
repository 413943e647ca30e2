"""Attention behind one function, and the mask of tree-packed rows.

Letters: B batch, T queries, S keys, N query heads, K key-value heads (N = K * G), H
head width. Every mask here is causal: query i never sees a key j > i.
"""

import jax
import jax.numpy as jnp

_BLOCK = 128  # queries per block: a block skips the keys after its last query
_MASKED = -1e30  # finite, so that a row that sees nothing (padding) yields no NaN


def tree_mask(tree: jax.Array, branch: jax.Array) -> jax.Array:
    """Return who sees whom in rows that pack episodes as trunks with branches.

    Token i sees token j iff j <= i, both are in the same tree, and j lies on the trunk
    or on i's own branch.

    Args:
        tree: int32 [B, T], which tree a token belongs to; 0 is padding.
        branch: int32 [B, T], which branch of its tree; 0 is the trunk.

    Returns:
        bool [B, T, T], [b, i, j].
    """
    length = tree.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    same_tree = (tree[:, :, None] == tree[:, None, :]) & (tree[:, None, :] != 0)
    on_path = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    return causal & same_tree & on_path


def attention(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Attend within rows.

    Scores and softmax are float32. Queries are taken in blocks, each against the keys
    up to its own end: on a causal mask this is half of the work.

    Args:
        query: [B, T, N, H].
        key: [B, T, K, H].
        value: [B, T, K, H].
        mask: bool [B, T, T], False wherever j > i.

    Returns:
        [B, T, N, H]; rows that see nothing are an average of values, to be ignored.
    """
    batch, length, heads, width = query.shape
    kv_heads = key.shape[2]
    # Heads first: XLA's CPU backend is faster by a third than on the layout of rows.
    query = query * width**-0.5
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    query = query.transpose(0, 2, 3, 1, 4)  # [B, K, G, T, H]
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)  # [B, K, S, H]
    blocks = []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        rows = mask[:, start:stop, :stop]
        blocks.append(
            _attend(
                query[..., start:stop, :], key[:, :, :stop], value[:, :, :stop], rows
            )
        )
    out = jnp.concatenate(blocks, axis=3)
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, width)


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Softmax attention of [B, K, G, T, H] on [B, K, S, H] under bool [B, T, S]."""
    scores = jnp.einsum(
        "bkgth,bksh->bkgts", query, key, preferred_element_type=jnp.float32
    )
    scores = scores + jnp.where(mask, 0.0, _MASKED)[:, None, None]
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bksh->bkgth", weights, value)
