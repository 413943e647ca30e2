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


def find_shape(path: str) -> DecoderConfig:
    """Return the shape of a decoder.

    Args:
        path: a Hugging Face directory, or the name of a published model.

    Raises:
        ValueError: it is neither.
    """
    if (Path(path) / "config.json").is_file():
        return load_config(path)
    if path in PRESETS:
        return PRESETS[path]
    raise ValueError(
        f"{path!r} is neither a directory with a config.json nor one of "
        f"{', '.join(PRESETS)}"
    )
