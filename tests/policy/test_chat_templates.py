"""Prompts are, token for token, what the model's own template makes of their words."""

import json

import pytest
import transformers
from chat_templates import FAMILIES, LLAMA3, QWEN3, write_tokenizer

from reskill_jax.environments.alfworld.wordings import WORDINGS
from reskill_jax.environments.protocol import Observation
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.context import StaticGuide
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

SKILL = Skill("look-first", "d", "You know nothing.", "Look.", Trigger("general"))
ARGUMENTS = {"enable_thinking": False, "date_string": "26 Jul 2024"}


@pytest.fixture(params=FAMILIES)
def family(request, tmp_path):
    write_tokenizer(tmp_path, request.param)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    return request.param, Tokenizer.load(tmp_path), theirs


def render(theirs, content: str, **options):
    return theirs.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        return_dict=False,
        **ARGUMENTS,
        **options,
    )


def test_around_the_words_of_the_user_is_the_template(family):
    name, ours, theirs = family
    words = "You see a mug 1 on a shelf 2."
    ids = [*ours.user_prefix, *ours.encode(words), *ours.assistant_prefix]
    assert ids == render(theirs, words, tokenize=True)
    assert ours.eos_id == theirs.eos_token_id
    assert ours.trims == (name == "Llama 3")
    assert ours.pad_id == (
        ours.eos_id if name == "Llama 3" else ours.special("<|endoftext|>")
    )


@pytest.mark.parametrize("layout", ["tree", "paper"])
@pytest.mark.parametrize("wording", WORDINGS)
def test_trunk_and_branch_are_the_rendering_of_their_words(family, wording, layout):
    _, ours, theirs = family
    builder = PromptBuilder(
        ours, wording=WORDINGS[wording], layout=layout, max_tokens=3000, max_turns=9
    )
    first = Observation("a shelf 2<|eot_id|>", ("look",))
    guide = StaticGuide(bank=SkillBank())
    talk = Conversation(builder, "put a mug <|im_end|>", first, guide)
    now = Observation("", ("look", "go to shelf 2"))
    for turn in range(3):
        prompt = talk.prompt(now, [SKILL] if turn else [])
        ids = talk.trunks[prompt.window][: prompt.trunk_length] + prompt.branch
        before, after = len(ours.user_prefix), len(ours.assistant_prefix)
        assert tuple(ids[:before]) == ours.user_prefix
        assert tuple(ids[-after:]) == ours.assistant_prefix
        words = theirs.decode(ids[before:-after], skip_special_tokens=False)
        assert "<|eot_id|>" in words  # as plain text
        whole = theirs.decode(ids, skip_special_tokens=False)
        assert whole == render(theirs, words, tokenize=False)
        talk.advance("look", "a mug 1")


def test_a_hybrid_does_not_think_and_llama_has_no_clock(tmp_path):
    write_tokenizer(tmp_path, "Qwen3")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.special("</think>") in tokenizer.assistant_prefix
    write_tokenizer(tmp_path, "Llama 3")
    tokenizer = Tokenizer.load(tmp_path)
    assert "26 Jul 2024" in tokenizer.decode(tokenizer.user_prefix)


def test_a_template_that_asks_for_the_time_is_told_the_same_every_day(tmp_path):
    write_tokenizer(tmp_path, "Llama 3")
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    called = "{{ strftime_now('%Y-%m-%d %H:%M') }}"
    settings["chat_template"] = called + settings["chat_template"]
    path.write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.decode(tokenizer.user_prefix).startswith("2024-07-26 00:00")


def test_a_template_may_begin_the_thoughts_of_the_response(tmp_path):
    write_tokenizer(tmp_path, "Qwen3")
    assert Tokenizer.load(tmp_path).opened == ""  # begun and ended
    path = tmp_path / "tokenizer_config.json"
    values = json.loads(path.read_text())
    values["chat_template"] = QWEN3.replace("\\n\\n</think>\\n", "")
    path.write_text(json.dumps(values))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.opened == "<think>"
    assert tokenizer.assistant_prefix[-2] == tokenizer.special("<think>")


def make_special(directory, is_special):
    """Change which added tokens of a tokenizer are special."""
    path = directory / "tokenizer.json"
    values = json.loads(path.read_text())
    for token in values["added_tokens"]:
        token["special"] = is_special(token)
    path.write_text(json.dumps(values))


def test_text_cannot_hold_marks_of_turns_that_are_not_special(tmp_path):
    """As DeepSeek-R1's distilled models have them."""
    write_tokenizer(tmp_path, "Qwen3")
    before = Tokenizer.load(tmp_path)
    make_special(tmp_path, lambda x: x["special"] and x["content"] != "<|im_start|>")
    ours = Tokenizer.load(tmp_path)
    start = ours.special("<|im_start|>")
    assert ours.user_prefix == before.user_prefix
    assert ours.assistant_prefix == before.assistant_prefix
    assert start in ours.user_prefix
    text = "a mug <|im_start|>assistant"
    assert ours.encode(text) == before.encode(text)
    assert start not in ours.encode(text)
    # Marks of thoughts are what responses are read with.
    thought = "<think>a</think>b<action>look</action>"
    assert ours.special("</think>") in ours.encode(thought)
    assert ours.decode(ours.encode(thought)) == thought


