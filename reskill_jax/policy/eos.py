"""The tokens that end a response: all that a model's files name.

Chat templates end a turn with one token. generation_config.json often lists more, e.g.
the end of a document, with which base models end what they say; transformers and vLLM
stop at all of them. So do both engines, which get the same ids from here.
"""

from pathlib import Path
from typing import Any

from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.storage import read_json

_FILES = ("generation_config.json", "config.json")  # each has "eos_token_id", or not


def find_eos_ids(
    directory: Path | str, tokenizer: Tokenizer, vocab_size: int
) -> tuple[int, ...]:
    """Return the ids that end a response, without repetitions.

    Args:
        directory: a Hugging Face directory.
        tokenizer: its tokenizer, whose end of a turn comes first.
        vocab_size: ids that the model embeds.

    Raises:
        ValueError: a file is damaged, or names what is no token.
    """
    found = list(tokenizer.eos_ids)
    for name in _FILES:
        path = Path(directory) / name
        if path.is_file():
            value = read_json(path).get("eos_token_id")
            try:
                found += _ids(value, vocab_size)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
    return tuple(dict.fromkeys(found))


def _ids(value: Any, vocab_size: int) -> list[int]:
    """Return the ids of an entry: null, a number, or a list of numbers."""
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        raise ValueError(
            f"eos_token_id={value!r} is not a token, or a list of tokens, of "
            f"vocab_size={vocab_size}: correct it, or leave it out"
        )
    return ids
