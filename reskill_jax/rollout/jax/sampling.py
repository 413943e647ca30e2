"""Sample next tokens from logits, row by row independently."""

import jax
import jax.numpy as jnp


def sample(
    logits: jax.Array,
    temperature: jax.Array,
    top_p: jax.Array,
    seeds: jax.Array,
    index: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Draw one token per row; a row's draw depends on that row's arguments only.

    Args:
        logits: float32 [B, V].
        temperature: float32 [B]; 0 is greedy.
        top_p: float32 [B]; the smallest set of most likely tokens with this much
            probability is drawn from; 1 is no limit.
        seeds: uint32 [B, 2], one key per request.
        index: int32 [B], the token's index in the response, folded into the key.

    Returns:
        Tokens int32 [B] and their log-probabilities float32 [B] at the sampling
        temperature (1 when greedy), before `top_p` cuts.
    """
    greedy = temperature <= 0
    scaled = logits / jnp.where(greedy, 1.0, temperature)[:, None]
    kept = jax.lax.cond(jnp.any(top_p < 1), _nucleus, lambda x, _: x, scaled, top_p)
    keys = jax.random.wrap_key_data(seeds, impl="threefry2x32")
    keys = jax.vmap(jax.random.fold_in)(keys, index)
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    # Without noise this is greedy, since a nucleus has the likeliest token. One argmax
    # for both: XLA's CPU backend is slow at it.
    noise = jnp.where(greedy[:, None], 0.0, noise)
    tokens = jnp.argmax(kept + noise, axis=-1).astype(jnp.int32)
    chosen = jnp.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
    normaliser = jax.nn.logsumexp(scaled, axis=-1)
    return tokens, jnp.minimum(chosen - normaliser, 0.0)


def _nucleus(scaled: jax.Array, top_p: jax.Array) -> jax.Array:
    """Set logits outside of the nucleus to -inf; rows with top_p 1 are unchanged."""
    order = jnp.argsort(-scaled, axis=-1)
    ranked = jnp.take_along_axis(jax.nn.softmax(scaled, axis=-1), order, axis=-1)
    before = jnp.cumsum(ranked, axis=-1) - ranked  # probability of likelier tokens
    inside = (before < top_p[:, None]) | (top_p[:, None] >= 1)
    inside = inside.at[:, 0].set(True)
    rank = jnp.argsort(order, axis=-1)
    return jnp.where(jnp.take_along_axis(inside, rank, axis=-1), scaled, -jnp.inf)
