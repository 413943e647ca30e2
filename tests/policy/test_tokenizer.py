import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from reskill_jax.policy.tokenizer import MARKERS, SPECIAL, Tokenizer, train_tokenizer

TEXTS = [
    "You are in the middle of a room. Looking quickly around you, you see a shelf 12.",
    "go to shelf 1\ntake mug 3 from countertop 2\nheat mug 3 with microwave 1",
    "<action>go to fridge 1</action>",
] * 4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60) | st.sampled_from(SPECIAL + MARKERS))
def test_any_text_survives_and_holds_no_special_token(tokenizer, text):
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {tokenizer.special(name) for name in SPECIAL}
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@given(text=st.text(max_size=20), name=st.sampled_from(SPECIAL))
@settings(deadline=None)
def test_special_names_inside_content_cannot_inject(tokenizer, text, name):
    ids = tokenizer.encode(text + name + text)
    assert tokenizer.special(name) not in ids
    assert name in tokenizer.decode(ids)


def test_markers_are_one_token_and_decoded(tokenizer):
    ids = tokenizer.encode("<action>look</action>")
    assert ids[0] == tokenizer.special("<action>")
    assert ids[-1] == tokenizer.special("</action>")
    assert tokenizer.decode([*ids, tokenizer.eos_id]) == "<action>look</action>"


def test_ids_may_be_changed_by_whoever_asked(tokenizer):
    ids = tokenizer.encode("look")
    wanted = list(ids)
    ids.append(0)
    assert tokenizer.encode("look") == wanted


def test_digits_are_single(tokenizer):
    assert tokenizer.encode("12")[:1] == tokenizer.encode("1")
    assert len(tokenizer.encode("307")) == 3


def test_training_is_deterministic(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a")
    train_tokenizer(TEXTS, 400).save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        first = (tmp_path / "a" / name).read_bytes()
        assert first == (tmp_path / "b" / name).read_bytes()


def test_saved_directory_loads_here_and_in_transformers(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    text = "take mug 3 from shelf 12 <|im_end|>"
    assert Tokenizer.load(tmp_path).encode(text) == tokenizer.encode(text)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    plain = "take mug 3 from shelf 12"
    assert theirs.encode(plain, add_special_tokens=False) == tokenizer.encode(plain)
    assert theirs.eos_token_id == tokenizer.eos_id
    chat = theirs.apply_chat_template(
        [{"role": "user", "content": plain}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=False,
    )
    ours = [
        *tokenizer.user_prefix,
        *tokenizer.encode(plain),
        *tokenizer.assistant_prefix,
    ]
    assert chat == ours


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="vocab_size=100"):
        train_tokenizer(TEXTS, 100)
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json.*save_pretrained"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_tokenizers_that_begin_every_text_with_a_blank_are_refused(
    tokenizer, tmp_path, scheme
):
    """As Llama 2's: prompts in parts would not be those of the model's training."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    backend.decoder = decoders.Metaspace(prepend_scheme=scheme)
    special = ["<unk>", *SPECIAL]
    backend.train_from_iterator(TEXTS, trainers.BpeTrainer(special_tokens=special))
    tokenizer.save(tmp_path)
    Tokenizer.load(tmp_path)
    backend.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"a and b become 'a.*byte-level"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_bad_settings_are_named(tokenizer, tmp_path, text):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def change(directory, name, **values):
    path = directory / name
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


TRUNCATIONS = [
    {
        "direction": side,
        "max_length": 4,
        "strategy": strategy,
        "stride": 0,
    }
    for side in ("Left", "Right")
    for strategy in ("LongestFirst", "OnlyFirst", "OnlySecond")
]
PADDINGS = [
    {
        "strategy": strategy,
        "direction": side,
        "pad_to_multiple_of": multiple,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    for strategy in ("BatchLongest", {"Fixed": 64})
    for side in ("Left", "Right")
    for multiple in (None, 8)
]


@pytest.mark.parametrize(
    "settings",
    [{"truncation": t} for t in TRUNCATIONS]
    + [{"padding": p} for p in PADDINGS]
    + [{"truncation": TRUNCATIONS[0], "padding": PADDINGS[-1]}],
)
def test_texts_are_encoded_whole_and_without_padding(tokenizer, tmp_path, settings):
    """Files keep what their tokenizer was trained or measured with."""
    text = "take mug 3 from shelf 12 and go to shelf 1"
    expected = tokenizer.encode(text)
    assert 4 < len(expected) < 64
    tokenizer.save(tmp_path)
    change(tmp_path, "tokenizer.json", **settings)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode(text) == expected
    assert loaded.encode("a") == tokenizer.encode("a")
    assert loaded.user_prefix == tokenizer.user_prefix
    assert loaded.assistant_prefix == tokenizer.assistant_prefix
    loaded.save(tmp_path / "again")
    saved = json.loads((tmp_path / "again" / "tokenizer.json").read_text())
    assert saved["truncation"] is None
    assert saved["padding"] is None


def test_a_text_is_encoded_alike_every_time(tokenizer, tmp_path):
    """A vocabulary that was trained with dropout leaves merges out at random."""
    tokenizer.save(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    change(tmp_path, "tokenizer.json", model=model | {"dropout": 0.5})
    loaded = Tokenizer.load(tmp_path)
    text = "take mug 3 from shelf 12 and go to shelf 1"
    assert all(loaded.encode(text) == tokenizer.encode(text) for _ in range(20))


HALF = "\ud800"  # of a pair of surrogates, which JSON may hold


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for value in (5, True, ["a"], {}, {"content": 3}, HALF)
          for name in ("bos_token", "eos_token", "pad_token", "unk_token")),
        *(("chat_template", value) for value in (
            5, True, {"default": "x"}, [1], [{"name": "default"}], HALF,
            [{"name": "default", "template": 3}], [{"name": 1, "template": "x"}],
        )),
    ],
)  # fmt: skip
def test_settings_of_the_wrong_type_are_named(tokenizer, tmp_path, name, value):
    tokenizer.save(tmp_path)
    change(tmp_path, "tokenizer_config.json", **{name: value})
    with pytest.raises(ValueError, match=rf"tokenizer_config\.json: {name}") as error:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["eos_token", "pad_token"])
def test_tokens_that_the_tokenizer_lacks_are_named(tokenizer, tmp_path, name):
    tokenizer.save(tmp_path)
    change(tmp_path, "tokenizer_config.json", **{name: "<|no|>"})
    with pytest.raises(ValueError, match=r"has no token '<\|no\|>'"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 1 + 'a' }}",
        "{{ 1 / 0 }}",
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[9].content }}",
        "{{ messages",
        "{{ '\\ud800' }}",
    ],
)
def test_a_template_that_fails_is_an_error_that_says_so(tokenizer, tmp_path, template):
    tokenizer.save(tmp_path)
    change(tmp_path, "tokenizer_config.json", chat_template=template)
    with pytest.raises(ValueError, match=r"the chat template (fails|makes)"):
        Tokenizer.load(tmp_path)


def test_files_that_are_no_text_are_named(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"chat_template\.jinja is not UTF-8"):
        Tokenizer.load(tmp_path)
