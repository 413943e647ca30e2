"""Metrics of skills and of what a policy does with them."""

from dataclasses import replace

import pytest
from strategy_cases import NO_TOKENS, banks, play
from test_reskill import make

from reskill_jax.creator.reservoir import Tally
from reskill_jax.environments.task import Task
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.strategies.lifecycle import idle_episodes, lifecycle

OPEN = Skill("open-it", "", "It is closed.", "Open the fridge.")  # 3 + 3 words
LOOK = Skill(
    "look-around",
    "",
    "You arrived.",
    "Look.",
    Trigger("action_pattern", "^go"),
    "Look!",
)  # 2 + 1 + 1
BANK = SkillBank((OPEN, LOOK))


def turn(action, text="", shown=()):
    return Turn(
        0, 0, NO_TOKENS, NO_TOKENS, NO_TOKENS, 0, "", text, action, True, shown
    )  # fmt: skip


def episode(*turns):
    return Episode(Task("t", "kind", "train", ""), 0, 0, 0, "", turns=list(turns))


def test_words_conditions_and_the_overlap_with_actions():
    found = lifecycle(BANK, [episode(turn("open fridge 1"), turn("go to shelf 1"))])
    assert found == {
        "skills/words": (6 + 4) / 2,
        "skills/conditional": 0.5,
        # "open" and "fridge" of open, the, fridge; "look" was never played.
        "skills/action_overlap": pytest.approx((2 / 3 + 0) / 2),
    }


def test_names_of_skills_as_actions_and_in_reasoning():
    shown = ("open-it", "look-around")
    turns = [
        turn("open it", "<action>open it</action>", shown),
        turn("look", "I apply look-around. <action>look</action>", shown),
        turn("look", "<action>look</action>", shown),
        turn("look-around", "By Look Around: <action>look-around</action>", shown),
        turn("", "Open it, then?", shown),  # without an action
        turn("open-it", "open-it", ()),  # nothing was shown
    ]
    found = lifecycle(SkillBank(), [episode(*turns)])
    assert found == {"skills/name_as_action": 2 / 5, "skills/named": 3 / 5}
    assert lifecycle(SkillBank(), [episode(turns[-1])]) == {}
    assert lifecycle(BANK, []).keys() == {"skills/words", "skills/conditional"}


def test_a_step_of_reskill_tells_them():
    strategy = make(auto_accept=True)
    assert "skills/words" not in play(strategy, 0, (0.3,)).metrics
    (bank,) = banks(strategy, 1)
    assert bank.skills
    metrics = play(strategy, 1, (0.3,)).metrics
    assert metrics["skills/words"] > 3
    assert metrics["skills/named"] == metrics["skills/name_as_action"] == 0


def test_only_what_was_never_shown_in_fifty_episodes_is_idle():
    fewer = SkillBank((OPEN,))
    quiet = Tally(BANK.hash, 1, 60, 3, {"open-it": 60})
    assert idle_episodes(BANK, fewer, [quiet]) == 60
    shown = replace(quiet, active_skills={"look-around": 1})
    assert idle_episodes(BANK, fewer, [shown]) == 0
    assert idle_episodes(BANK, fewer, [replace(quiet, episodes=49)]) == 0
    assert idle_episodes(BANK, fewer, [replace(quiet, bank="other")]) == 0
    assert idle_episodes(fewer, BANK, [replace(quiet, bank=fewer.hash)]) == 0
