"""SkillRL's library: what is shown, what is let in, and its files."""

import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from method_cases import opening, travelled

from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import Threaded
from reskill_jax.memories.settings import SkillrlSettings
from reskill_jax.memories.skill_entries import (
    GENERAL,
    MISTAKES,
    Entry,
    EntryEdit,
    about,
    from_document,
    to_document,
    tokens,
)
from reskill_jax.memories.skill_files import read_entries, save_entries, to_skill
from reskill_jax.memories.skill_library import SkillLibrary

HEAT = Task("t/1", "pick_heat_then_place", "train", "heat some egg")
LOOK = Entry(GENERAL, "Search once", "Do not search a place twice.")
WARM = Entry("heat", "Warm it up", "Heat the egg in the microwave.", "You hold an egg.")
COOL = Entry("cool", "Cool it down", "Cool the pan in the fridge.")
BAD = Entry(MISTAKES, "Leaving doors closed.", "Open them.", "It is forgotten.")
ALL = (LOOK, WARM, COOL, BAD)


def library(*entries, embedder=None, **settings):
    made = SkillLibrary(SkillrlSettings(**settings), entries)
    if embedder is None:
        return made
    return SkillLibrary(made.settings, entries, embedder)


def add(category, title, principle, when=""):
    return EntryEdit("add", Entry(category, title, principle, when))


def at(**angles):
    """An embedder by table: titles stand at these angles, in degrees."""

    def compute(texts):
        found = [next(a for t, a in angles.items() if t in text) for text in texts]
        turned = np.radians(found)
        return np.stack([np.cos(turned), np.sin(turned)], 1)

    return Threaded("table", lambda: compute)


def test_all_general_skills_own_ones_and_mistakes_are_shown():
    text = opening(library(*ALL), HEAT)
    assert text == (
        "General skills:\n- Search once: Do not search a place twice.\n\n"
        "Skills for this kind of task:\n"
        "- Warm it up: Heat the egg in the microwave. (You hold an egg.)\n\n"
        "Mistakes to avoid:\n- Do not: Leaving doors closed. Instead: Open them."
    )
    assert opening(library(), HEAT) == ""


def test_the_k_most_similar_above_the_threshold():
    """TopK({s: sim > threshold}, K): cosines .97, .87, .5, .17."""
    names = {"a": 60, "b": 15, "c": 80, "d": 30}
    entries = [Entry("heat", name, "x") for name in names]
    embedder = at(**{"heat some egg": 0}, **{f"{k}. x": v for k, v in names.items()})

    def shown(**settings):
        text = opening(library(*entries, embedder=embedder, **settings), HEAT)
        return [line[2] for line in text.splitlines()[1:]]

    assert shown() == ["b", "d", "a", "c"]
    assert shown(shown=3) == ["b", "d", "a"]
    assert shown(threshold=0.5) == ["b", "d"]
    assert shown(threshold=0.99) == []


def test_the_state_may_be_part_of_the_query():
    entries = [Entry("heat", "egg", "x"), Entry("heat", "room", "x")]
    embedder = at(
        **{"You are in a room": 90, "heat some egg": 0, "egg. x": 0, "room. x": 90}
    )
    shown = {
        how: opening(library(*entries, embedder=embedder, shown=1, retrieve=how), HEAT)
        for how in ("task", "state")
    }
    assert "egg: x" in shown["task"]
    assert "room: x" in shown["state"]


@pytest.mark.parametrize(
    ("category", "kind", "found"),
    [
        ("heat", "pick_heat_then_place_in_recep", True),
        ("pick_and_place", "pick_two_obj_and_place", True),
        ("pick_two_obj_and_place", "pick_and_place_simple", False),
        ("cool", "pick_heat_then_place_in_recep", False),
        ("---", "heat", False),
    ],
)
def test_files_of_others_name_types_by_fewer_words(category, kind, found):
    assert about(category, kind) == found


