"""Byte-level BPE in a Hugging Face directory: ours for small runs, or any model's own.

`encode` reads its argument as plain text: an environment that prints `<|im_end|>`
cannot end a turn. Special tokens enter a prompt by id only, through `special` and the
two ChatML prefixes.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<action>", "</action>")  # plain text to everyone, but one token each

# The words of text: contractions and letters with the blank before them, single digits,
# punctuation, blanks.
_WORDS = r"'(?i:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Tokenizer:
    """Text to ids and back; made by `train_tokenizer` or `Tokenizer.load`.

    Attributes:
        eos_id: the token that ends a turn, `<|im_end|>`.
        pad_id: the token that fills rows, `<|endoftext|>`.
        user_prefix: ids of `<|im_start|>user` and a line break.
        assistant_prefix: ids of `<|im_end|>`, a line break, `<|im_start|>assistant` and
            a line break.
    """

    def __init__(self, backend: Backend, settings: dict[str, object]):
        """Wrap a backend.

        Args:
            backend: the tokenizer proper; it is changed to encode special tokens'
                names as plain text.
            settings: contents of tokenizer_config.json, written back by `save`.

        Raises:
            ValueError: if a ChatML token is missing, by name.
        """
        self._backend = backend
        self._backend.encode_special_tokens = True
        self._settings = settings
        self.eos_id = self.special("<|im_end|>")
        self.pad_id = self.special("<|endoftext|>")
        start = self.special("<|im_start|>")
        self.user_prefix = (start, *self.encode("user\n"))
        self.assistant_prefix = (
            self.eos_id,
            *self.encode("\n"),
            start,
            *self.encode("assistant\n"),
        )

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read the tokenizer of a Hugging Face directory.

        Raises:
            FileNotFoundError: if there is no tokenizer.json.
            ValueError: if it cannot be read, or knows no ChatML.
        """
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: not a tokenizer directory")
        try:
            backend = Backend.from_str(path.read_text())
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} cannot be read: {error}") from error
        settings_path = path.with_name("tokenizer_config.json")
        settings = {}
        if settings_path.is_file():
            settings = json.loads(settings_path.read_text())
        return cls(backend, settings)

    def save(self, directory: Path | str) -> None:
        """Write tokenizer.json and tokenizer_config.json for transformers."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "tokenizer.json").write_text(self._backend.to_str(pretty=True))
        text = json.dumps(self._settings, indent=2, sort_keys=True) + "\n"
        (directory / "tokenizer_config.json").write_text(text)

    @property
    def vocab_size(self) -> int:
        """Number of ids: every id is below it."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def special(self, name: str) -> int:
        """Return the id of an added token.

        Raises:
            ValueError: if the tokenizer has no such token.
        """
        token = self._backend.token_to_id(name)
        if token is None:
            raise ValueError(f"the tokenizer has no token {name!r}")
        return token

    def encode(self, text: str) -> list[int]:
        """Return the ids of plain text; names of special tokens are plain text too."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a byte-level BPE vocabulary; the same texts give the same ids.

    Digits are tokens of their own, so that numbered objects share their numbers.

    Args:
        texts: what to learn from.
        vocab_size: number of ids, added tokens included; fewer when the texts offer no
            more merges.

    Raises:
        ValueError: if `vocab_size` cannot hold the bytes and the added tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(SPECIAL) + len(MARKERS)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size={vocab_size} cannot hold 256 bytes and the added tokens: "
            f"use at least {smallest}"
        )
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL) - len(MARKERS),
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    backend.add_tokens([AddedToken(name, normalized=False) for name in MARKERS])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": ["<|im_start|>"],
        "clean_up_tokenization_spaces": False,
        "chat_template": _CHAT_TEMPLATE,
    }
    return Tokenizer(backend, settings)
