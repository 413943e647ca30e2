import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from reskill_jax.policy.config import DecoderConfig, from_hf, load_config, to_hf
from reskill_jax.policy.decoder import init
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


def damage(tmp_path, change) -> str:
    save(tmp_path, CONFIG, init(CONFIG, jax.random.key(1)))
    tensors = load_file(tmp_path / "model.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit") as caught:
        load(tmp_path)
    return str(caught.value)


def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path):
    name = "model.layers.1.mlp.up_proj.weight"
    assert f"{name} is missing" in damage(tmp_path, lambda t: t.pop(name))
    extra = {"visual.weight": np.zeros(3, np.float32)}
    assert "visual.weight is surplus" in damage(tmp_path, lambda t: t.update(extra))
    wrong = {name: np.zeros((6, 10), np.float32)}
    text = damage(tmp_path, lambda t: t.update(wrong))
    assert f"{name} is (6, 10), not (10, 6)" in text


@pytest.mark.parametrize("cut", [4, 100, -40])
def test_a_truncated_file_is_refused(tmp_path, cut):
    save(tmp_path, CONFIG, init(CONFIG, jax.random.key(1)))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model\.safetensors is corrupt"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type='mamba'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window=True"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        ({"rope_parameters": {"rope_type": "default"}}, "lacks rope_theta"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
    ],
)
def test_configs_that_cannot_be_computed_are_refused(tmp_path, change, message):
    values = {**to_hf(CONFIG), **change}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message):
        load_config(tmp_path)


def test_the_config_of_transformers_4_is_read():
    values = to_hf(CONFIG)
    del values["rope_parameters"]
    values |= {"rope_theta": 5e5, "rope_scaling": None, "torch_dtype": "bfloat16"}
    del values["dtype"]
    read = from_hf(values)
    assert (read.rope_theta, read.dtype) == (5e5, "bfloat16")
