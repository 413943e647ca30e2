"""Tests for a process with eight devices; `test_sharding.py` runs them in one."""

import asyncio
import dataclasses
import functools
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from safetensors.numpy import load_file

from reskill_jax import build
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.grpo.optimizer import init_state, make_optimizer
from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.grpo.scoring import make_logprobs, make_scores
from reskill_jax.grpo.update import make_update
from reskill_jax.policy.compute import Compute
from reskill_jax.policy.decoder import abstract_params, init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.lora import Adapted, join, merge
from reskill_jax.policy.sharding import (
    ROWS,
    abstract,
    constrain_parameters,
    copy_to_engine,
    engine_mesh,
    make_mesh,
    mesh_of,
)
from reskill_jax.policy.weights import device_tensors, load, on_mesh, save
from reskill_jax.rollout.engine import Request, Sampling
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.rollout.jax.programs import abstract_calls

sys.path.append(str(Path(__file__).parents[1] / "helpers"))
from grpo_cases import make_batch
from programs import get_config

CONFIG = DecoderConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
)
TX = make_optimizer(1e-3)
MESHES = [(1, 8, 1), (2, 2, 2), (1, 4, 2)]
# Compiling an update takes long, so one mesh has to do, unless slow tests are run.
TRAINED = [
    pytest.param(MESHES[0], marks=pytest.mark.slow),
    MESHES[1],
    pytest.param(MESHES[2], marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Weights as every run finds them."""
    path = tmp_path_factory.mktemp("policy")
    params = init(CONFIG, jax.random.key(0))
    save(path, CONFIG, jax.tree.map(lambda x: x + 0.1, params))
    return path


def start(directory, mesh):
    _, params = load(directory, on_mesh(mesh))
    return init_state(params, TX, mesh)


@pytest.fixture(scope="module")
def trained(directory):
    """Train on a mesh, once each: parts at the start, state, metrics of two updates."""

    @functools.cache
    def train(shape):
        mesh = make_mesh(shape)
        update = make_update(
            make_logprobs(CONFIG, compute=Compute(logprob_chunk=32)),
            TX,
            buckets=(64,),
            tokens_per_microbatch=128,
            minibatches=2,
            kl_coef=0.05,
            old_logprobs="recompute",
        )
        state = start(directory, mesh)
        parts = shard_sizes(state)
        reference = jax.tree.map(lambda x: 0.9 * x, state.params)
        metrics = []
        for seed in range(2):
            state, figures = update(state, reference, make_batch(seed), seed=seed)
            metrics.append(figures)
        return parts, state, metrics

    return train


def shard_sizes(tree):
    """Over how many parts each array is split, by name."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            leaf.size // leaf.addressable_shards[0].data.size
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@pytest.mark.parametrize("shape", TRAINED)
def test_updates_equal_those_of_one_device(trained, shape):
    _, ours, figures = trained(shape)
    _, theirs, expected = trained((1, 1, 1))
    moments = (jax.tree.leaves(state.opt_state) for state in (ours, theirs))
    for x, y in zip(*moments, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=3e-5)
    # Adam divides by the size of gradients, so where they are near nothing the last
    # digits of a sum decide; a step is 1e-3.
    params = (jax.tree.leaves(state.params) for state in (ours, theirs))
    for x, y in zip(*params, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-4)
    for x, y in zip(figures, expected, strict=True):
        for name, value in y.items():
            if not name.startswith("batch/"):
                assert x[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name


@pytest.mark.slow
def test_sums_over_turns_and_episodes_equal_those_of_one_device(directory):
    """A ratio per turn, KL in the reward, masks of stale tokens and episodes."""

    def train(mesh):
        compute = Compute(logprob_chunk=32)
        update = make_update(
            make_logprobs(CONFIG, compute=compute),
            TX,
            score_fn=make_scores(CONFIG, compute=compute),
            buckets=(64,),
            tokens_per_microbatch=128,
            loss="gspo",
            aggregation="turn",
            kl_coef=0.05,
            kl_in="reward",
            kl_estimator="k1",
            entropy_coef=0.01,
            old_logprobs="recompute",
            importance_cap=2.0,
            token_mask=(0.1, 50.0),
            episode_mask=(0.1, 50.0),
        )
        state = start(directory, mesh)
        reference = jax.tree.map(lambda x: 0.9 * x, state.params)
        return update(state, reference, make_batch(0), seed=0)

    state, figures = train(make_mesh((1, 4, 2)))
    alone, expected = train(make_mesh((1, 1, 1)))
    assert 0 < expected["grpo/masked_tokens"] < 1
    for name, value in expected.items():
        if not name.startswith("batch/"):
            assert figures[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    for x, y in zip(*map(jax.tree.leaves, (state.params, alone.params)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-4)


@pytest.fixture(scope="module")
def adapted(directory):
    """Train adapters on a mesh, once each: the parts, and what was trained."""

    @functools.cache
    def train(shape):
        mesh = make_mesh(shape)
        _, base = load(directory, on_mesh(mesh))
        config = get_config()
        config.policy.lora.rank = 4
        frozen = Adapted(base, None, build.lora_scale(config))
        adapters = build.make_adapters(config, base, mesh)
        tx = make_optimizer(1e-2)
        update = make_update(
            make_logprobs(CONFIG, compute=Compute(logprob_chunk=32)),
            tx,
            buckets=(64,),
            tokens_per_microbatch=128,
            minibatches=2,
            kl_coef=0.05,
            old_logprobs="recompute",
        )
        state, metrics = init_state(adapters, tx, mesh), []
        parts = shard_sizes(state)
        for seed in range(2):
            state, figures = update(
                state, frozen, make_batch(seed), seed=seed, frozen=frozen
            )
            metrics.append(figures)
        assert shard_sizes(state) == parts
        return parts, join(frozen, state.params), metrics

    return train


@pytest.mark.parametrize("shape", TRAINED)
def test_adapters_learn_on_a_mesh_what_they_do_on_one_device(adapted, shape):
    parts, ours, figures = adapted(shape)
    _, theirs, expected = adapted((1, 1, 1))
    layers = "params/layers/attention/query"
    assert parts[f"{layers}/lora_a"] == shape[1]
    assert parts[f"{layers}/lora_b"] == shape[2]
    for x, y in zip(
        jax.tree.leaves(ours.adapters), jax.tree.leaves(theirs.adapters), strict=True
    ):
        # A step is 1e-2; see `test_updates_equal_those_of_one_device`.
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-3)
    for x, y in zip(figures, expected, strict=True):
        for name, value in y.items():
            if not name.startswith("batch/"):
                assert x[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    assert figures[1]["grpo/kl"] > 0  # the reference is the base, which they left


@pytest.mark.parametrize("shape", TRAINED[1:2])
def test_adapters_leave_the_mesh_merged(adapted, shape, tmp_path):
    """As files for a server, and as the engine's copy."""
    _, params, _ = adapted(shape)
    mesh = mesh_of(params)
    merged = merge(params)
    save(tmp_path, CONFIG, merged)
    saved = load_file(tmp_path / "model.safetensors")
    whole = Adapted(*jax.tree.map(np.asarray, (params.base, params.adapters)), 8.0)
    _, expected = load(tmp_path)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        merge(whole),
        expected,
    )
    engine = copy_to_engine(params, CONFIG, engine_mesh(mesh, CONFIG))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        engine,
        merge(whole),
    )
    before = np.asarray(params.base["layers"]["mlp"]["down"]["kernel"][0])
    name = "model.layers.0.mlp.down_proj.weight"
    assert np.abs(saved[name].T - before).max() > 1e-4


@pytest.mark.parametrize("shape", TRAINED)
def test_state_is_in_parts_from_the_start_and_stays_so(trained, shape):
    parts, state, _ = trained(shape)
    split = shape[1] * shape[2]
    for tree in ("params", "opt_state/1/0/mu", "opt_state/1/0/nu"):
        assert parts[f"{tree}/embed/embedding"] == split
        assert parts[f"{tree}/layers/attention/query/kernel"] == split
        assert parts[f"{tree}/layers/mlp/down/kernel"] == split
        assert parts[f"{tree}/layers/mlp_norm/scale"] == 1
    assert shard_sizes(state) == parts


def test_weights_come_onto_the_mesh_bit_for_bit(directory):
    _, whole = load(directory)
    _, parts = load(directory, on_mesh(make_mesh((2, 2, 2))))
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_leave_the_mesh_as_files_hold_them(directory, tmp_path, dtype):
    config, params = load(directory, on_mesh(make_mesh((1, 4, 2))))
    config = dataclasses.replace(config, dtype=dtype)
    save(tmp_path, config, params, dtype=dtype)
    saved = load_file(tmp_path / "model.safetensors")
    made = {t.name: t.make() for t in device_tensors(config, params)}
    assert made.keys() == saved.keys()
    for name, x in made.items():
        assert len(x.addressable_shards) == 8
        for shard in x.addressable_shards:  # each of them whole
            assert np.asarray(shard.data).tobytes() == saved[name].tobytes(), name


def test_checkpoints_move_between_meshes(trained, tmp_path):
    _, state, _ = trained((2, 2, 2))
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, state, {})
    checkpointer.wait()
    template = jax.eval_shape(lambda x: x, state)
    for shape in ((1, 8, 1), (1, 2, 1), (1, 1, 1)):
        mesh = make_mesh(shape)
        restored = checkpointer.restore(abstract(mesh, template)).arrays
        jax.tree.map(np.testing.assert_array_equal, restored, state)
        if mesh is not None:
            split = shape[1] * shape[2]
            assert shard_sizes(restored)["params/layers/mlp/up/kernel"] == split
    checkpointer.close()


@pytest.mark.parametrize("shape", MESHES)
def test_the_engine_samples_on_a_mesh_what_it_samples_on_one_device(directory, shape):
    def sample(mesh):
        _, params = load(directory, on_mesh(mesh))
        engine = JaxEngine(
            CONFIG,
            params,
            eos_ids=(3,),
            max_sequences=8,
            context=64,
            block_size=8,
            prefill_rows=4,
            decode_rows=4,
            mesh=engine_mesh(mesh, CONFIG),
        )
        prompts = np.random.default_rng(0).integers(4, 48, (5, 30)).tolist()
        sampling = Sampling(max_tokens=9)

        async def ask():
            requests = [Request(str(i), p, sampling, i) for i, p in enumerate(prompts)]
            return await asyncio.gather(*map(engine.generate, requests))

        completions = asyncio.run(ask())
        engine.push(params, 1)  # the copies leave the trainer's weights as they were
        assert len(jax.tree.leaves(params)[0].devices()) == math.prod(shape_of(mesh))
        engine.close()
        return completions

    for ours, wanted in zip(
        sample(make_mesh(shape)), sample(make_mesh((1, 1, 1))), strict=True
    ):
        np.testing.assert_array_equal(ours.tokens, wanted.tokens)
        np.testing.assert_allclose(ours.logprobs, wanted.logprobs, atol=1e-5)


def shape_of(mesh):
    return (1,) if mesh is None else mesh.devices.shape


def test_no_device_gathers_the_output_matrix():
    config = dataclasses.replace(CONFIG, vocab_size=1024)
    mesh = make_mesh((1, 8, 1))
    params = abstract(mesh, abstract_params(config))
    place = NamedSharding(mesh, PartitionSpec(ROWS))
    rows = jax.ShapeDtypeStruct((8, 64), jnp.int32, sharding=place)
    logprobs = make_logprobs(config, compute=Compute(logprob_chunk=4))

    def loss(params, rows):
        return logprobs(params, PackedBatch(*(rows,) * 8)).sum()

    def gradient(params, rows):
        return constrain_parameters(jax.grad(loss)(params, rows))

    own = engine_mesh(mesh, config)
    serving = abstract(own, abstract_params(config))
    _, calls = abstract_calls(
        config,
        serving,
        max_sequences=8,
        context=64,
        block_size=8,
        prefill_rows=4,
        decode_rows=4,
        decode_steps=2,
    )
    decode, arguments = calls["decode"]
    programs = [
        jax.jit(loss).lower(params, rows),
        jax.jit(gradient).lower(params, rows),
        decode.lower(*arguments),
    ]
    for program in programs:
        text = program.compile().as_text()
        whole = re.search(r".*\[(16,1024|1024,16)\].*", text)
        assert whole is None, whole[0]


@pytest.mark.parametrize("shape", [(1, 8, 1), (2, 2, 2)])
def test_arrays_know_their_mesh_within_programs(shape):
    """A constraint on an array that has lost it would be left out, silently."""
    mesh = make_mesh(shape)
    params = abstract(mesh, abstract_params(CONFIG))
    found = {}

    @jax.jit
    def program(params, tokens):
        def layer(x, kernel):
            found["layer"] = mesh_of(x)
            return jnp.tanh(x @ kernel[:, 0]) @ kernel[:, 0].T, mesh_of(x).size

        def loss(params):
            x = params["embed"]["embedding"][tokens].astype(jnp.bfloat16)
            found["lookup"] = mesh_of(x)
            kernels = params["layers"]["attention"]["query"]["kernel"]
            x, _ = jax.lax.scan(jax.checkpoint(layer), x, kernels.astype(x.dtype))
            return x.astype(jnp.float32).sum()

        gradients = jax.grad(loss)(params)
        found["gradients"] = mesh_of(gradients)
        found["zeros"] = mesh_of(jax.tree.map(jnp.zeros_like, params))
        found["made here"] = mesh_of(jnp.zeros(8))
        return gradients

    program.lower(params, np.zeros((8, 4), np.int32))
    assert found.pop("made here") is None
    assert set(found.values()) == {mesh.abstract_mesh}
    assert len(found) == 4
    assert mesh_of(params) == mesh


def test_the_engine_splits_heads_over_as_many_devices_as_there_are():
    mesh = make_mesh((1, 8, 1))
    assert engine_mesh(mesh, CONFIG).devices.shape == (4, 1, 2)  # 2 heads of keys
    wide = dataclasses.replace(CONFIG, num_key_value_heads=8, num_attention_heads=8)
    assert engine_mesh(mesh, wide).devices.shape == (1, 1, 8)
    assert engine_mesh(make_mesh((1, 1, 1)), wide) is None


def test_meshes_take_the_first_devices():
    mesh = make_mesh((1, 4, 1))
    assert mesh is not None
    assert list(mesh.devices.flat) == jax.devices()[:4]
    assert jnp.ones(()).devices() == {jax.devices()[0]}
