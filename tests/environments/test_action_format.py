"""How responses become actions."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.environments.action_format import Action, TaggedFormat

PLAIN = TaggedFormat()
SEARCH = TaggedFormat(("search", "answer"))
PUBLISHED = TaggedFormat(lower_case=True, untagged_characters=30)  # ALFWorld's


@pytest.mark.parametrize(
    ("response", "action", "well_formed"),
    [
        ("<action>go to bed 1</action>", "go to bed 1", True),
        ("I think. <ACTION> Go to  Bed 1 </ACTION> ok", "go to bed 1", True),
        ("<action>look</action><action>go to bed 1</action>", "look", True),
        ("<action>fly</action>", "fly", True),
        ("go to bed 1", "go to bed 1", False),
        ("x" * 40 + "go to bed 1", "x" * 19 + "go to bed 1", False),
        ("<action></action>", "", True),
        ("", "", False),
    ],
)
def test_the_published_rules_of_household_games(response, action, well_formed):
    found = PUBLISHED.parse(response)
    assert (found.text, found.well_formed) == (action, well_formed)
    assert found.tag == ("action" if well_formed else "")


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ("<action>SELECT 'Aé'\n FROM  T</action>", "SELECT 'Aé' FROM T"),
        ("<action>a < b</action>", "a < b"),
        ("<think>so</think><action>say </think></action>", "say </think>"),
        ("say <action>first\nsecond</action>", "first second"),
    ],
)
def test_free_text_keeps_its_letters(response, action):
    assert PLAIN.parse(response) == Action("action", action, True)


@pytest.mark.parametrize(
    "response", ["", "look", "<action>look", "look</action>", "<ACTION>look</ACTION>"]
)
def test_without_tags_there_is_no_action_unless_the_tail_is_asked_for(response):
    assert PLAIN.parse(response) == Action("", "", False)
    tail = TaggedFormat(untagged_characters=4).parse(response)
    assert tail == Action("", response[-4:], False)


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ("<think>look first</think><action>look</action>", "look"),
        ("<think>\nGo?\n</think>\n\n<action>go to bed 1</action>", "go to bed 1"),
        ("<think><action>a</action></think><action>b</action>", "b"),
        ("<action>a</action>, no.</think><action>b</action>", "b"),
        ("<THINK><action>a</action></Think><action>b</action>", "b"),
        ("<think><think><action>a</action></think> x</think><action>b</action>", "b"),
        ("<think>a</think><action>b</action><think>c</think>", "b"),
        ("<think>a</think><action>b</action>\n<think><action>c</action>", "b"),
        ("<reasoning><action>a</action></reasoning><action>b</action>", "b"),
        (
            "<|channel|>analysis<|message|><action>a</action><|end|><|start|>assistant"
            "<|channel|>final<|message|><action>b</action>",
            "b",
        ),
        ("analysisTry <action>a</action>assistantfinal<action>b</action>", "b"),
        ("The tag <action> is for actions.</think><action>b</action>", "b"),
        ("I close </think> first. <action>b</action>", "b"),
    ],
)
def test_the_action_comes_after_the_thoughts(response, action):
    assert PLAIN.parse(response) == Action("action", action, True)


@pytest.mark.parametrize(
    "response",
    [
        "<think><action>a</action>",
        "<think><action>a</action></think>",
        "<think>I write <action>a</action> then.</think> Done.",
        "<think><action>a</think></action>",
        "<action>a</action></think>",
        "<action>a</action></think> I do not know.",
        "<|channel|>analysis<|message|><action>a</action>",
    ],
)
def test_a_draft_is_no_action(response):
    assert PLAIN.parse(response) == Action("", "", False)
    tail = PUBLISHED.parse(response)
    assert not tail.well_formed
    assert ">a<" not in tail.text


def test_tags_of_thoughts_are_no_tags_of_actions():
    with pytest.raises(ValueError, match=r"^tags=\('Thought', 'act'\): thought would"):
        TaggedFormat(("Thought", "act"))


def test_of_several_tags_the_action_names_its_own():
    found = SEARCH.parse("<think>?</think><search>Capital  of France</search>")
    assert found == Action("search", "search[Capital of France]", True)
    found = SEARCH.parse("<answer>Paris</answer><search>Lyon</search>")
    assert found == Action("answer", "answer[Paris]", True)
    assert SEARCH.parse("<search>Paris</answer>") == Action("", "", False)


@pytest.mark.parametrize("action_format", [PLAIN, SEARCH])
def test_a_contexts_tag_is_known_only_where_it_is_given(action_format):
    response = "<recall>mugs</recall>"
    assert not action_format.parse(response).well_formed
    found = action_format.parse(response, ("recall", "note"))
    assert found == Action("recall", "mugs", True)
    first = action_format.tags[0]
    both = action_format.parse(f"<{first}>x</{first}>{response}", ("recall",))
    assert both.tag == first


def test_what_is_asked_for_is_what_is_read():
    assert PLAIN.request == "<action>..</action>"
    assert SEARCH.request == "<search>..</search> or <answer>..</answer>"
    for request, tag in zip(SEARCH.request.split(" or "), SEARCH.tags, strict=True):
        assert SEARCH.parse(request) == Action(tag, f"{tag}[..]", True)


def test_tags_are_texts_not_patterns():
    odd = TaggedFormat(("a.b",))
    assert odd.parse("<a.b>x</a.b>").well_formed
    assert not odd.parse("<aXb>x</aXb>").well_formed


ONE = TaggedFormat(("search", "answer"), single=True)


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ("so <search>a <b> c</search> on", "search[a <b> c]"),
        ("<search>a</search><search>b</search>", ""),
        ("<search>a</search> <answer>", ""),
        ("</answer> <search>a</search>", ""),
        ("<search><answer>a</answer></search>", ""),
        ("<recall>a</recall>", "a"),
        ("<recall>a</recall><answer>b</answer>", ""),
    ],
)
def test_where_one_tag_is_allowed_a_second_leaves_no_action(response, action):
    found = ONE.parse(response, ("recall",))
    assert (found.text, found.well_formed) == (action, bool(action))


PARTS = ("<a>", "</a>", "<b>", "</b>", "<c>", "x ", "<", "/a>")


@given(st.lists(st.sampled_from(PARTS), max_size=12).map("".join))
def test_the_first_pair_is_that_of_the_pattern(response):
    pattern = re.search(r"<(a|b)>(.*?)</\1>", response, re.DOTALL)
    found = TaggedFormat(("a", "b")).parse(response)
    content = pattern and f"{pattern[1]}[{' '.join(pattern[2].split())}]"
    assert found.text == (content or "")


@pytest.mark.timeout(60)  # quadratic time would be an hour
@pytest.mark.parametrize("action_format", [PLAIN, SEARCH, ONE])
def test_a_megabyte_of_open_tags_is_read_in_linear_time(action_format):
    for tag in ("<action>", "<search>", "<answer></search>"):
        assert not action_format.parse(tag * 120_000).well_formed


@given(st.text("ab <>/action\n", max_size=60))
def test_any_response_is_read_and_what_is_read_is_one_line(response):
    for action_format in (PLAIN, PUBLISHED):
        found = action_format.parse(response)
        if found.well_formed:
            assert found.text == " ".join(found.text.split())
        assert found.well_formed == (found.tag != "")
