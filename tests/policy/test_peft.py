"""The directory of adapters that a run exports, in the package that it is meant for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip(
    "torch", reason="needs the extra parity: pip install '.[parity]'"
)
peft = pytest.importorskip(
    "peft", reason="needs the extra parity: pip install '.[parity]'"
)

import transformers  # noqa: E402 (a model needs torch)

from reskill_jax.policy.decoder import init  # noqa: E402
from reskill_jax.policy.decoder_config import DecoderConfig  # noqa: E402
from reskill_jax.policy.logprobs import token_logprobs  # noqa: E402
from reskill_jax.policy.lora import TARGETS, Adapted, init_adapters  # noqa: E402
from reskill_jax.policy.peft import save_adapters  # noqa: E402
from reskill_jax.policy.weights import save  # noqa: E402

CONFIG = DecoderConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    max_position_embeddings=128,
)
RANK, ALPHA = 3, 5.0


def ours(config, params, tokens):
    """Log-probs of tokens[1:] of each row."""
    before, after = jnp.asarray(tokens[:, :-1]), jnp.asarray(tokens[:, 1:])
    length = before.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), before.shape)
    ends = jnp.full_like(before, length)
    found, _ = token_logprobs(config, params, before, positions, ends, after)
    return np.asarray(found)


def theirs(model, tokens):
    with torch.no_grad():
        scores = model(torch.tensor(tokens)).logits.double().log_softmax(-1)
    after = torch.tensor(tokens[:, 1:])[..., None]
    return scores[:, :-1].gather(-1, after)[..., 0].numpy()


@pytest.mark.parametrize("model_type", ["qwen3", "qwen2", "llama"])
@pytest.mark.parametrize("targets", [tuple(TARGETS), ("q_proj", "o_proj", "down_proj")])
def test_peft_loads_it_and_computes_what_was_trained(tmp_path, model_type, targets):
    config = dataclasses.replace(CONFIG, model_type=model_type)
    base = jax.tree.map(lambda x: 3 * x, init(config, jax.random.key(0)))
    generator = np.random.default_rng(1)
    adapters = jax.tree.map(
        lambda x: np.float32(generator.normal(0, 0.2, x.shape)),
        init_adapters(base, targets, RANK, jax.random.key(2)),
    )
    save(tmp_path / "base", config, base)
    save_adapters(
        tmp_path / "adapters", tmp_path / "base", adapters, rank=RANK, alpha=ALPHA
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", dtype=torch.float32
    )
    tokens = generator.integers(0, config.vocab_size, (2, 24))
    plain = theirs(model, tokens)
    np.testing.assert_allclose(plain, ours(config, base, tokens), atol=1e-3)
    loaded = peft.PeftModel.from_pretrained(model, tmp_path / "adapters").eval()
    found = theirs(loaded, tokens)
    adapted = Adapted(base, adapters, ALPHA / RANK)
    np.testing.assert_allclose(found, ours(config, adapted, tokens), atol=1e-3)
    assert np.abs(found - plain).max() > 0.1
    # None of the tensors was left out, or left over.
    count = 2 * len(targets) * config.num_hidden_layers
    assert sum("lora_" in name for name, _ in loaded.named_parameters()) == count
