"""Attention in plain XLA, by blocks of queries and keys.

The backward pass computes the weights again instead of keeping them (Dao et al. 2022,
arXiv 2205.14135), which on a CPU takes about half of the time, too. With weights P and
d_weights = d_out V', it is d_scores = P (d_weights - delta), where delta = sum over
keys of P d_weights = sum over H of out d_out.

Two functions: `dense` attends from a block of queries to all keys up to its end,
`sparse` visits only the pairs of blocks that are not masked. Scores are float32;
letters as in `attention`.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

ATTENDED = "attended"  # checkpoint name of outputs and normalisers
BLOCK = 128  # positions
_MASKED = -1e30  # finite, so that a fully masked row (padding) yields no NaN

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@jax.custom_vjp
def dense(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> jax.Array:
    """Attend with [B, K, G, T, H] to [B, K, T, H]; bool `mask` [B, T, T].

    Best for short rows. One block of queries has all keys up to its own end in one
    product, which on a causal mask is half of the work.
    """
    return _dense_forward(query, key, value, mask)[0]


def _dense_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    outs, peaks, totals = [], [], []
    for start, stop in _spans(query.shape[3]):
        seen = mask[:, start:stop, :stop]
        scores = _scores(query[:, :, :, start:stop], key[:, :, :stop], seen)
        peaks.append(jnp.max(scores, axis=-1, keepdims=True))
        weights = jnp.exp(scores - peaks[-1])
        totals.append(jnp.sum(weights, axis=-1, keepdims=True))
        weights = weights.astype(value.dtype)
        outs.append(_product("bkgts,bksh->bkgth", weights, value[:, :, :stop]))
    out, peak, total = (jnp.concatenate(x, axis=3) for x in (outs, peaks, totals))
    out = checkpoint_name((out / total).astype(query.dtype), ATTENDED)
    normaliser = checkpoint_name(peak + jnp.log(total), ATTENDED)
    return out, (query, key, value, mask, out, normaliser)


def _dense_backward(
    kept: tuple[jax.Array, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, mask, out, normaliser = kept
    delta = _product("bkgth,bkgth->bkgt", d_out, out)[..., None]
    d_query = []
    d_key = d_value = jnp.zeros(key.swapaxes(2, 3).shape, jnp.float32)
    for start, stop in _spans(query.shape[3]):
        rows = jnp.s_[:, :, :, start:stop]
        columns = jnp.s_[:, :, :stop]
        scores = _scores(query[rows], key[columns], mask[:, start:stop, :stop])
        d_q, d_k, d_v = _differentiate(
            (query[rows], key[columns], value[columns]),
            jnp.exp(scores - normaliser[rows]),
            delta[rows],
            d_out[rows],
        )
        d_query.append(d_q)
        d_key = d_key.at[..., :stop].add(d_k)
        d_value = d_value.at[..., :stop].add(d_v)
    return (
        jnp.concatenate(d_query, axis=3).astype(query.dtype),
        d_key.swapaxes(2, 3).astype(key.dtype),
        d_value.swapaxes(2, 3).astype(value.dtype),
        None,
    )


dense.defvjp(_dense_forward, _dense_backward)


@jax.custom_vjp
def sparse(
    query: jax.Array, key: jax.Array, value: jax.Array, visible_end: jax.Array
) -> jax.Array:
    """Attend with blocks [M, K, G, P, H] to [M, K, P, H]; `visible_end` int32 [M, P].

    The blocks are those of one long row, in which i attends to j iff
    j <= i < visible_end[j]. Softmax runs online over the blocks of keys that are not
    masked for a block of queries.
    """
    return _sparse_forward(query, key, value, visible_end)[0]


def _sparse_forward(
    query: jax.Array, key: jax.Array, value: jax.Array, visible_end: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:

    def one(_, block):
        number, query, (blocks, count) = block

        def visit(index, carry):
            peak, total, out = carry
            k = blocks[index]
            scores = _scores(query, key[k], _seen(number, k, visible_end[k]))
            new_peak = jnp.maximum(peak, scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - new_peak)
            scale = jnp.exp(peak - new_peak)
            total = total * scale + weights.sum(-1, keepdims=True)
            mixed = _product("kgts,ksh->kgth", weights.astype(value.dtype), value[k])
            return new_peak, total, out * scale + mixed

        zero = jnp.zeros((*query.shape[:-1], 1), jnp.float32)
        start = (zero + _MASKED, zero, jnp.zeros(query.shape, jnp.float32))
        peak, total, out = jax.lax.fori_loop(0, count, visit, start)
        return None, ((out / total).astype(query.dtype), peak + jnp.log(total))

    numbers = jnp.arange(len(query))
    _, (out, normaliser) = jax.lax.scan(
        one, None, (numbers, query, _visible(visible_end))
    )
    out, normaliser = (checkpoint_name(x, ATTENDED) for x in (out, normaliser))
    return out, (query, key, value, visible_end, out, normaliser)


def _sparse_backward(
    kept: tuple[jax.Array, ...], d_out: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    query, key, value, visible_end, out, normaliser = kept
    delta = _product("mkgth,mkgth->mkgt", d_out, out)[..., None]

    def one(carry, block):
        number, query, normaliser, delta, d_out, (blocks, count) = block

        def visit(index, carry):
            d_query, d_key, d_value = carry
            k = blocks[index]
            scores = _scores(query, key[k], _seen(number, k, visible_end[k]))
            d_q, d_k, d_v = _differentiate(
                (query, key[k], value[k]), jnp.exp(scores - normaliser), delta, d_out
            )
            return d_query + d_q, d_key.at[k].add(d_k), d_value.at[k].add(d_v)

        zero = jnp.zeros(query.shape, jnp.float32)
        d_query, *carry = jax.lax.fori_loop(0, count, visit, (zero, *carry))
        return tuple(carry), d_query.astype(query.dtype)

    zeros = (jnp.zeros(key.swapaxes(2, 3).shape, jnp.float32),) * 2
    numbers = jnp.arange(len(query))
    blocks = (numbers, query, normaliser, delta, d_out, _visible(visible_end))
    (d_key, d_value), d_query = jax.lax.scan(one, zeros, blocks)
    d_key, d_value = d_key.swapaxes(2, 3), d_value.swapaxes(2, 3)
    return d_query, d_key.astype(key.dtype), d_value.astype(value.dtype), None


sparse.defvjp(_sparse_forward, _sparse_backward)


def _visible(visible_end: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find the blocks of keys that each block of queries attends to.

    Always to itself, so that the output for padding is finite.

    Returns:
        Their numbers, int32 [M, M], increasing, and their count, int32 [M]; numbers
        after the first `count` have no meaning.
    """
    number = jnp.arange(visible_end.shape[0])
    first = number[:, None] * visible_end.shape[1]  # query of a block
    seen = (number < number[:, None]) & (visible_end.max(axis=1) > first)
    seen = seen | (number == number[:, None])
    return jnp.argsort(~seen, axis=1, stable=True), seen.sum(axis=1)


