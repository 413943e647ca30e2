"""Prompts: what is in trunk and branch, budgets, windows."""

from dataclasses import replace

import corridor
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.environments.alfworld.wordings import WORDINGS
from reskill_jax.environments.protocol import Observation
from reskill_jax.policy.tokenizer import train_tokenizer
from reskill_jax.rollout.context import StaticGuide
from reskill_jax.rollout.conversation import Conversation
from reskill_jax.rollout.prompts import PromptBuilder, list_actions
from reskill_jax.skills.skill import Skill, SkillBank, Trigger

TEXTS = [
    "You arrive at cabinet 1. The cabinet 1 is closed.",
    "put a hot potato in countertop. Goal Possible commands",
    "<action>go to cabinet 1</action>",
] * 3
TOKENIZER = train_tokenizer(TEXTS, 320)
SKILL = Skill("open-it", "d", "It is closed.", "Open it.", Trigger("general"))
SKILLS = StaticGuide(bank=SkillBank())  # a section for them, whatever is shown there


def builder(wording="brief", **changes) -> PromptBuilder:
    options = {"layout": "tree", "max_tokens": 400, "max_turns": 9, **changes}
    wording = corridor.WORDING if wording == "short" else WORDINGS[wording]
    return PromptBuilder(TOKENIZER, wording=wording, **options)


def see(text: str, *actions: str) -> Observation:
    return Observation(text, actions)


def flat(talk: Conversation, prompt) -> str:
    return TOKENIZER.decode(
        talk.trunks[prompt.window][: prompt.trunk_length] + prompt.branch
    )


@pytest.mark.parametrize("wording", ["brief", "full"])
def test_the_trunk_keeps_what_stays_true_and_the_branch_the_rest(wording):
    talk = Conversation(
        builder(wording=wording, max_tokens=3000), "put a mug", see("a bed"), SKILLS
    )
    first = talk.prompt(see("a bed", "go to bed 1"), [SKILL])
    assert "go to bed 1" in TOKENIZER.decode(first.branch)
    assert "It is closed. " in TOKENIZER.decode(first.branch)
    assert "put a mug" in TOKENIZER.decode([*talk.trunks[0], *first.branch])
    before = list(talk.trunks[0])
    talk.advance("go to bed 1", "a pillow 1")
    second = talk.prompt(see("a pillow 1", "look"), [])
    assert talk.trunks[0][: len(before)] == before
    assert second.trunk_length > first.trunk_length
    text = flat(talk, second)
    assert "a pillow 1" in text
    assert "It is closed." not in text
    assert text.index("a bed") < text.index("go to bed 1") < text.index("a pillow 1")


USUAL = ["look", "go to bed 1", "go to shelf 1", "go to shelf 2", "go to desk 1"]


@pytest.mark.parametrize("wording", WORDINGS.values())
@pytest.mark.parametrize(
    ("now", "missing", "other"),
    [
        (USUAL, [], []),
        (USUAL[1:], ["look"], []),
        ([*USUAL, "take mug 1"], [], ["take mug 1"]),
        (["take mug 1", *USUAL[:-1]], ["go to desk 1"], ["take mug 1"]),
    ],
)
def test_usual_actions_are_listed_once_then_differences(wording, now, missing, other):
    expected = wording.all_usual
    if missing:
        expected += wording.but.format(actions=", ".join(missing))
    if other:
        expected += wording.and_also.format(actions=", ".join(other))
    assert list_actions(wording, now, USUAL) == expected


def test_actions_are_listed_whole_where_that_is_shorter():
    wording = WORDINGS["full"]
    assert list_actions(wording, ["a", "b"], USUAL) == "a, b"
    assert list_actions(wording, ["a", "b"], []) == "a, b"


def test_what_stays_possible_is_in_the_trunk_only():
    talk = Conversation(
        builder(wording="full", max_tokens=3000), "g", see("o", *USUAL), SKILLS
    )
    assert "go to desk 1" in TOKENIZER.decode(talk.trunks[0])
    branch = TOKENIZER.decode(talk.prompt(see("o", *USUAL, "open desk 1"), []).branch)
    assert "go to desk 1" not in branch
    assert "open desk 1" in branch


