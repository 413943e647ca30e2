"""The tokens that end a response, of all the files that name some."""

import json

import pytest

from reskill_jax.policy.eos import find_eos_ids
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer

VOCAB = 320


@pytest.fixture
def model(tmp_path):
    train_tokenizer(["go to desk 1"] * 3, 300).save(tmp_path)
    return tmp_path


def write(directory, name, **values):
    path = directory / name
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(found | values))


def find(directory):
    return find_eos_ids(directory, Tokenizer.load(directory), VOCAB)


def test_without_other_files_the_end_of_a_turn_is_the_end(model):
    tokenizer = Tokenizer.load(model)
    assert tokenizer.eos_id == tokenizer.special("<|im_end|>")
    assert find(model) == tokenizer.eos_ids == (tokenizer.eos_id,)


@pytest.mark.parametrize(
    ("generation", "config", "more"),
    [
        (None, None, ()),
        (7, None, (7,)),
        ([7, 9], None, (7, 9)),
        (None, [9, 7], (9, 7)),
        ([7], 9, (7, 9)),
        ([7, 9], [9, 11], (7, 9, 11)),
        ([], 0, (0,)),
        (VOCAB - 1, [], (VOCAB - 1,)),
    ],
)
@pytest.mark.parametrize("token", [None, "<|endoftext|>", {"content": "<|im_end|>"}])
def test_it_is_the_union_without_repetitions(model, generation, config, more, token):
    write(model, "generation_config.json", eos_token_id=generation)
    write(model, "config.json", eos_token_id=config)
    write(model, "tokenizer_config.json", eos_token=token)
    tokenizer = Tokenizer.load(model)
    own = (tokenizer.eos_id,)
    if token == "<|endoftext|>":
        own += (tokenizer.special(token),)
    assert tokenizer.eos_ids == own
    assert find(model) == own + more
    write(model, "generation_config.json", eos_token_id=[tokenizer.eos_id])
    assert find(model)[: len(own)] == own
    assert len(set(find(model))) == len(find(model))


@pytest.mark.parametrize("name", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(
    "value", [-1, VOCAB, 1.0, True, "2", {"id": 2}, [2, None], [[2]], [2, -1]]
)
def test_what_is_no_token_is_named(model, name, value):
    write(model, name, eos_token_id=value)
    with pytest.raises(
        ValueError, match="is not a token, or a list of tokens"
    ) as error:
        find(model)
    assert f"{model / name}: eos_token_id={value!r} is" in str(error.value)


def test_a_damaged_file_is_named(model):
    (model / "generation_config.json").write_text("[]")
    with pytest.raises(
        ValueError, match=r"generation_config\.json is not a JSON object"
    ):
        find(model)
