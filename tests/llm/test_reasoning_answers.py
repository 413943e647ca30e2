"""Answers of models that think aloud: drafts do not count, tags may be mentioned."""

import json

import pytest

pytest.importorskip("pydantic", reason="needs the extra llm: pip install '.[llm]'")

from hypothesis import given
from hypothesis import strategies as st
from llm_cases import GOOD
from pydantic import BaseModel

from reskill_jax.creator.schemas import Advice
from reskill_jax.llm.parsing import AnswerError, parse
from reskill_jax.reasoning import answer_of


class Note(BaseModel):
    words: str


DRAFT, ANSWER = '{"words": "draft"}', '{"words": "answer"}'
TAGS = [
    ("<think>", "</think>"),
    ("<THINK>", "</Think>"),
    ("<thinking effort='high'>", "</thinking >"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<analysis>", "</analysis>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
    ),
    (
        "<|channel|>analysis<|message|>",
        "<|channel|>final <|constrain|>json<|message|>",
    ),
    ("<|channel>thought\n", "<channel|>"),
    ("analysis", "assistantfinal"),
]


@pytest.mark.parametrize(("opening", "closing"), TAGS)
@pytest.mark.parametrize(
    "text",
    [
        "{o}maybe {d}{c}{a}",
        "maybe {d}\n{c}\n\n{a}",  # the template wrote the opening tag
        "\n {o}{o}maybe {d}{c} or {d}{c}\n```json\n{a}\n```",  # nested
        "{o}{d}{c}{d}{o}{d}{c}Here it is: {a} Done.",
        "{o}I must end with `{c}` and {d}{c}{a}",
        "{o}open { here and {d{c}{a}",
    ],
)
def test_drafts_before_the_last_tag_are_not_the_answer(text, opening, closing):
    if opening == "analysis":  # the word at the start is all that tells
        text = "{o}" + text.replace("{o}", "")
    for mark, words in (("{o}", opening), ("{c}", closing), ("{a}", ANSWER)):
        text = text.replace(mark, words)
    assert parse(text.replace("{d}", DRAFT), Note).words == "answer"


@pytest.mark.parametrize(
    "text",
    [
        f"<think>{DRAFT}",
        f"<think>{DRAFT}</think>",
        f"{DRAFT}</think>I cannot.",
        f"<think>{DRAFT}</think>\n<think>{DRAFT}",
        f"Well.\n<thinking>\n{DRAFT}",
        f"<|channel|>analysis<|message|>{DRAFT}<|end|>",
        f'<think>{DRAFT}</think>{{"other": 1}}',
        f'{{"a": "b</think>{{"c": {DRAFT}}}',
    ],
)
def test_thoughts_without_an_answer_give_none(text):
    with pytest.raises(AnswerError, match=r"no JSON object|wrong shape"):
        parse(text, Note)


MENTIONS = [
    "end your thoughts with </think>",
    "</think>",
    "<think> first, </think> then act",
    "</thinking></THINK>[/THINK]<|channel|>final<|message|>",
    "a line\n<think>\nand {braces} </think> {}",
    'say "</think>" and `<think>`',
]


@pytest.mark.parametrize("words", MENTIONS)
@pytest.mark.parametrize(
    "text",
    [
        "{a}",
        "Here it is:\n```json\n{a}\n```\n",
        "I use no <think> tag. {a}",
        "I use no `</think>` tag. {a}",
        "<think>a draft: " + DRAFT + "</think>{a}",
        "a draft with <think>: " + DRAFT + "</think>\n{a} That is all.",
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_an_answer_may_speak_of_tags(words, text, indent):
    answer = json.dumps({"words": words}, indent=indent)
    assert parse(text.replace("{a}", answer), Note).words == words


def test_a_tag_deep_in_an_answer_does_not_cut_it():
    plan = json.loads(json.dumps(GOOD["advice"]))
    plan["operations"][0]["intent"] = "Close </think> before acting."
    text = f"<think>hm {{ {DRAFT}</think>" + json.dumps(plan)
    assert parse(text, Advice).operations[0].intent.startswith("Close \u2039/think")


@given(st.text(), st.text(alphabet='ab {}"\n<>'), st.sampled_from(TAGS[:-1]))
def test_what_is_said_after_thoughts_is_the_answer(thoughts, answer, tags):
    opening, closing = tags
    thoughts += "."  # a tag in quotation marks would only be mentioned
    assert answer_of(f"{opening}{thoughts}{closing}{answer}") == answer
    assert answer_of(answer) == answer


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 9_000,
        "</think>" * 7_000,
        "\n<think" + " " * 60_000,
        "analysis" + "assistantfina" * 4_000,
        "{" * 30_000 + "</think>" + "}" * 30_000,
        '{"a":' * 9_000 + "</think>",
        "<|channel|>final" * 3_500,
    ],
)
@pytest.mark.timeout(20)
def test_no_text_takes_long(text):
    with pytest.raises(AnswerError):
        parse(text, Note)
