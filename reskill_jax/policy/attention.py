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
    query = query.reshape(batch, length, kv_heads, heads // kv_heads, width)
    blocks = []
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        blocks.append(
            _attend(
                query[:, start:stop],
                key[:, :stop],
                value[:, :stop],
                mask[:, start:stop, :stop],
            )
        )
    out = jnp.concatenate(blocks, axis=1)
    return out.reshape(batch, length, heads, width)


def _attend(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Softmax attention of [B, T, K, G, H] on [B, S, K, H] under bool [B, T, S]."""
    scores = jnp.einsum(
        "btkgh,bskh->bkgts", query, key, preferred_element_type=jnp.float32
    )
    scores = scores * query.shape[-1] ** -0.5
    scores = jnp.where(mask[:, None, None], scores, _MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, value)