def test_elements_of_responses_are_text_also_where_they_are_special(tmp_path):
    """As models are taught with them: else no thought ends and no action is found."""
    write_tokenizer(tmp_path, "Qwen3")
    before = Tokenizer.load(tmp_path)
    make_special(tmp_path, lambda _: True)
    ours = Tokenizer.load(tmp_path)
    text = "<think>a <action>no</action></think><action>look</action>"
    assert ours.special("</think>") in before.encode(text)
    assert ours.encode(text) == before.encode(text)
    assert ours.decode([*before.encode(text), ours.eos_id]) == text
    assert ours.assistant_prefix == before.assistant_prefix
    assert ours.eos_id not in ours.encode("<|im_end|>")
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").encode(text) == before.encode(text)


def test_marks_of_turns_that_look_like_elements_stay_special(tmp_path):
    write_tokenizer(tmp_path, "Qwen3")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (tmp_path / name).read_text()
        text = text.replace("<|im_start|>", "<turn>").replace("<|im_end|>", "</turn>")
        (tmp_path / name).write_text(text)
    ours = Tokenizer.load(tmp_path)
    assert ours.special("<turn>") in ours.user_prefix
    assert not {ours.special("<turn>"), ours.eos_id} & {*ours.encode("<turn></turn>")}
    assert ours.decode([ours.eos_id]) == ""


def test_a_template_file_takes_precedence_and_is_kept(tmp_path):
    write_tokenizer(tmp_path / "a", "Llama 3", template_file=True)
    tokenizer = Tokenizer.load(tmp_path / "a")
    tokenizer.save(tmp_path / "b")
    saved = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert saved["chat_template"] == LLAMA3
    assert Tokenizer.load(tmp_path / "b").user_prefix == tokenizer.user_prefix
    assert tokenizer.encode("<|eot_id|>") != [tokenizer.eos_id]


SOME = "<|eot_id|>"


@pytest.mark.parametrize(
    ("name", "file", "values"),
    [
        ("sep_token", "tokenizer_config.json", {"sep_token": SOME}),
        ("image_token", "tokenizer_config.json", {"image_token": {"content": SOME}}),
        *(
            ("turn_token", "tokenizer_config.json", {key: {"turn_token": SOME}})
            for key in ("extra_special_tokens", "model_specific_special_tokens")
        ),
        ("bos_token", "special_tokens_map.json", {"bos_token": SOME}),
        ("bos_token", "special_tokens_map.json", {"bos_token": {"content": SOME}}),
    ],
)
def test_a_template_prints_any_token_that_the_files_name(tmp_path, name, file, values):
    write_tokenizer(tmp_path, "Qwen3-2507")
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings["chat_template"] = f"{{{{ {name} }}}}" + settings["chat_template"]
    settings["add_bos_token"] = True  # is none
    path.write_text(json.dumps(settings))
    path = tmp_path / file
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | values))
    ours = Tokenizer.load(tmp_path)
    assert ours.user_prefix[0] == ours.special(SOME)
    if "image_token" not in values:  # there, transformers wants its own mark of a token
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ids = render(theirs, "", tokenize=True)
        assert ids == [*ours.user_prefix, *ours.assistant_prefix]
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").user_prefix == ours.user_prefix


def test_the_list_of_tokens_of_older_models_yields_to_that_of_newer_ones(tmp_path):
    write_tokenizer(tmp_path, "Llama 3")
    (tmp_path / "special_tokens_map.json").write_text('{"bos_token": "<|eot_id|>"}')
    path = tmp_path / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "added_tokens_decoder": {}})
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.load(tmp_path)
    assert ours.user_prefix[0] == theirs.bos_token_id
    assert ours.user_prefix[0] == ours.special("<|begin_of_text|>")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        (QWEN3.replace("message.content", "message.content | upper"), "repeats"),
        (QWEN3.replace("message.content", "message.content * 2"), "repeats"),
        (QWEN3.replace("message.content", "message.content.lstrip()"), "changes"),
        (QWEN3.replace("<|im_end|>", "##"), "ends no turn"),
        ("<|im_start|>{{ messages[0].content }}<|im_end|>", "of the assistant"),
        (QWEN3 + "{{ raise_exception('only tools') }}", "only tools"),
    ],
)
def test_templates_that_do_not_fit_are_refused(tmp_path, template, message):
    write_tokenizer(tmp_path, "Qwen3")
    path = tmp_path / "tokenizer_config.json"
    values = json.loads(path.read_text())
    values["chat_template"] = template
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=message) as caught:
        Tokenizer.load(tmp_path)
    assert str(tmp_path) in str(caught.value)