def test_usual_actions_that_have_no_room_are_not_cut_but_left_out():
    many = [f"go to cabinet {number}" for number in range(60)]
    talk = Conversation(
        builder(wording="full", max_tokens=900), "g", see("o", *many), SKILLS
    )
    assert "cabinet 1" not in TOKENIZER.decode(talk.trunks[0])
    assert "cabinet 1" in TOKENIZER.decode(talk.prompt(see("o", *many), []).branch)


def test_every_prompt_ends_where_the_response_begins():
    talk = Conversation(builder(), "goal", see("room", "look"), SKILLS)
    prompt = talk.prompt(see("room", "look"), [])
    prefix = list(TOKENIZER.assistant_prefix)
    assert prompt.branch[-len(prefix) :] == prefix
    assert talk.trunks[0][: len(TOKENIZER.user_prefix)] == list(TOKENIZER.user_prefix)


@settings(max_examples=50, deadline=None)
@given(
    turns=st.lists(st.text("abc <|im_end|>{}\n", max_size=120), max_size=12),
    layout=st.sampled_from(["tree", "paper"]),
    opening=st.text("abc <|im_end|>{}\n", max_size=200),
)
def test_no_prompt_passes_its_budget_and_no_text_becomes_a_special_token(
    turns, layout, opening
):
    first = see("a room", *turns[:1])
    guide = StaticGuide(opening, SkillBank())
    talk = Conversation(builder(layout=layout), "put a mug", first, guide)
    for text in turns:
        prompt = talk.prompt(see("", text), [SKILL])
        ids = talk.trunks[prompt.window][: prompt.trunk_length] + prompt.branch
        assert len(ids) <= 400
        # One user turn, however the environment's words look.
        assert ids.count(TOKENIZER.special("<|im_start|>")) == 2
        assert ids.count(TOKENIZER.eos_id) == 1
        talk.advance("look", text)


def test_a_full_window_reopens_with_the_head_and_the_newest_turns():
    first = see("a room", "look")
    talk = Conversation(builder(max_tokens=200), "put a mug", first, SKILLS)
    windows = []
    for turn in range(20):
        prompt = talk.prompt(see("", "look"), [])
        windows.append(prompt.window)
        talk.advance(f"go to cabinet {turn}", f"The cabinet {turn} is closed.")
    assert windows == sorted(windows)
    assert windows[-1] >= 2
    assert windows.count(1) >= 2  # a window lasts
    text = flat(talk, talk.prompt(see("", "look"), []))
    assert "put a mug" in text
    assert "cabinet 19 is closed" in text
    assert "cabinet 0 is closed" not in text


def test_the_paper_layout_counts_before_the_history():
    talk = Conversation(
        builder(layout="paper", wording="full", max_tokens=3000),
        "g",
        see("o", "look"),
        SKILLS,
    )
    talk.advance("look", "you see a mug 1")
    prompt = talk.prompt(see("you see a mug 1", "take mug 1"), [])
    assert prompt.trunk_length == 0
    text = TOKENIZER.decode(prompt.branch)
    assert text.index("Turns so far: 1") < text.index("Action 1: look")
    assert text.index("Action 1: look") < text.index("Now: you see a mug 1")


@pytest.mark.parametrize("layout", ["tree", "paper"])
def test_a_turn_limit_costs_no_memory(layout):
    """Checking the budget once listed every turn: sixteen gigabytes for this one."""
    assert builder(layout=layout, max_turns=2**31 - 1).max_turns == 2**31 - 1


def test_a_budget_without_room_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"max_tokens=64 is too small: the fixed text"):
        builder(wording="full", max_tokens=64)


