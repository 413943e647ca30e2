"""How a configured vLLM engine is put together."""

from contextlib import ExitStack

import jax
import numpy as np
import pytest
from programs import get_config

pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")

from fake_vllm import FakeVllm
from vllm_cases import logprobs_of

from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.rollout.vllm import factory
from reskill_jax.rollout.vllm.factory import VllmSettings, make_vllm_engine

DECODER = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)


def make(resources, tmp_path, **changes):
    configured = get_config().engine.vllm
    own = {"weights_dir": f"{tmp_path}", "logprob_tolerance": 100.0}
    return make_vllm_engine(
        VllmSettings(**{**configured, **own, **changes}),
        model=tmp_path,
        decoder=DECODER,
        params=init(DECODER, jax.random.key(0)),
        mesh=None,
        version=3,
        eos_ids=(1,),
        max_length=64,
        max_sequences=8,
        resources=resources,
    )


def test_running_servers_get_the_weights_and_files_are_removed(tmp_path):
    with FakeVllm() as one, FakeVllm() as other, ExitStack() as resources:
        engine = make(resources, tmp_path, urls=(one.url, other.url))
        assert engine.urls == [one.url, other.url]
        assert one.version == other.version == "3"
        assert len(list(tmp_path.iterdir())) == 1
        engine.close()
        assert list(tmp_path.iterdir()) == []


def test_weights_by_nccl_are_refused_where_there_are_no_gpus(tmp_path):
    with (
        ExitStack() as resources,
        pytest.raises(ValueError, match=r"^transfer='nccl' is for .* on cpu: use"),
    ):
        make(resources, tmp_path, transfer="nccl")


def test_a_text_is_scored_as_the_decoder_does():
    params = init(DECODER, jax.random.key(0))
    text = np.random.default_rng(0).integers(0, DECODER.vocab_size, 12)
    found = factory._make_score(DECODER, None)(params, text.tolist())
    expected = logprobs_of(DECODER, params, text)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
