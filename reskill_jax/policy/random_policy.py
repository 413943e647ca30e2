"""Small random policies: for runs that have to work, not to play well.

`policy.path="random:tiny"` lets any environment be tried without a download. Such a
policy is a Hugging Face directory in the cache, a function of its shape and a seed.
"""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from reskill_jax.policy.decoder import init
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.storage import cache_directory

PREFIX = "random:"
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
    },
}
_FORMAT = 1  # raise it when the same arguments would make other files
# Common words become tokens; all else is spelt in bytes.
_TEXT = """You are an agent in a text environment. Your task is to reach the goal in as
few steps as you can. You see what is there, and you can go to a place, look at it, open
or close it, take an object from it, put an object in or on it, use a thing, ask a
question, search for a word, select a row of a table, and give an answer. After every
action you are told what happens; nothing happens if an action is not possible."""
_VOCAB_SIZE = 512


def random_policy(name: str, seed: int) -> Path:
    """Return the Hugging Face directory of a random policy, made if there is none.

    Args:
        name: a key of `SHAPES`.
        seed: of the weights.
    """
    tokenizer = train_tokenizer([_TEXT], _VOCAB_SIZE)
    decoder = DecoderConfig(vocab_size=tokenizer.vocab_size, **SHAPES[name])
    content = json.dumps([_FORMAT, asdict(decoder), _TEXT, seed], sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    directory = cache_directory() / "random_policy" / digest
    if directory.is_dir():
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Elsewhere first, so that there is never a directory with a part of the files.
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".") as partial:
        whole = Path(partial) / "policy"
        save(whole, decoder, init(decoder, jax.random.key(seed)))
        tokenizer.save(whole)
        try:
            whole.rename(directory)
        except OSError:
            if not directory.is_dir():  # else another process was faster
                raise
    return directory
