"""Shapes of published models, for programs that need no weights."""

from pathlib import Path

from reskill_jax.policy.decoder_config import DecoderConfig, load_config

# As in the models' config.json.
PRESETS = {
    "Qwen3-4B-Instruct-2507": DecoderConfig(
        vocab_size=151936,
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        rope_theta=5e6,
        max_position_embeddings=262144,
    ),
    "Qwen3-8B": DecoderConfig(
        vocab_size=151936,
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=False,
        max_position_embeddings=40960,
    ),
}


def find_shape(name: str) -> DecoderConfig:
    """Return the shape of a Hugging Face directory, or of a published model.

    Raises:
        ValueError: it is neither.
    """
    if (Path(name) / "config.json").is_file():
        return load_config(name)
    if name in PRESETS:
        return PRESETS[name]
    raise ValueError(
        f"config.policy.path={name!r} is neither a directory with a config.json nor "
        f"one of {', '.join(PRESETS)}"
    )
