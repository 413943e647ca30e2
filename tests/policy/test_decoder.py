"""The decoder against numpy from the equations, and packed against flat rows."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_trees import plant, random_until

from reskill_jax.policy.compute import REMAT, Compute
from reskill_jax.policy.decoder import (
    abstract_params,
    cached_hidden_states,
    fill_cache,
    hidden_states,
    logits,
)
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.kv_cache import empty_cache
from reskill_jax.policy.logprobs import token_logprobs
from reskill_jax.policy.ops import attention as attention_file
from reskill_jax.policy.ops import block_attention
from reskill_jax.policy.ops.attention import attention, choose_backend, tree_mask

CONFIG = DecoderConfig(
    vocab_size=50,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=1000.0,
)


score = jax.jit(token_logprobs, static_argnums=0, static_argnames="compute")


@functools.cache
def noisy(config: DecoderConfig):
    """Random parameters whose scales and biases are not at their initial values."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        name = path[-1].key
        size = 0.1 if name in ("scale", "bias") else 0.25
        values = rng.normal(name == "scale", size, leaf.shape)
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract_params(config))


def oracle(config: DecoderConfig, params, tokens: np.ndarray) -> np.ndarray:
    """Logits [T, V] of one row, in float64, token by token and head by head."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * scale

    def rotate(x, position):
        half = config.head_dim // 2
        angle = position * config.rope_theta ** (-2 * np.arange(half) / config.head_dim)
        z = (x[:half] + 1j * x[half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag])

    x = p["embed"]["embedding"][tokens]
    for i in range(config.num_hidden_layers):
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], p["layers"])
        a, h = layer["attention"], norm(x, layer["attention_norm"]["scale"])
        q, k, v = (
            np.einsum("td,dnh->tnh", h, a[name]["kernel"]) + a[name].get("bias", 0)
            for name in ("query", "key", "value")
        )
        if config.qk_norm:
            q, k = norm(q, a["query_norm"]["scale"]), norm(k, a["key_norm"]["scale"])
        mixed = np.zeros_like(q)
        group = config.num_attention_heads // config.num_key_value_heads
        for n in range(config.num_attention_heads):
            for t in range(len(tokens)):
                query = rotate(q[t, n], t)
                scores = np.array(
                    [query @ rotate(k[s, n // group], s) for s in range(t + 1)]
                )
                weights = np.exp(scores / np.sqrt(config.head_dim))
                mixed[t, n] = weights / weights.sum() @ v[: t + 1, n // group]
        x = x + np.einsum("tnh,nhd->td", mixed, a["out"]["kernel"])
        x = x + a["out"].get("bias", 0)
        h, mlp = norm(x, layer["mlp_norm"]["scale"]), layer["mlp"]
        gate = h @ mlp["gate"]["kernel"]
        gate = gate / (1 + np.exp(-gate))
        x = x + (gate * (h @ mlp["up"]["kernel"])) @ mlp["down"]["kernel"]
    x = norm(x, p["norm"]["scale"])
    if config.tie_word_embeddings:
        return x @ p["embed"]["embedding"].T
    return x @ p["lm_head"]["kernel"]


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"tie_word_embeddings": False, "attention_bias": True, "model_type": "llama"},
        {"model_type": "qwen2"},
    ],
)
def test_matches_numpy(change):
    config = dataclasses.replace(CONFIG, **change)
    params = noisy(config)
    tokens = np.random.default_rng(0).integers(0, 50, 13)

    @jax.jit
    def run(params):
        visible_end = jnp.full((1, 13), 13)
        rows = jnp.asarray(tokens)[None]
        states = hidden_states(config, params, rows, jnp.arange(13)[None], visible_end)
        return logits(config, params, states)[0]

    ours = run(params)
    np.testing.assert_allclose(ours, oracle(config, params, tokens), atol=2e-4)


@given(depths=st.lists(st.integers(0, 6), max_size=14), padding=st.integers(0, 2))
@settings(deadline=None, max_examples=40)
def test_a_token_sees_itself_and_what_is_above_it(depths, padding):
    paths, visible_end = plant(depths)
    length = len(depths) + padding
    visible_end = np.pad(visible_end, (0, padding))
    mask = np.asarray(tree_mask(jnp.asarray(visible_end)[None]))[0]
    assert mask.shape == (length, length)
    for i in range(length):
        seen = paths[i] if i < len(depths) else []
        assert np.flatnonzero(mask[i]).tolist() == seen


def test_blocks_of_queries_change_nothing():
    keys = jax.random.split(jax.random.key(0), 3)
    length = 300  # two blocks and a part of one
    q = jax.random.normal(keys[0], (2, length, 4, 8))
    k = jax.random.normal(keys[1], (2, length, 2, 8))
    v = jax.random.normal(keys[2], (2, length, 2, 8))
    visible_end = jnp.asarray(random_until(np.random.default_rng(0), 2, length))
    mask = tree_mask(visible_end)
    expected = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None])
    sees = np.asarray(mask.any(-1))
    ours = jax.jit(attention)(q, k, v, visible_end)
    np.testing.assert_allclose(ours[sees], expected[sees], atol=1e-5)


@pytest.mark.parametrize(
    ("backend", "queries"), [("splash", 384), ("splash", 128), ("cudnn", 384)]
)
def test_backends_equal_blocks_of_queries_forward_and_backward(
    backend, queries, monkeypatch
):
    monkeypatch.setattr(attention_file, "_QUERIES", queries)
    on_gpu = jax.default_backend() == "gpu"
    if (backend == "cudnn") != on_gpu:
        pytest.skip(f"{backend} does not run on {jax.default_backend()}")
    keys = jax.random.split(jax.random.key(0), 4)
    length = 384  # three tiles
    dtype = jnp.bfloat16 if on_gpu else jnp.float32
    q = jax.random.normal(keys[0], (2, length, 4, 128), dtype)
    k = jax.random.normal(keys[1], (2, length, 2, 128), dtype)
    v = jax.random.normal(keys[2], (2, length, 2, 128), dtype)
    visible_end = random_until(np.random.default_rng(0), 2, length, padding=9)
    mask = tree_mask(jnp.asarray(visible_end))
    sees = mask.any(-1)[..., None, None]
    assert not sees.all()  # there is padding
    weights = jax.random.normal(keys[3], q.shape) * sees

    @functools.partial(jax.jit, static_argnums=0)
    @functools.partial(jax.value_and_grad, argnums=(1, 2, 3))
    def score(backend, q, k, v):
        return jnp.sum(attention(q, k, v, visible_end, backend=backend) * weights)

    expected, ours = score("xla", q, k, v), score(backend, q, k, v)
    scale = 1e-2 if on_gpu else 1e-5
    for x, y in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(
            np.asarray(x, np.float32),
            np.asarray(y, np.float32),
            atol=scale * float(jnp.abs(y).max()),
        )


def test_backends_are_chosen_by_platform():
    assert choose_backend("auto", "cpu", "float32") == "xla"
    assert choose_backend("auto", "gpu", "bfloat16") == "cudnn"
    assert choose_backend("auto", "gpu", "float32") == "xla"
    assert choose_backend("auto", "tpu", "float32") == "splash"
    assert choose_backend("xla", "tpu", "float32") == "xla"
    with pytest.raises(ValueError, match="attention='cudnn' is for GPUs"):
        choose_backend("cudnn", "cpu", "bfloat16")
    with pytest.raises(ValueError, match="'splash' is for TPUs"):
        choose_backend("splash", "gpu", "bfloat16")


def test_splash_refuses_rows_that_it_cannot_tile():
    x = jnp.zeros((1, 100, 2, 8))
    with pytest.raises(ValueError, match="multiples of 128 tokens, not 100"):
        attention(x, x, x, jnp.full((1, 100), 100), backend="splash")


Token = tuple[int, int, int]  # token, position, branch


def pack(trunk: list[int], turns: list[tuple[int, list[int]]]) -> list[Token]:
    """Lay out one tree: each turn's branch comes right after the trunk that it sees."""
    rows: list[Token] = []
    at = 0
    for n, (start, ids) in enumerate(turns):
        rows += [(trunk[p], p, 0) for p in range(at, start)]
        rows += [(token, start + i, n + 1) for i, token in enumerate(ids)]
        at = start
    return rows + [(trunk[p], p, 0) for p in range(at, len(trunk))]