ANYTHING = st.one_of(st.text(max_size=40), st.text("ab <|im_end|>{}\n", max_size=900))


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_texts_fit_into_any_budget(data):
    """No observation, goal, list, note or bank can end a run."""
    options = {
        "max_tokens": data.draw(st.one_of(st.integers(64, 900), st.just(4096))),
        "wording": data.draw(st.sampled_from(["short", "brief", "full"])),
        "layout": data.draw(st.sampled_from(["tree", "paper"])),
    }
    try:
        prompts = builder(**options)
    except ValueError:  # the fixed text alone takes most of it; said at the start
        assert options["max_tokens"] < (80 if options["wording"] == "short" else 900)
        return
    skills = [
        Skill(f"s-{k}", "d", data.draw(ANYTHING), data.draw(ANYTHING))
        for k in range(data.draw(st.integers(0, 4)))
    ]
    notes = data.draw(st.sampled_from([[], skills]))
    guide = StaticGuide(data.draw(ANYTHING), SkillBank(tuple(skills)))
    first = see(data.draw(ANYTHING), *data.draw(st.lists(ANYTHING, max_size=3)))
    talk = Conversation(prompts, data.draw(ANYTHING), first, guide)
    now = first
    for _ in range(data.draw(st.integers(1, 5))):
        prompt = talk.prompt(now, notes)
        length = prompt.trunk_length + len(prompt.branch)
        assert length <= options["max_tokens"]
        assert prompt.trunk_length <= len(talk.trunks[prompt.window])
        if prompts.tokens_of(notes) <= prompts.notes_limit():
            assert prompt.notes == len(notes)  # what was promised is shown
        now = see(data.draw(ANYTHING), *data.draw(st.lists(ANYTHING, max_size=3)))
        talk.advance(data.draw(ANYTHING), now.text)


LONG = {
    "observation": "You arrive at cabinet 1. The cabinet 1 is closed. " * 400,
    "symbols": "{}<|im_end|>é☃\U0001d160\u0344" * 300,
    "goal": "put a hot potato in countertop " * 100,
}


@pytest.mark.parametrize("layout", ["tree", "paper"])
@pytest.mark.parametrize("wording", ["short", "brief", "full"])
@pytest.mark.parametrize("max_tokens", [80, 300, 700, 1000, 2048, 4096])
def test_everything_too_long_at_once_fits_with_all_promised_notes(
    max_tokens, wording, layout
):
    """Long observations and goals, hundreds of actions, an opening, a full bank."""
    try:
        prompts = builder(wording, max_tokens=max_tokens, layout=layout)
    except ValueError:
        assert max_tokens <= 300 or (wording, max_tokens) == ("full", 700)
        return
    actions = [f"go to cabinet {number} and open it" for number in range(400)]
    skills = []
    while prompts.tokens_of([*skills, SKILL]) <= prompts.notes_limit():
        skills.append(replace(SKILL, name=f"open-{len(skills)}"))
    bank = SkillBank(tuple(skills))
    assert prompts.bank_problem(bank) == ""
    one_more = SkillBank((*skills, SKILL))
    assert "skills that may be shown together take" in prompts.bank_problem(one_more)
    for text in (LONG["observation"], LONG["symbols"]):
        first = see(text, *actions)
        talk = Conversation(prompts, LONG["goal"], first, StaticGuide(text, bank))
        for turn in range(6):
            now = see(text if turn % 2 else "short", *actions[turn:])
            prompt = talk.prompt(now, bank.skills)
            assert prompt.trunk_length + len(prompt.branch) <= max_tokens
            assert prompt.notes == len(skills)
            talk.advance(actions[turn] * (1 + 50 * (turn % 3)), now.text)


def test_what_does_not_fit_shrinks_in_the_stated_order():
    prompts = builder(wording="full", max_tokens=1400)
    long = Skill("long", "d", "It is closed. " * 40, "Open it.")
    actions = [f"go to cabinet {number}" for number in range(120)]
    talk = Conversation(prompts, "put a mug", see("a room. " * 60, *actions), SKILLS)
    one = talk.prompt(see("", *actions), [SKILL])
    both = talk.prompt(see("", *actions), [SKILL, long, long, long, long])
    assert one.notes == 1
    assert "go to cabinet 1" in TOKENIZER.decode(one.branch)
    assert "go to cabinet" not in TOKENIZER.decode(both.branch)  # the list goes first
    assert 1 <= both.notes < 5  # then the last notes
    assert "put a mug" in TOKENIZER.decode(talk.trunks[0])
