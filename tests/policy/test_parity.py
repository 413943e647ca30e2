"""Against transformers and torch: load, forward, export and generation.

Random small models of each family; run with ``-s`` to see the table.
"""

import asyncio
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="needs the extra parity: pip install '.[parity]'"
)

import transformers  # noqa: E402 (a model needs torch)

from reskill_jax.policy.decoder import hidden_states, logits  # noqa: E402
from reskill_jax.policy.weights import load, save  # noqa: E402
from reskill_jax.rollout.engine import Request, Sampling  # noqa: E402
from reskill_jax.rollout.jax.engine import JaxEngine  # noqa: E402

VOCAB, LENGTH, NEW = 96, 40, 16
BASE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # sharp enough that greedy choices are not near ties
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": VOCAB - 1,
}
PLAIN = {"rope_type": "default", "rope_theta": 1e4}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "Qwen3, tied": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "Qwen3, untied, biases, K=1": (
        "Qwen3",
        {"head_dim": 8, "attention_bias": True, "num_key_value_heads": 1},
    ),
    "Qwen3, YaRN": ("Qwen3", {"head_dim": 16, "rope_parameters": YARN}),
    "Qwen2.5, tied": ("Qwen2", {"tie_word_embeddings": True}),
    "Qwen2.5, untied, YaRN, K=N": (
        "Qwen2",
        {"num_key_value_heads": 4, "rope_parameters": {**YARN, "truncate": False}},
    ),
    "Llama 3, untied": ("Llama", {"rms_norm_eps": 1e-5}),
    "Llama 3.2, tied, scaled, H>D/N": (
        "Llama",
        {"head_dim": 16, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
    ),
    "Llama, biases, scaled, K=1": (
        "Llama",
        {"attention_bias": True, "num_key_value_heads": 1, "rope_parameters": LLAMA3},
    ),
}
TABLE: dict[str, list[str]] = {}


class Case(NamedTuple):
    """One model, as transformers wrote it and as we read it."""

    name: str
    theirs: torch.nn.Module
    directory: str
    config: object
    params: dict


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory) -> Case:
    family, changes = CASES[request.param]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    values = {**BASE, "rope_parameters": PLAIN, "tie_word_embeddings": False, **changes}
    config = getattr(transformers, f"{family}Config")(**values)
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, x in theirs.named_parameters():
            if "norm" in name or "bias" in name:  # else all ones and zeros
                x.add_(0.3 * torch.randn(x.shape))
    directory = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(directory, max_shard_size="20KB")
    ours, params = load(directory)
    assert len(list(directory.glob("*.safetensors"))) > 1
    return Case(request.param, theirs, directory, ours, params)


def rows(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(1, VOCAB - 1, (count, LENGTH))


def their_logits(model, tokens) -> np.ndarray:
    with torch.no_grad():
        return model(torch.as_tensor(tokens)).logits.numpy()


def their_greedy(model, prompt) -> list[int]:
    inputs = torch.as_tensor(prompt)[None]
    with torch.no_grad():
        out = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=VOCAB - 1,
        )
    return out[0, len(prompt) :].tolist()


def our_logits(config, params, tokens) -> np.ndarray:
    @jax.jit
    def forward(params):
        visible_end = jnp.full((len(tokens), LENGTH), LENGTH)
        positions = jnp.arange(LENGTH) * jnp.ones((len(tokens), 1), int)
        states = hidden_states(
            config, params, jnp.asarray(tokens), positions, visible_end
        )
        return logits(config, params, states)

    return np.asarray(forward(params))


def test_parity(case, tmp_path):
    tokens = rows(2)
    expected = their_logits(case.theirs, tokens)
    forward = np.abs(our_logits(case.config, case.params, tokens) - expected).max()
    assert forward < 1e-4

    # What was read, and what transformers reads of what we write, is bitwise theirs.
    save(tmp_path, case.config, case.params, shard_bytes=20_000)
    again = type(case.theirs).from_pretrained(tmp_path, dtype=torch.float32).eval()
    original = case.theirs.state_dict()
    assert again.state_dict().keys() == original.keys()
    for name, x in again.state_dict().items():
        assert torch.equal(x, original[name]), name
    _, loaded = load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, loaded, case.params)
    assert np.abs(their_logits(again, tokens) - expected).max() == 0

    engine = JaxEngine(
        case.config,
        case.params,
        eos_ids=(VOCAB - 1,),
        max_sequences=2,
        context=64,
        block_size=8,
        prefill_rows=2,
        decode_rows=2,
    )
    prompts = [row[: 11 + i] for i, row in enumerate(tokens)]
    requests = [
        Request("greedy", prompts[0], Sampling(temperature=0.0, max_tokens=NEW), 0),
        Request("sampled", prompts[1], Sampling(max_tokens=NEW), 1),
    ]

    async def generate():
        return await asyncio.gather(*map(engine.generate, requests))

    greedy, sampled = asyncio.run(generate())
    engine.close()
    assert greedy.tokens.tolist() == their_greedy(again, prompts[0])
    whole = np.concatenate([prompts[1], sampled.tokens])
    table = torch.log_softmax(
        torch.as_tensor(their_logits(case.theirs, whole[None])[0]), -1
    ).numpy()
    at = np.arange(len(prompts[1]) - 1, len(whole) - 1)
    sampling = np.abs(table[at, sampled.tokens] - sampled.logprobs).max()
    assert sampling < 1e-4
    TABLE[case.name] = [
        "bitwise",
        f"{forward:.0e}",
        "bitwise",
        f"{len(greedy.tokens)} of {len(greedy.tokens)} tokens",
        f"{sampling:.0e}",
    ]


def test_the_config_survives_both_ways(case, tmp_path):
    params = jax.tree.map(np.asarray, case.params)
    save(tmp_path, case.config, params)
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert theirs.model_type == case.config.model_type
    theirs.save_pretrained(tmp_path)
    config, _ = load(tmp_path)
    assert config == dataclasses.replace(case.config, dtype=config.dtype)


def test_the_table(capsys):
    assert TABLE.keys() == CASES.keys()
    head = ["family", "load", "forward", "export", "generate", "log-probs"]
    lines = [head, ["---"] * len(head), *([name, *row] for name, row in TABLE.items())]
    print("\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
