import dataclasses
import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reskill_jax.policy import decoder
from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig, from_hf, load_config, to_hf
from reskill_jax.policy.ops.rope import Llama3Scaling, YarnScaling, read_scaling
from reskill_jax.policy.weights import load, save

CONFIG = DecoderConfig(
    vocab_size=11,
    hidden_size=6,
    intermediate_size=10,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=False,
    attention_bias=True,
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_round_trip_is_bitwise(tmp_path, tied, bias):
    config = dataclasses.replace(
        CONFIG, tie_word_embeddings=tied, attention_bias=bias, rope_theta=12345.0
    )
    params = init(config, jax.random.key(1))
    save(tmp_path, config, params)
    loaded_config, loaded = load(tmp_path)
    assert loaded_config == config
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_tensors_lie_as_in_torch_linear_layers(tmp_path):
    params = init(CONFIG, jax.random.key(1))
    save(tmp_path, CONFIG, params)
    file = load_file(tmp_path / "model.safetensors")
    x = np.arange(6, dtype=np.float32)
    theirs = file["model.layers.2.self_attn.q_proj.weight"] @ x
    ours = np.einsum(
        "d,dnh->nh", x, params["layers"]["attention"]["query"]["kernel"][2]
    )
    np.testing.assert_allclose(theirs, ours.reshape(-1), rtol=1e-5)
    x = np.arange(32, dtype=np.float32)
    theirs = file["model.layers.1.self_attn.o_proj.weight"] @ x
    kernel = params["layers"]["attention"]["out"]["kernel"][1]
    ours = np.einsum("nh,nhd->d", x.reshape(4, 8), kernel)
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert file["lm_head.weight"].shape == (11, 6)


def test_transformers_reads_the_config_and_names_the_same_tensors(tmp_path):
    transformers = pytest.importorskip("transformers")
    save(tmp_path, CONFIG, init(CONFIG, jax.random.key(1)))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert isinstance(theirs, transformers.Qwen3Config)
    for key, value in to_hf(CONFIG).items():
        if key not in ("dtype",):
            assert getattr(theirs, key) == value, key
    assert from_hf(json.loads(theirs.to_json_string(use_diff=False))) == CONFIG


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def params():
    return jax.tree.map(np.asarray, init(CONFIG, jax.random.key(1)))


def refusal(directory, error=ValueError) -> str:
    """The message of `load`, which must not have placed anything."""
    placed = []
    with pytest.raises(error) as caught:
        load(directory, lambda *arguments: placed.append(arguments))
    assert not placed
    return str(caught.value)


def damage(directory, change) -> str:
    save(directory, CONFIG, init(CONFIG, jax.random.key(1)))
    tensors = load_file(directory / SINGLE)
    change(tensors)
    save_file(tensors, directory / SINGLE)
    return refusal(directory)


def test_missing_surplus_misshapen_and_mistyped_tensors_are_named(tmp_path):
    assert f"{UP} is missing" in damage(tmp_path, lambda t: t.pop(UP))
    extra = {"visual.weight": np.zeros(3, np.float32)}
    assert "visual.weight is surplus" in damage(tmp_path, lambda t: t.update(extra))
    wrong = {UP: np.zeros((6, 10), np.float32)}
    text = damage(tmp_path, lambda t: t.update(wrong))
    assert f"{UP} is (6, 10), not (10, 6)" in text
    wrong = {UP: np.zeros((10, 6), np.int8)}
    assert f"{UP} is I8, not" in damage(tmp_path, lambda t: t.update(wrong))


def test_stored_frequencies_of_older_files_are_skipped(tmp_path, params):
    save(tmp_path / "ours", CONFIG, params)
    tensors = load_file(tmp_path / "ours" / SINGLE)
    for layer in range(CONFIG.num_hidden_layers):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = np.ones(4, np.float32)
    save_file(tensors, tmp_path / "ours" / SINGLE)
    config, loaded = load(tmp_path / "ours")
    jax.tree.map(np.testing.assert_array_equal, params, loaded)
    save(tmp_path / "again", config, loaded)
    assert not any("inv_freq" in n for n in load_file(tmp_path / "again" / SINGLE))
    name = f"model.layers.{CONFIG.num_hidden_layers}.self_attn.rotary_emb.inv_freq"
    extra = {name: np.ones(4, np.float32)}
    assert f"{name} is surplus" in damage(tmp_path, lambda t: t.update(extra))


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(tmp_path, params, damage):
    scale = np.array(params["norm"]["scale"])
    scale[3] = damage
    save(tmp_path, CONFIG, {**params, "norm": {"scale": scale}})
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds numbers that are"):
        load(tmp_path)


@pytest.mark.parametrize("cut", [4, 100, -40])
def test_a_truncated_file_is_refused(tmp_path, params, cut):
    for name, shard_bytes in ((SINGLE, 10**9), ("model-00002-of", 2200)):
        directory = tmp_path / name
        save(directory, CONFIG, params, shard_bytes=shard_bytes)
        (path,) = directory.glob(f"{name}*")
        path.write_bytes(path.read_bytes()[:cut])
        assert f"{path} is corrupt" in refusal(directory)


def test_several_files_hold_what_one_holds_in_layer_order(tmp_path, params):
    save(tmp_path / "one", CONFIG, params)
    save(tmp_path / "several", CONFIG, params, shard_bytes=2200)
    one = load_file(tmp_path / "one" / SINGLE)
    files = sorted((tmp_path / "several").glob("*.safetensors"))
    assert [f.name for f in files] == [
        f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))
    ]
    several = {}
    for file in files:
        tensors = load_file(file)
        assert sum(x.nbytes for x in tensors.values()) <= 2200 or len(tensors) == 1
        several |= tensors
    assert several.keys() == one.keys()
    for name, x in one.items():
        np.testing.assert_array_equal(several[name], x)
    index = json.loads((tmp_path / "several" / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(x.nbytes for x in one.values())
    names = list(index["weight_map"])
    assert names[0] == "model.embed_tokens.weight"
    assert names[-2:] == ["lm_head.weight", "model.norm.weight"]
    layers = [name.split(".")[2] for name in names[1:-2]]
    assert layers == sorted(layers)
    _, loaded = load(tmp_path / "several")
    jax.tree.map(np.testing.assert_array_equal, params, loaded)


def test_an_index_that_lies_is_refused(tmp_path, params):
    save(tmp_path, CONFIG, params, shard_bytes=2200)
    path = tmp_path / INDEX
    index = json.loads(path.read_text())
    where = index["weight_map"]

    def refused(changes, error=ValueError) -> str:
        entries = {**where, **changes}
        entries = {name: file for name, file in entries.items() if file is not None}
        path.write_text(json.dumps({"weight_map": entries}))
        return refusal(tmp_path, error)

    text = refused({UP: "model-00009-of-00009.safetensors"}, FileNotFoundError)
    assert f"model-00009-of-00009.safetensors (of {UP})" in text
    text = refused({UP: where["lm_head.weight"]})
    assert f"{UP} is missing in {where['lm_head.weight']}" in text
    assert f"{UP} in {where[UP]} is not in the index" in refused({UP: None})
    path.write_text("{}")
    assert f"{path} is corrupt" in refusal(tmp_path)
    path.unlink()
    refused_text = refusal(tmp_path, FileNotFoundError)
    assert INDEX in refused_text
    assert "save_pretrained" in refused_text


def test_two_sets_of_weights_in_a_directory_are_refused(tmp_path, params):
    save(tmp_path, CONFIG, params, shard_bytes=2200)
    with pytest.raises(ValueError, match="holds other weights"):
        save(tmp_path, CONFIG, params)
    save_file({"a": np.zeros(1)}, tmp_path / SINGLE)
    assert "has both" in refusal(tmp_path)


def test_a_repeated_tied_embedding_must_be_the_embedding(tmp_path):
    config = dataclasses.replace(CONFIG, tie_word_embeddings=True)
    save(tmp_path, config, init(config, jax.random.key(1)))
    tensors = load_file(tmp_path / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    save_file(tensors, tmp_path / SINGLE)
    load(tmp_path)
    tensors["lm_head.weight"][3, 2] += 1
    save_file(tensors, tmp_path / SINGLE)
    assert "though tie_word_embeddings" in refusal(tmp_path)


def test_bfloat16_survives_bitwise_and_is_exact_in_float32(tmp_path, params):
    save(tmp_path / "a", CONFIG, params, dtype="bfloat16")
    config, loaded = load(tmp_path / "a")
    save(tmp_path / "b", config, loaded, dtype="bfloat16")
    a, b = tmp_path / "a" / SINGLE, tmp_path / "b" / SINGLE
    assert a.read_bytes() == b.read_bytes()
    kernel = loaded["layers"]["mlp"]["up"]["kernel"]
    assert kernel.dtype == np.float32
    rounded = params["layers"]["mlp"]["up"]["kernel"].astype(jnp.bfloat16)
    np.testing.assert_array_equal(kernel, rounded.astype(np.float32))


def test_memory_stays_within_a_few_tensors_of_the_target(tmp_path):
    config = dataclasses.replace(
        CONFIG,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        vocab_size=1024,
        attention_bias=False,
    )
    params = jax.tree.map(
        lambda x: np.ones(x.shape, x.dtype), decoder.abstract_params(config)
    )
    target = sum(x.nbytes for x in jax.tree.leaves(params))
    largest = 4 * 256 * 1024
    tracemalloc.start()
    try:
        save(tmp_path, config, params, shard_bytes=target // 3)
        _, writing = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        load(tmp_path)
        _, reading = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert writing < 3 * largest < target // 8
    assert target <= reading - before < target + 3 * largest


def test_parameters_are_placed_one_by_one_from_their_pieces(tmp_path, params):
    save(tmp_path, CONFIG, params, dtype="bfloat16")

    def on_device(path, leaf, pieces):
        whole = jnp.zeros(leaf.shape, leaf.dtype)
        for layer, piece in pieces:
            assert piece.dtype == jnp.bfloat16
            assert (layer is None) == (path[0] != "layers")
            whole = whole.at[... if layer is None else layer].set(piece)
        return whole

    _, placed = load(tmp_path, on_device)
    _, loaded = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, placed, loaded)


def rope(**values):
    return {"rope_theta": 1e4, **values}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type='mamba'"),
        ({"model_type": "qwen3_moe"}, "use one of qwen3, qwen2, llama"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types"),
        ({"mlp_bias": True}, "mlp_bias=True"),
        ({"attention_dropout": 0.1}, r"attention_dropout=0\.1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config="),
        ({"per_layer_config": {"1": {"rms_norm_eps": 0.5}}}, "per_layer_config="),
        ({"is_causal": False}, "is_causal=False"),
        ({"logit_scale": 0.1}, r"logit_scale=0\.1"),
        ({"rope_parameters": rope(rope_type="dynamic")}, "rope_type='dynamic'"),
        ({"rope_parameters": rope(mrope_section=[1])}, r"mrope_section=\[1\]"),
        ({"rope_parameters": rope(partial_rotary_factor=0.5)}, "partial_rotary"),
        ({"rope_parameters": rope(rope_type="yarn", factor=4)}, "original_max_posi"),
        ({"rope_parameters": rope(rope_type="llama3", mscale=1)}, "mscale=1"),
        ({"head_dim": None}, "lacks head_dim"),
        ({"rope_parameters": {"rope_type": "default"}}, "lacks rope_theta"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"rope_parameters": rope(rope_type=["yarn"])}, "rope_type="),
        ({"rope_parameters": rope(rope_type="yarn", factor="4")}, "factor='4'"),
        ({"rope_parameters": rope(rope_type="yarn", truncate=1)}, "truncate=1"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta=0 is not a number above"),
        ({"rope_parameters": {"rope_theta": 1.0}}, "rope_theta=1.0 is not a number"),
        ({"rope_parameters": {"rope_theta": 10**400}}, "rope_theta=1000"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
    ],
)
def test_configs_that_cannot_be_computed_are_refused(tmp_path, change, message):
    values = {**to_hf(CONFIG), **change}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "key", sorted({*to_hf(CONFIG), "rope_scaling", "torch_dtype", "layer_types"})
)
def test_values_of_any_type_are_read_or_refused_by_name(tmp_path, key):
    path = tmp_path / "config.json"
    for value in (None, "x", "", -1, 0, 1.5, 1e400, True, [], [1], {}):
        path.write_text(json.dumps({**to_hf(CONFIG), key: value}))
        problem = ""
        try:
            read = load_config(tmp_path)
        except ValueError as error:
            problem = str(error)
        if problem:
            assert problem.startswith(str(path))
            assert key.split("_")[0] in problem.removeprefix(str(path))
        else:
            assert from_hf(to_hf(read)) == read


@pytest.mark.parametrize("text", ["[]", "3", "null", "{", ""])
def test_files_without_a_config_are_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json.* is not"):
        load_config(tmp_path)


def test_the_config_of_transformers_4_is_read():
    values = to_hf(CONFIG)
    del values["rope_parameters"]
    values |= {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "bfloat16"}
    del values["dtype"]
    read = from_hf(values)
    assert (read.rope_theta, read.dtype) == (5e5, "bfloat16")


LLAMA = {"factor": 8, "low_freq_factor": 1, "high_freq_factor": 4}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768}


@pytest.mark.parametrize(
    ("model_type", "scaling", "expected"),
    [
        (
            "llama",
            {**LLAMA, "rope_type": "llama3", "original_max_position_embeddings": 8192},
            Llama3Scaling(8, 1, 4, 8192),
        ),
        ("qwen2", {**YARN, "type": "yarn"}, YarnScaling(4.0, 32768)),
        ("qwen3", {**YARN, "rope_type": "yarn"}, YarnScaling(4.0, 32768)),
    ],
)
def test_published_configs_are_read(model_type, scaling, expected):
    values = {
        "model_type": model_type,
        "vocab_size": 11,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000,
        "rope_scaling": scaling,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "sliding_window": 131072,
        "use_sliding_window": False,
        "max_window_layers": 28,
        "attention_dropout": 0.0,
    }
    if model_type == "qwen3":
        values["head_dim"] = 16
    read = from_hf(values)
    assert read.rope_scaling == expected
    assert read.head_dim == (16 if model_type == "qwen3" else 8)
    assert (read.tie_word_embeddings, read.rms_norm_eps) == (False, 1e-5)
    assert read.qk_norm == (model_type == "qwen3")
    assert read.qkv_bias == (model_type == "qwen2")
    assert from_hf(to_hf(read)) == read


PLAIN = {"rope_type": "default", "rope_theta": 5e6}
LLAMA3 = {**LLAMA, "rope_type": "llama3", "original_max_position_embeddings": 8192}
YARNS = [
    {**YARN, "rope_type": "yarn"},
    {**YARN, "type": "yarn"},
    {**YARN, "rope_type": "yarn", "factor": 2.0, "rope_theta": 1e5},
    {**YARN, "rope_type": "yarn", "type": "yarn", "beta_fast": 16, "truncate": False},
]


@pytest.mark.parametrize("theta", [None, 1e6])
@pytest.mark.parametrize("scaling", [None, {}, PLAIN, LLAMA3, *YARNS])
@pytest.mark.parametrize("parameters", [None, {}, PLAIN, LLAMA3, YARNS[0], YARNS[2]])
def test_frequencies_are_those_of_transformers(tmp_path, parameters, scaling, theta):
    """What is added by hand takes the place of what transformers 5 wrote."""
    transformers = pytest.importorskip("transformers")
    values = {
        **to_hf(CONFIG),
        "max_position_embeddings": 131072,
        "rope_parameters": parameters,
        "rope_scaling": scaling,
        "rope_theta": theta,
    }
    values = {key: value for key, value in values.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    used = scaling or parameters or {}
    if theta is None and "rope_theta" not in used:
        with pytest.raises(ValueError, match=r"config\.json lacks rope_theta"):
            load_config(tmp_path)  # transformers would take the family's default
        return
    theirs = transformers.AutoConfig.from_pretrained(tmp_path).rope_parameters
    read = load_config(tmp_path)
    assert read.rope_theta == theirs["rope_theta"]
    assert read.rope_scaling == read_scaling(theirs)
    assert from_hf(to_hf(read)) == read


@pytest.mark.parametrize("scaling", [LLAMA3, *YARNS])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_two_original_lengths_are_refused(key, scaling):
    original = "original_max_position_embeddings"
    values = to_hf(CONFIG) | {key: {"rope_theta": 1e4, **scaling}}
    assert from_hf(values | {original: scaling[original]}) == from_hf(values)
    with pytest.raises(ValueError, match=f"{original} is .* and 512 beside"):
        from_hf(values | {original: 512})


@pytest.mark.parametrize("kind", ["linear", "dynamic", "longrope", "x"])
def test_a_scaling_added_by_hand_is_not_ignored(tmp_path, kind):
    values = to_hf(CONFIG) | {"rope_scaling": rope(rope_type=kind, factor=2.0)}
    (tmp_path / "config.json").write_text(json.dumps(values))
    match = f"rope_type='{kind}' is not supported"
    with pytest.raises(ValueError, match=match) as error:
        load_config(tmp_path)
    # Only dynamic scaling leaves the positions of pre-training as they were.
    assert ("can be removed" in str(error.value)) == (kind == "dynamic")
