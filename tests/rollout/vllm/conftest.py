"""One server for all tests: starting one takes half a minute."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from vllm_cases import start, weights

from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.policy.weights import save


@pytest.fixture(scope="session")
def executable():
    """`vllm` of an environment that is made if there is none."""
    if path := os.environ.get("RESKILL_VLLM"):
        return path
    script = Path(__file__).parent / "install.sh"
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"vLLM's CPU build cannot be installed: {done.stderr[-500:]}")
    return f"{done.stdout.strip()}/bin/vllm"


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """A random Qwen3, exported by our own code: directory and shape."""
    directory = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(["You arrive at cabinet 1. go to cabinet 1"] * 3, 300)
    tokenizer.save(directory)
    config = DecoderConfig(
        vocab_size=-(-tokenizer.vocab_size // 64) * 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        tie_word_embeddings=False,
        max_position_embeddings=1024,
    )
    save(directory, config, weights(config, 0))
    # A server stops at these by itself, bytes that no JSON of ours needs; ours are told
    # which tokens end a response.
    ends = {"eos_token_id": [tokenizer.eos_id, *range(150, 160)]}
    (directory / "generation_config.json").write_text(json.dumps(ends))
    return directory, config, tokenizer.eos_id


@pytest.fixture(scope="session")
def engine(executable, model, tmp_path_factory):
    # Longer than any response takes on a busy machine: what is slower counts as hung.
    engine = start(executable, model, tmp_path_factory.mktemp("engine"), timeout_s=40.0)
    yield engine
    engine.close()


@pytest.fixture
def fresh(engine, model):
    """The engine, with the weights of seed 0 and no session of another test."""
    for session in list(engine._replica_of):
        engine.release(session)
    newest = engine._weights[1]
    engine.push(weights(model[1], 0), newest + 1)
    return engine
