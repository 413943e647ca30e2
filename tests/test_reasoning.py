"""What a reasoning model says after its thoughts."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.reasoning import TAGS, answer_of, opened_by

PAIRS = [(f"<{name}>", f"</{name}>") for name in TAGS] + [
    ("<THINK>", "</Think>"),
    ("< think >", "</ think >"),
    ("<thinking effort='high'>", "</thinking >"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|channel>thought\n", "<channel|>"),
]
DRAFT = 'Perhaps {"draft": 1} or <action>draft</action>. '
ANSWER = '{"answer": "<action>"}'


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_drafts_are_not_the_answer_whatever_the_marks(opening, closing):
    assert answer_of(f"{opening}{DRAFT}{closing}\n{ANSWER}") == f"\n{ANSWER}"
    assert answer_of(f"{DRAFT}{closing}{ANSWER}") == ANSWER  # the template's opening
    assert answer_of(f"Well. {opening}{DRAFT}{closing}{ANSWER}") == ANSWER
    assert answer_of(f"{opening}a{closing}b{opening}{DRAFT}{closing}{ANSWER}") == ANSWER
    nested = f"{opening}a{opening}b{closing}{DRAFT}{closing}{ANSWER}"
    assert answer_of(nested) == ANSWER
    assert answer_of(f"{opening}{DRAFT}") == ""
    assert answer_of(f"{opening}{DRAFT}{closing} ") == ""
    assert answer_of(f"{DRAFT}{closing}") == ""
    assert answer_of(f"{opening}a{closing}\n{opening}{DRAFT}") == ""


@pytest.mark.parametrize(("opening", "closing"), PAIRS)
def test_what_stands_before_thoughts_is_the_answer_where_nothing_follows(
    opening, closing
):
    assert answer_of(f"{ANSWER}{opening}{DRAFT}{closing}") == ANSWER
    assert answer_of(f"{ANSWER}\n{opening}{DRAFT}") == f"{ANSWER}\n"
    both = f"{opening}a{closing}{ANSWER}{opening}{DRAFT}{closing}\n"
    assert answer_of(both) == ANSWER


@pytest.mark.parametrize(
    "text",
    [
        "",
        "go to bed 1",
        ANSWER,
        "The mark <think> begins thoughts.",
        "`<think>` and `</think>` stand around thoughts.",
        'Write "<think>..</think>" first.',
        '{"advice": "End with </think> and act", "n": [1, {"x": "<think>"}]}',
        'Here:\n```json\n{"advice": "</think>"}\n```\n',
        "<action>say <think> and </think></action>",
        "<answer>what </reasoning> means</answer>",
        "The channel final is for answers.",
        'Use "<|channel|>final" for them.',
        "analysis of the task: look",
    ],
)
def test_a_text_that_only_mentions_marks_is_the_answer(text):
    assert answer_of(text) == text
    assert answer_of(f"<think>{DRAFT}</think>{text}") == text


def test_quotes_around_thoughts_do_not_make_them_a_mention():
    assert answer_of('He said "go." </think>"Yes" it is') == '"Yes" it is'
    assert answer_of('It is "yes."</think> They say "no".') == ' They say "no".'
    assert answer_of("I try <action>go</think><action>b</action>") == (
        "<action>b</action>"
    )


@pytest.mark.parametrize("end", ["", "<|return|>", "<|end|>"])
def test_of_channels_the_final_one_is_the_answer(end):
    thought = f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant"
    tool = "<|channel|>commentary to=functions.x <|message|>{}<|call|>"
    final = f"<|channel|>final<|message|>{ANSWER}{end}"
    assert answer_of(thought + final) == ANSWER
    assert answer_of(thought + tool + final) == ANSWER
    assert answer_of(final + thought) == ANSWER
    assert answer_of(DRAFT + final) == ANSWER
    assert answer_of(thought + tool) == ""
    assert answer_of(
        f"<|Channel|>analysis {DRAFT}<|channel|>Final {ANSWER}"
    ).strip() == (ANSWER)


def test_of_channels_without_their_tokens_the_final_one_is_the_answer():
    assert answer_of(f"analysisWe need {DRAFT}assistantfinal{ANSWER}") == ANSWER


@given(st.text("ab<>/think \n", max_size=30), st.text("ab \n", max_size=20))
def test_an_answer_without_marks_is_found_after_any_thoughts(thoughts, answer):
    found = answer_of(f"<think>{thoughts}x</think>{answer}c")
    assert found == f"{answer}c"


@given(st.text('<think>/`"{}[]|:a\n', max_size=80))
def test_any_text_has_an_answer_that_is_a_part_of_it(text):
    assert answer_of(text) in text


@given(st.dictionaries(st.text(max_size=8), st.text('</think> a"', max_size=20)))
def test_json_is_found_whole(value):
    text = json.dumps(value)
    assert answer_of(text) == text
    assert answer_of(f"<think>a</think>{text}") == text


@pytest.mark.parametrize(
    "text",
    [
        "<think>" * 8000,
        "<think></think>" * 4000,
        "<a>" + "</think>" * 8000 + "</a>",
        "".join(f"<a{i}>" for i in range(10_000)) + "</think>" * 1000,
        "{" * 60_000 + "</think>",
        '{"a":' * 12_000 + "</think>",
    ],
    ids=range(6),
)
@pytest.mark.timeout(10)
def test_long_texts_take_no_time(text):
    answer_of(text)  # a search in squares of the length would take minutes


@pytest.mark.parametrize(
    ("prompt", "mark"),
    [
        ("<|im_start|>assistant\n", ""),
        ("<|im_start|>assistant\n<think>\n", "<think>"),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
        ("Say <think>x</think> first. [THINK]", "[THINK]"),
    ],
)
def test_a_prompt_may_begin_the_thoughts(prompt, mark):
    assert opened_by(prompt) == mark