def test_packed_trees_score_and_learn_as_flat_rows():
    rng = np.random.default_rng(3)
    params, width = noisy(CONFIG), 80
    packed = np.zeros((3, 1, width), int)  # tokens, positions, until
    flat = np.zeros((6, 20), int)  # one row per turn: prompt, branch, padding
    where: list[int] = []
    flat_where: list[tuple[int, int]] = []
    used = 0
    for tree in (1, 2):
        trunk = rng.integers(0, 50, 14).tolist()
        turns = [(start, rng.integers(0, 50, 6).tolist()) for start in (3, 8, 14)]
        rows = pack(trunk, turns)
        ids, positions, branches = np.transpose(rows)
        ends = [
            len(rows) if branch == 0 else np.flatnonzero(branches == branch)[-1] + 1
            for branch in branches
        ]
        packed[:, 0, used : used + len(rows)] = ids, positions, np.add(ends, used)
        for n, (start, ids) in enumerate(turns):
            first = used + [branch for *_, branch in rows].index(n + 1)
            where += range(first, first + 5)  # predict all of a branch but its start
            line = 3 * (tree - 1) + n
            flat[line, : start + 6] = [*trunk[:start], *ids]
            flat_where += [(line, start + i) for i in range(5)]
        used += len(rows)
    tokens, positions, visible_end = jnp.asarray(packed)
    at, flat_at = np.array(where), tuple(np.transpose(flat_where))

    compute = Compute(logprob_chunk=32)

    def packed_logprobs(params):
        targets = jnp.roll(tokens, -1, axis=1)
        logprobs, _ = token_logprobs(
            CONFIG, params, tokens, positions, visible_end, targets, compute=compute
        )
        return logprobs[0, at]

    def flat_logprobs(params):
        rows = jnp.asarray(flat)
        ones = jnp.ones_like(rows)
        positions = jnp.arange(20) * ones
        logprobs, _ = token_logprobs(
            CONFIG, params, rows, positions, 20 * ones, jnp.roll(rows, -1, axis=1)
        )
        return logprobs[flat_at]

    ours, expected = jax.jit(packed_logprobs)(params), jax.jit(flat_logprobs)(params)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    grad = jax.jit(jax.grad(lambda p: packed_logprobs(p).sum()))(params)
    flat_grad = jax.jit(jax.grad(lambda p: flat_logprobs(p).sum()))(params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), grad, flat_grad
    )