def test_the_same_may_be_right_for_two_types_but_not_again_in_general():
    again = [add("cool", WARM.title, WARM.principle, WARM.when)]
    assert not library(*ALL).admit(again, ("cool",), 3)[1]
    again = [add("heat", LOOK.title, LOOK.principle)]
    assert library(*ALL).admit(again, ("heat",), 3)[1] == {"duplicate": 1}
    again = [add(GENERAL, WARM.title, WARM.principle, WARM.when)]
    assert library(*ALL).admit(again, ("heat",), 3)[1] == {"duplicate": 1}
    as_mistake = [add(MISTAKES, LOOK.title, LOOK.principle)]  # in a list of its own
    assert not library(*ALL).admit(as_mistake, ("heat",), 3)[1]


@pytest.mark.parametrize(("angle", "refused"), [(36, True), (37.5, False)])
def test_near_duplicates_are_refused_at_cosine_point_eight(angle, refused):
    """Cosines .809 and .793."""
    embedder = at(**{"Search once": 0, "Look once": angle})
    found, why = library(LOOK, embedder=embedder).admit(
        [add(GENERAL, "Look once", "x")], (), 3
    )
    assert why == ({"duplicate": 1} if refused else {})
    assert len(found.entries) == 2 - refused


def test_what_is_not_fit_is_refused_by_reason():
    edits = [
        add("unknown", "a title", "a principle"),
        add(GENERAL, "", "a principle"),
        add(GENERAL, "long", "word " * 101),
        EntryEdit("refine", LOOK, "no-such-id"),
        add("heat", "one", "alpha beta"),
        add("heat", "two", "gamma delta"),
        add(GENERAL, "three", "epsilon zeta"),
        add(GENERAL, "four", "eta theta"),
    ]
    found, why = library(capacity=1).admit(edits, ("heat",), 2)
    assert [entry.title for entry in found.entries] == ["one", "three"]
    assert why == {
        "category": 1, "empty": 1, "too_long": 1, "target": 1, "full": 2,
    }  # fmt: skip
    _, why = library().admit(edits, ("heat",), 2)
    assert why["limit"] == 2


def test_a_refined_skill_keeps_its_place_and_category():
    better = EntryEdit("refine", Entry(GENERAL, "Warm it", "Use the stove."), WARM.id)
    found, why = library(*ALL).admit([better], ("heat",), 3)
    assert not why
    assert found.entries == (
        LOOK,
        Entry("heat", "Warm it", "Use the stove."),
        COOL,
        BAD,
    )
    _, why = library(*ALL, refine=False).admit([better], ("heat",), 3)
    assert why == {"refine": 1}


def test_a_hundred_tokens_are_the_most():
    assert tokens("one two, three.") == 5
    assert tokens("x" * 400) == 100  # as vocabularies cut words that they do not know


RELEASED = {
    "general_skills": [
        {"skill_id": "gen_001", "title": "T", "principle": "P", "when_to_apply": "W"}
    ],
    "task_specific_skills": {
        "heat": [{"skill_id": "x", "title": "H", "principle": "Q"}]
    },
    "common_mistakes": [
        {
            "mistake_id": "err_001",
            "description": "D",
            "why_it_happens": "Y",
            "how_to_avoid": "A",
        }
    ],
    "metadata": {"source": "somewhere"},
}


