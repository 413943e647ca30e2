"""BM25 against an oracle; contexts of fixed text."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from method_cases import opening, tasks
from text_episodes import acts

from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.memories.ranking import best, bm25, words
from reskill_jax.memories.shelf import ChosenSkills, LongContext
from reskill_jax.skills.skill import Skill, SkillBank

WORDS = ("open", "the", "fridge", "heat", "egg", "mug")
TEXTS = st.lists(st.lists(st.sampled_from(WORDS)).map(" ".join), min_size=1, max_size=6)


def oracle(query, documents, k1=1.2, b=0.75):
    split = [document.lower().split() for document in documents]
    average = sum(map(len, split)) / len(split)
    scores = []
    for own in split:
        score = 0.0
        for word in set(query.lower().split()):
            n = sum(word in other for other in split)
            idf = math.log(1 + (len(split) - n + 0.5) / (n + 0.5))
            f = own.count(word)
            if f:
                score += (
                    idf * f * (k1 + 1) / (f + k1 * (1 - b + b * len(own) / average))
                )
        scores.append(score)
    return scores


@given(TEXTS, st.lists(st.sampled_from(WORDS)).map(" ".join))
def test_bm25_is_the_formula(documents, query):
    assert bm25(query, documents) == pytest.approx(oracle(query, documents))


def test_words_are_lower_case_and_the_best_keep_their_order():
    assert words("Put a HOT mug_2, in-shelf 1!") == [
        "put", "a", "hot", "mug", "2", "in", "shelf", "1",
    ]  # fmt: skip
    assert best([1.0, 3.0, 3.0, 0.5], 3) == [1, 2, 0]
    assert best([1.0, 3.0, 3.0, 0.5], 3, least=2.0) == [1, 2]


def bank(*names):
    return SkillBank(
        tuple(Skill(name, "", f"about {name}", f"use {name}") for name in names)
    )


def test_bm25_shows_what_shares_words_with_the_goal_ties_by_name():
    chosen = ChosenSkills(bank("zebra", "egg", "mug", "apple"), "bm25", 8)
    task = tasks()[0]
    assert [s.name for s in chosen.choose(task, "egg and mug")] == ["egg", "mug"]
    assert chosen.choose(task, "nothing of that") == []
    few = ChosenSkills(bank("zebra", "egg", "mug"), "bm25", 1)
    assert [s.name for s in few.choose(task, "mug egg")] == ["egg"]


def test_chance_shows_eight_that_depend_on_the_task_and_the_seed_only():
    names = [f"skill-{k}" for k in range(20)]
    shuffled = random.Random(0).sample(names, 20)
    one, other = (ChosenSkills(bank(*n), "random", 8) for n in (names, shuffled))
    seen = set()
    for task in tasks():
        chosen = [s.name for s in one.choose(task, "")]
        assert len(set(chosen)) == 8
        assert chosen == [s.name for s in other.choose(task, "")]
        seen.add(tuple(chosen))
    assert len(seen) > 1


def test_a_long_context_shows_parts_whole_newest_first_and_never_the_task_itself():
    won = [
        acts(*["go"] * 5, success=True, task=f"train/{k}", goal=f"goal {k}")
        for k in range(6)
    ]
    skills = SkillBank((HELPFUL[0].skill(),))
    context = LongContext(skills, tuple(won), characters=400)
    text, left = context.text(tasks()[0])
    assert text.startswith(HELPFUL[0].name)
    assert "goal 0" not in text  # the task's own solution
    assert text.index("goal 1") < text.index("goal 2")
    assert len(text) <= 400
    assert text.count("Task:") + left == 5
    assert left > 0
    assert opening(context, tasks()[0]) == text
    everything = LongContext(skills, tuple(won), characters=10_000)
    assert everything.text(tasks()[0])[1] == 0