def _spans(length: int) -> list[tuple[int, int]]:
    """Cut positions into blocks, of which the last may be shorter."""
    return [(at, min(at + BLOCK, length)) for at in range(0, length, BLOCK)]


def _seen(query: jax.Array, key: jax.Array, visible_end: jax.Array) -> jax.Array:
    """Mask of the queries of one block on the keys of another: bool [P, P].

    Args:
        query: number of the one.
        key: number of the other.
        visible_end: int32 [P], of the keys.
    """
    length = visible_end.shape[0]
    i = query * length + jnp.arange(length)[:, None]
    j = key * length + jnp.arange(length)
    return (j <= i) & (i < visible_end)


def _scores(query: jax.Array, key: jax.Array, seen: jax.Array) -> jax.Array:
    """Scores of queries [..., K, G, t, H] on keys [..., K, s, H], float32.

    They are masked where `seen`, bool [..., t, s], is False.
    """
    scores = _product("...kgth,...ksh->...kgts", query, key)
    return jnp.where(seen[..., None, None, :, :], scores, _MASKED)


def _differentiate(
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    weights: jax.Array,
    delta: jax.Array,
    d_out: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of queries [..., K, G, t, H], keys and values [..., K, H, s], float32.

    See the module's docstring. Those of keys and values are transposed, since a product
    then takes the weights as they lie: XLA's CPU backend would transpose them, which is
    more than all arrays of width H together, and makes an update of the laboratory's
    1M-parameter policy take 1.2 times as long.
    """
    query, key, value = arrays
    d_weights = _product("...kgth,...ksh->...kgts", d_out, value)
    d_scores = (weights * (d_weights - delta)).astype(key.dtype)
    return (
        _product("...kgts,...ksh->...kgth", d_scores, key),
        _product("...kgth,...kgts->...khs", query, d_scores),
        _product("...kgth,...kgts->...khs", d_out, weights.astype(value.dtype)),
    )