@pytest.fixture(scope="module")
def row():
    tokens = jnp.asarray(np.random.default_rng(1).integers(0, 50, (2, 20)))
    ones = jnp.ones((2, 20), int)
    positions = jnp.arange(20) * ones
    return tokens, positions, 20 * ones, jnp.roll(tokens, -1, 1)


@pytest.mark.parametrize("chunk", [6, 2])  # some in a row, and a loop over many
def test_logprobs_and_entropy_are_those_of_the_softmax(row, chunk):
    params = noisy(CONFIG)
    compute = Compute(logprob_chunk=chunk)
    ours, entropy = score(CONFIG, params, *row, temperature=0.7, compute=compute)
    for b in range(2):
        scores = oracle(CONFIG, params, row[0][b]) / 0.7
        table = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        expected = table[np.arange(20), row[3][b]]
        np.testing.assert_allclose(ours[b], expected, atol=2e-4)
        uncertainty = -(np.exp(table) * table).sum(-1)
        np.testing.assert_allclose(entropy[b], uncertainty, atol=5e-4)


@pytest.mark.parametrize("chunk", [20, 6, 2])  # one, some in a row, and a loop
def test_scores_that_are_wanted_are_those_of_all_columns(row, chunk):
    params = noisy(CONFIG)
    wanted = np.zeros((2, 20), bool)
    wanted[0, [3, 4, 11]] = wanted[1, [0, 19]] = True

    def total(params, wanted_only):
        scores = token_logprobs(
            CONFIG,
            params,
            *row,
            temperature=0.7,
            wanted=jnp.asarray(wanted) if wanted_only else None,
            compute=Compute(logprob_chunk=chunk),
        )
        scores = [jnp.where(wanted, x, 0.0) for x in scores]
        return scores[0].sum() - 0.3 * scores[1].sum(), scores

    compute = jax.jit(jax.grad(total, has_aux=True), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        compute(params, True),
        compute(params, False),
    )


