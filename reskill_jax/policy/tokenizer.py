"""Byte-level BPE in a Hugging Face directory: ours for small runs, or any model's own.

`encode` reads its argument as plain text: an environment that prints `<|im_end|>`
cannot end a turn. Special tokens enter a prompt by id only, through `special` and what
the chat template puts around the words of the user.
"""

import json
import os
import re
from array import array
from collections.abc import Iterable
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from reskill_jax.reasoning import is_mark, opened_by
from reskill_jax.storage import read_json

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKERS = ("<action>", "</action>")  # plain text to everyone, but one token each

# Pieces of text that merges stay within: contractions, letters with the blank before
# them, single digits, punctuation, blanks.
_WORDS = r"'(?i:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}"
    "{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# Arguments of chat templates: no thinking mode (Qwen3's hybrids), and Llama 3's default
# date, where it would otherwise print the day on which the run is started.
_TEMPLATE_ARGUMENTS: dict[str, Any] = {
    "enable_thinking": False,
    "date_string": "26 Jul 2024",
}
# Other templates ask for the time by a function that transformers gives them; a macro
# of that name takes its place, since functions are no arguments.
_CLOCK = "strftime_now"
_TIME = datetime(2024, 7, 26)
# Tokens that the settings of any tokenizer may name; many name others, too.
_NAMED = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "sep_token",
    "cls_token",
    "mask_token",
)
_TAG = re.compile(r"</?(\w{2,})>")  # of an element; <s> and </s> are none
_BRACKETED = re.compile(r"<.+>|\[.+\]")  # what marks look like, and words do not
# Rollouts of a group begin with the same text, and are often asked in the same words.
_CACHED_TEXTS = 2048
_USER, _ASSISTANT = "#user#", "#assistant#"  # placeholders, to be found in renderings