def test_both_spellings_of_the_released_files_are_read():
    wanted = (
        Entry(GENERAL, "T", "P", "W"),
        Entry("heat", "H", "Q"),
        Entry(MISTAKES, "D", "A", "Y"),
    )
    assert from_document(RELEASED) == wanted
    other = dict(RELEASED)
    other["query_type_skills"] = other.pop("task_specific_skills")
    assert from_document(other) == wanted
    twice = RELEASED | {"general_skills": RELEASED["general_skills"] * 2}
    assert from_document(twice) == wanted


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], "no JSON object"),
        ({"general_skills": {}}, "general_skills is no list"),
        ({"general_skills": ["x"]}, r"general_skills\[0\] is no JSON object"),
        (
            {"general_skills": [{"title": "x"}]},
            r"\[0\].principle is None: needs a text",
        ),
        ({"query_type_skills": []}, "query_type_skills is no object"),
        ({"task_specific_skills": {"a": 3}}, "a is no list"),
        # With another spelling a run would silently begin without any skill.
        ({"skills": RELEASED["general_skills"]}, "has none of general_skills, task_sp"),
        ({"general_skills": [{"title": "\u200b"}]}, r"\[0\].title is .*: needs a text"),
        (
            {"query_type_skills": {"\u200b": []}},
            "has the type '': needs a name of 1 to",
        ),
        ({"query_type_skills": {"x" * 61: []}}, "x': needs a name of 1 to 60 char"),
    ],
)
def test_what_is_no_library_is_named(tmp_path, document, message):
    with pytest.raises(ValueError, match=message):
        from_document(document)
    path = tmp_path / "skills.json"
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"skills.json: "):
        read_entries(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe{", b"[" * 100_000, b"NaN", b'{"general_skills": ['],
    ids=repr,
)
def test_damaged_files_are_named(tmp_path, content):
    path = tmp_path / "skills.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"skills.json: "):
        read_entries(path)


def test_long_texts_are_cut_to_what_a_skill_md_holds(tmp_path):
    skill = {
        "title": "t " * 1500,
        "principle": "p " * 1500,
        "when_to_apply": "w " * 1500,
    }
    (entry,) = from_document({"general_skills": [skill]})
    save_entries((entry,), tmp_path)
    assert read_entries(tmp_path) == (entry,)


def test_many_skills_of_one_title_have_directories_of_their_own(tmp_path):
    """Names end with the whole id: six of its digits are shared by some of 10,000."""
    entries = tuple(Entry(GENERAL, "!", f"Do {n}.") for n in range(10_000))
    assert len({to_skill(entry).name for entry in entries}) == 10_000
    longest = Entry(GENERAL, "word " * 50, "Do it.")
    save_entries((longest,), tmp_path)
    assert read_entries(tmp_path / "skills.json") == (read_entries(tmp_path))


def test_directories_are_read_by_the_rules_of_files(tmp_path):
    """A hand-written SKILL.md is cleaned like a text of the JSON form."""
    place = tmp_path / "general" / "by-hand" / "SKILL.md"
    place.parent.mkdir(parents=True)
    place.write_text("---\nname: by-hand\ndescription: Look\n---\n\nOne.\n\nTwo.\n")
    assert read_entries(tmp_path) == (Entry(GENERAL, "Look", "One. Two."),)
    (tmp_path / "general").rename(tmp_path / ("x" * 61))
    with pytest.raises(ValueError, match=f"{tmp_path}: .* needs a name of 1 to 60"):
        read_entries(tmp_path)


def test_a_type_with_a_name_too_long_for_a_directory_gets_no_skills():
    kind = "x" * 61
    found, why = library().admit([add(kind, "a", "b")], (kind,), 3)
    assert (found.entries, why) == ((), {"category": 1})


TEXT = st.text("abc <>:#'\"\\`é…[INST]/", min_size=1, max_size=20).map(
    lambda text: f"x{text}"
)
ENTRIES = st.lists(
    st.builds(
        Entry,
        st.sampled_from([GENERAL, MISTAKES, "heat", "a/b", ".x", "..", "two words"])
        | st.sampled_from(["skills.json", "%2Ex", ".general.new", "é" * 60, "🥚" * 60]),
        TEXT,
        TEXT,
        st.just("") | TEXT,
    ),
    max_size=5,
    unique_by=lambda entry: entry.id,
)


@settings(deadline=None)  # it writes files
@example([Entry(GENERAL, "x:", "x:", "x:")])  # a condition that says nothing new
@given(ENTRIES)
def test_files_give_back_what_was_written(tmp_path_factory, entries):
    clean = from_document(to_document(tuple(entries)))
    assert from_document(json.loads(json.dumps(to_document(clean)))) == clean
    place = tmp_path_factory.mktemp("library")
    save_entries((COOL, *clean), place)
    save_entries(clean, place)  # what was there before is gone
    assert set(read_entries(place / "skills.json")) == set(clean)
    assert set(read_entries(place)) == set(clean)


def test_it_travels_between_processes():
    first = library(*ALL, shown=3)
    assert travelled(first) == first
    assert travelled(first).hash == first.hash != library(*ALL).hash