def test_columns_that_are_not_wanted_have_no_logits(row):
    params = noisy(CONFIG)
    damaged = params["embed"]["embedding"].at[7].set(jnp.nan)
    params = params | {"embed": {"embedding": damaged}}
    tokens, positions, ends, targets = row
    tokens, targets = tokens.at[tokens == 7].set(8), targets.at[targets == 7].set(8)
    wanted = jnp.zeros((2, 20), bool).at[0, 13].set(True)
    logprobs, entropy = score(
        CONFIG,
        params,
        *(tokens, positions, ends, targets),
        wanted=wanted,
        compute=Compute(logprob_chunk=5),
    )
    # A chunk of logits has a NaN in every column: one was computed.
    assert np.isnan(logprobs).sum() == np.isnan(entropy).sum() == 2 * 5


@pytest.mark.parametrize("layers", [1, 3])
def test_filling_a_cache_writes_what_running_writes(layers):
    config = dataclasses.replace(CONFIG, num_hidden_layers=layers)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 50, (3, 4)))
    positions = jnp.array([0, 4, 0])[:, None] + jnp.arange(4)
    tables = jnp.array([[1, 3], [1, 3], [9, 9]])  # a sequence, and a padding row
    args = noisy(config), tokens, positions, tables, empty_cache(config, 5, 4)
    run = jax.jit(cached_hidden_states, static_argnums=0)
    fill = jax.jit(fill_cache, static_argnums=0)
    expected, ours = run(config, *args)[1], fill(config, *args)
    assert set(np.nonzero(np.asarray(ours.keys))[1].tolist()) == {1, 3}
    for x, y in zip(ours, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    # Of the last layer there are no more products than those of keys and values.
    kinds = ("q", "k", "v", "scores", "mixed", "out", "gate", "up", "down")
    counts = [_products(f, config, args) for f in (run, fill)]
    assert counts == [len(kinds), 2 + len(kinds) * (layers > 1)]


def _products(program, config, args):
    """Count products of matrices in a compiled program; a loop has its own once."""
    text = program.lower(config, *args).compile().as_text()
    return len(re.findall(r"= \S+ dot\(", text))


def test_chunks_that_do_not_divide_the_rows_are_a_loop_and_a_rest(row):
    params = noisy(CONFIG)
    shorter = [x[:, :19] for x in row]
    shorter[2] = jnp.minimum(shorter[2], 19)
    whole, _ = score(CONFIG, params, *shorter, compute=Compute(logprob_chunk=19))
    ours, _ = score(CONFIG, params, *shorter, compute=Compute(logprob_chunk=2))
    np.testing.assert_allclose(ours, whole, atol=1e-5)

    def lines(length):
        rows = [jax.ShapeDtypeStruct((2, length), jnp.int32)] * 4
        compute = Compute(logprob_chunk=2)
        lowered = score.lower(CONFIG, params, *rows, compute=compute)
        return lowered.as_text().count("\n")

    assert lines(19) == lines(59)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 0.01)])