class Tokenizer:
    """Text to ids and back; made by `train_tokenizer` or `Tokenizer.load`.

    Attributes:
        eos_id: the token that ends the assistant's turn, `<|im_end|>` in ChatML.
        eos_ids: that one, and `eos_token` of the settings if it is another.
        pad_id: the token that fills rows.
        user_prefix: ids of what the chat template puts before the words of the user;
            `<|im_start|>user` and a line break in ChatML.
        assistant_prefix: ids of what it puts after them, up to the response.
        trims: whether it strips blanks around the words of the user.
        opened: the mark of thoughts that it begins for the response, e.g. `<think>`,
            which is not in the response then; "" if it begins none.
    """

    def __init__(self, backend: Backend, settings: dict[str, Any]):
        """Wrap a backend.

        Args:
            backend: the tokenizer proper; it is changed to encode special tokens'
                names as plain text, and every text whole, as it is and always alike.
            settings: contents of tokenizer_config.json, written back by `save`.

        Raises:
            ValueError: a setting has the wrong type; texts do not encode alike as parts
                and in one; or there is no chat template, or it does not fit prompts of
                a user and responses of an assistant.
        """
        _check_types(settings)
        # Files keep what their tokenizer was trained or measured with.
        backend.no_truncation()
        backend.no_padding()
        if getattr(backend.model, "dropout", None):
            backend.model.dropout = None  # of merges: texts would not encode alike
        self._backend = backend
        self._settings = settings
        if (joined := self.decode([*self._ids("a"), *self._ids("b")])) != "ab":
            raise ValueError(
                "prompts are put together from parts, which this tokenizer encodes "
                f"otherwise than in one: a and b become {joined!r}, as where every "
                "text begins with a blank (Llama 2 and its kin): use a model with a "
                "byte-level tokenizer, such as Qwen's or Llama 3's"
            )
        before, after = self._around(_USER)
        spaced = self._around(f" {_USER} ")
        self.trims = spaced == (before, after)
        if spaced not in ((before, after), (f"{before} ", f" {after}")):
            raise ValueError("the chat template changes the words of the user")
        turns = [("user", _USER), ("assistant", _ASSISTANT)]
        _, answer, rest = self._render(turns, False).rpartition(_ASSISTANT)
        if not answer:
            raise ValueError("the chat template changes the words of the assistant")
        end = self._encode_template(rest)
        if not end or self._backend.id_to_token(end[0]) not in self._special_names():
            raise ValueError("the chat template ends no turn with a special token")
        self.eos_id = end[0]
        named = self._named("eos_token")
        ends = [self.eos_id] if named is None else [self.eos_id, self.special(named)]
        self.eos_ids = tuple(dict.fromkeys(ends))
        padding = self._named("pad_token")
        self.pad_id = self.eos_id if padding is None else self.special(padding)
        self.user_prefix = tuple(self._encode_template(before))
        self.assistant_prefix = tuple(self._encode_template(after))
        self.opened = opened_by(after)
        around = {*self.user_prefix, *self.assistant_prefix, *end}
        self._make_special(around)
        self._make_text(around)
        self._backend.encode_special_tokens = True
        self._cached_ids = lru_cache(_CACHED_TEXTS)(self._ids)

    @classmethod
    def load(cls, directory: Path | str) -> "Tokenizer":
        """Read the tokenizer of a Hugging Face directory.

        Raises:
            FileNotFoundError: if there is no tokenizer.json.
            ValueError: if it cannot be read, or has no chat template that fits.
        """
        path = Path(directory) / "tokenizer.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist: tokenizers of other files are not read, "
                "save_pretrained of transformers writes this one"
            )
        try:
            backend = Backend.from_str(path.read_text(encoding="utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} cannot be read: {error}") from error
        settings_path = path.with_name("tokenizer_config.json")
        settings = {}
        if settings_path.is_file():
            settings = read_json(settings_path)
        names_path = path.with_name("special_tokens_map.json")
        if names_path.is_file() and "added_tokens_decoder" not in settings:
            settings |= read_json(names_path)  # of older models; as in transformers
        template_path = path.with_name("chat_template.jinja")
        if template_path.is_file():  # it takes precedence in transformers too
            try:
                settings["chat_template"] = template_path.read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{template_path} is not UTF-8: {error}") from error
        try:
            return cls(backend, settings)
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from error

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

    def vocabulary(self) -> dict[str, int]:
        """Return all tokens, as the tokenizer's file writes them, and their ids."""
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        return vocabulary

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
        return self._cached_ids(text).tolist()

    def _ids(self, text: str) -> "array[int]":
        return array("I", self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without special tokens."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=True)

    def _around(self, words: str) -> tuple[str, str]:
        """Return what the template puts before and after the words of the user."""
        parts = self._render([("user", words)], True).split(_USER)
        if len(parts) != 2:
            raise ValueError(
                f"the chat template repeats the words of the user {len(parts) - 1} "
                "times, not once"
            )
        return parts[0], parts[1]

    def _render(self, turns: list[tuple[str, str]], respond: bool) -> str:
        """Render turns, (role, words) each, as transformers does."""
        # Otherwise its import warns that torch is not installed, which is intended.
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        # Slow, and only at the start.
        from transformers.utils.chat_template_utils import (  # noqa: PLC0415
            render_jinja_template,
        )

        template = self._settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = {t["name"]: t["template"] for t in template}.get("default")
        if not template:
            raise ValueError(
                "there is no chat template: use the tokenizer files of the model's "
                "instruct version, or add chat_template.jinja"
            )
        if _CLOCK in template:
            template = _stopped_clock() + template
        arguments = _TEMPLATE_ARGUMENTS | self._named_tokens()
        try:
            result: Any = render_jinja_template(
                [[{"role": role, "content": words} for role, words in turns]],
                chat_template=template,
                add_generation_prompt=respond,
                **arguments,
            )
        except Exception as error:  # a program of its author: it raises what it likes
            raise ValueError(f"the chat template fails: {error!r}") from error
        text = result[0][0]  # the texts, then their generation indices
        if not _is_text(text):
            raise ValueError(f"the chat template makes no text: {text!r:.100}")
        return text

    def _named(self, name: str) -> str | None:
        """Return a token of the settings."""
        return self._named_tokens().get(name)

    def _named_tokens(self) -> dict[str, str]:
        """Return the tokens of the settings by name, which templates may print."""
        named = {k: v for k, v in self._settings.items() if k.endswith("_token")}
        for key in ("extra_special_tokens", "model_specific_special_tokens"):
            more = self._settings.get(key)  # or a list, without names
            named |= more if isinstance(more, dict) else {}
        texts = {name: _text_of(token) for name, token in named.items()}
        return {name: text for name, text in texts.items() if isinstance(text, str)}

    def _special_names(self) -> set[str]:
        added = self._backend.get_added_tokens_decoder().values()
        return {token.content for token in added if token.special}

    def _make_special(self, ids: set[int]) -> None:
        """Make marks of turns special tokens where they are not, as DeepSeek-R1's.

        Otherwise a text that holds the name of one would encode to it. Marks of
        thoughts stay as they are, since responses are read with them.
        """
        added = self._backend.get_added_tokens_decoder()
        marks = [added[i] for i in sorted(ids & added.keys()) if not added[i].special]
        names = [x for x in marks if _BRACKETED.fullmatch(x.content)]
        self._backend.add_special_tokens(
            [_copy(x, special=True) for x in names if not is_mark(x.content)]
        )

    def _make_text(self, ids: set[int]) -> None:
        """Make elements that responses are read with text where they are special.

        Models are often taught with `<think>` or `<action>` as special tokens, which
        are left out of texts: no thought would end, and no action be found.

        Args:
            ids: of template text, whose marks of turns stay special.
        """
        added = self._backend.get_added_tokens_decoder()
        names = {token.content for token in added.values() if token.special}
        kept = [
            token
            for i, token in sorted(added.items())
            if token.content in names
            and (
                is_mark(token.content)
                or (i not in ids and names.issuperset(_element(token.content)))
            )
        ]
        if kept:
            self._backend.add_tokens([_copy(token, special=False) for token in kept])
            # Only what is read from a file finds them in texts again.
            self._backend = Backend.from_str(self._backend.to_str())

    def _encode_template(self, text: str) -> list[int]:
        """Return the ids of template text, where names of special tokens are these."""
        self._backend.encode_special_tokens = False
        return self._backend.encode(text, add_special_tokens=False).ids


def _copy(token: AddedToken, *, special: bool) -> AddedToken:
    """Return an added token that is special or not, else alike."""
    options = ("single_word", "lstrip", "rstrip", "normalized")
    values = {name: getattr(token, name) for name in options}
    return AddedToken(token.content, special=special, **values)


def _element(name: str) -> set[str]:
    """Return both tags of the element that one is of; otherwise what no name is in."""
    found = _TAG.fullmatch(name)
    return {f"<{found[1]}>", f"</{found[1]}>"} if found else {""}


def _stopped_clock() -> str:
    """Define a macro that formats a fixed time as `datetime.strftime` does."""
    codes = [f"%{letter}" for letter in "aAbBcdHIjmMpSUwWxXyYfzZ%"]
    filters = "".join(f"|replace({c!r}, {_TIME.strftime(c)!r})" for c in codes)
    return f"{{%- macro {_CLOCK}(format) %}}{{{{ format{filters} }}}}{{%- endmacro %}}"


def _text_of(token: Any) -> Any:
    """Return the text of a token, which may be wrapped in its options."""
    return token.get("content") if isinstance(token, dict) else token


def _is_text(value: Any) -> bool:
    """Tell whether a value is a string that can be written, without half surrogates."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _check_types(settings: dict[str, Any]) -> None:
    """Raise a ValueError unless the settings that are read have their types."""
    for name in _NAMED:
        token = settings.get(name)
        if not (_is_text(_text_of(token)) or token is None):
            raise ValueError(
                f"tokenizer_config.json: {name}={token!r} is neither a string nor an "
                "object whose content is one: correct it, or set it to null"
            )
    template = settings.get("chat_template")
    listed = template if isinstance(template, list) else []
    for entry in listed:
        if not (
            isinstance(entry, dict)
            and _is_text(entry.get("name"))
            and _is_text(entry.get("template"))
        ):
            raise ValueError(
                f"tokenizer_config.json: chat_template has the entry {entry!r:.100}, "
                "which is no object with the strings name and template"
            )
    if not (_is_text(template) or isinstance(template, list | None)):
        raise ValueError(
            f"tokenizer_config.json: chat_template={template!r:.100} is neither a "
            "string nor a list of named templates"
        )


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
