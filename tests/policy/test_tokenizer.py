import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    with pytest.raises(FileNotFoundError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_bad_settings_are_named(tokenizer, tmp_path, text):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(text)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)