def test_gradients_of_logits_are_those_of_a_product(tied, dtype, error):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=tied, dtype=dtype)
    params = noisy(config)
    rng = np.random.default_rng(0)
    states = rng.normal(size=(2, 3, config.hidden_size)).astype(np.float32)
    weights = rng.normal(size=(2, 3, config.vocab_size)).astype(np.float32)

    @jax.jit
    @jax.grad
    def gradient(both):
        return jnp.sum(logits(config, *both) * weights)

    d_params, d_states = gradient((params, jnp.asarray(states, dtype)))
    if tied:
        kernel, d_kernel = (
            params["embed"]["embedding"].T,
            d_params["embed"]["embedding"].T,
        )
    else:
        kernel, d_kernel = params["lm_head"]["kernel"], d_params["lm_head"]["kernel"]
    assert d_kernel.dtype == jnp.float32
    assert d_states.dtype == dtype
    for found, expected in (
        (d_states, weights @ np.asarray(kernel).T),
        (d_kernel, np.einsum("btd,btv->dv", states, weights)),
    ):
        scale = np.abs(expected).max()
        np.testing.assert_allclose(
            found.astype(jnp.float32) / scale, expected / scale, atol=error
        )


@pytest.mark.parametrize("remat", REMAT)
def test_remat_keeps_gradients(row, remat):
    params = noisy(CONFIG)

    def loss(params, compute):
        return token_logprobs(CONFIG, params, *row, compute=compute)[0].sum()

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        grad(params, Compute(remat, logprob_chunk=7)),
        grad(params, Compute(logprob_chunk=20)),
    )


@pytest.mark.parametrize("long", [20, 1024])
def test_remat_of_all_but_products_computes_no_product_again(row, long, monkeypatch):
    monkeypatch.setattr(attention_file, "_LONG", long)
    monkeypatch.setattr(block_attention, "BLOCK", 10)

    def products(remat):
        compute = Compute(remat, logprob_chunk=20)

        def loss(params):
            return token_logprobs(CONFIG, params, *row, compute=compute)[0].sum()

        lowered = jax.jit(jax.grad(loss)).lower(noisy(CONFIG))
        return lowered.as_text().count("dot_general")

    assert products("dots") == products("none") < products("full")


@pytest.mark.parametrize("chunk", [5, 2])
def test_logits_of_whole_rows_are_nowhere_in_the_program(row, chunk):
    def loss(params, chunk):
        compute = Compute("full", logprob_chunk=chunk)
        return token_logprobs(CONFIG, params, *row, compute=compute)[0].sum()

    def largest(chunk):
        """The most columns of logits that any array of the program has room for."""
        lowered = jax.jit(jax.grad(loss), static_argnums=1).lower(noisy(CONFIG), chunk)
        shapes = re.findall(r"f32\[([\d,]+)\]", lowered.compile().as_text())
        sizes = [[int(n) for n in shape.split(",")] for shape in shapes]
        return max(np.prod(size) for size in sizes if 50 in size and size != [50, 16])

    assert largest(20) >= 2 * 20 * 50  # what the others must not have
    assert largest(chunk) < 2 * 20 * 50


def test_program_size_does_not_grow_with_layers(row):
    def lines(layers):
        config = dataclasses.replace(CONFIG, num_hidden_layers=layers)
        params = abstract_params(config)
        lowered = score.lower(config, params, *row)
        return lowered.as_text().count("\n")

    assert lines(2) == lines(4)


def test_bfloat16_loses_no_gradients_of_frequent_tokens():
    """Sums of thousands of terms: in bfloat16 they would stop at a few hundreds."""
    tokens = jnp.full((1, 4000), 3)
    params = noisy(dataclasses.replace(CONFIG, num_hidden_layers=0))

    def gradient(dtype):
        config = dataclasses.replace(CONFIG, num_hidden_layers=0, dtype=dtype)

        def total(params):
            rest = jnp.arange(4000)[None], jnp.full_like(tokens, 4000)
            states = hidden_states(config, params, tokens, *rest)
            return jnp.sum(states.astype(jnp.float32) * jnp.arange(16))

        return jax.jit(jax.grad(total))(params)["embed"]["embedding"][3]

    exact = gradient("float32")
    np.testing.assert_allclose(
        gradient("bfloat16"), exact, atol=0.03 * float(jnp.abs(exact).max())
    )


def test_bfloat16_computes_near_float32(row):
    params = noisy(CONFIG)
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    low, _ = score(half, params, *row)
    high, _ = score(CONFIG, params, *row)
    assert low.dtype == jnp.float32
    assert 0 < np.abs(low - high).mean() < 0.05
