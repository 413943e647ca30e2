"""Which questions are in which split, and what is refused of a file."""

import collections
import gzip
import json
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from reskill_jax import build
from reskill_jax.environments.search.files import (
    Question,
    read_passages,
    read_questions,
)
from reskill_jax.environments.search.panels import REPORTED, panel
from reskill_jax.environments.search.settings import Settings
from reskill_jax.environments.search.spec import load

BESIDE = Path(__file__).parents[4] / "shared" / "data" / "search_qa"
DATA = Path(os.environ.get("SEARCH_QA_DATA", BESIDE))
SPLITS = ("train", "dev", *REPORTED)


def question(name, dataset="nq"):
    return Question(name, dataset, f"what is {name}", (f"it is {name}",))


def panels(questions, limit=None, splits=SPLITS):
    return {split: panel(lambda: questions, split, limit) for split in splits}


MANY = [
    question(f"{name}{i}", name)
    for name in ("nq", "hotpotqa", "2wiki")
    for i in range(100)
]
SOME = st.lists(st.sampled_from(MANY), min_size=1, unique_by=lambda one: one.id)


def test_every_question_is_in_one_split_and_tenths_are_as_documented():
    found = panels(MANY)
    ids = [task.id for one in found.values() for task in one]
    assert len(set(ids)) == len(ids) == len(MANY)
    sizes = {split: len(one) for split, one in found.items()}
    assert sizes["2wiki"] == 100  # not trained on: reported whole
    assert 0.65 < sizes["train"] / 200 < 0.75
    assert 0.07 < sizes["dev"] / 200 < 0.13
    assert {task.kind for task in found["dev"]} == {"nq", "hotpotqa"}
    assert {task.kind for task in found["nq"]} == {"nq"}


@settings(deadline=None, max_examples=30)
@given(SOME.filter(lambda some: any(one.dataset != "2wiki" for one in some)))
def test_splits_depend_neither_on_the_order_nor_on_what_else_is_there(some):
    for split in SPLITS:
        part = panel(lambda: some, split, None).tasks
        whole = panel(lambda: MANY, split, None).tasks
        assert tuple(task for task in whole if task in set(part)) == part
        assert panel(lambda: some, split, 3).tasks == part[:3]


@pytest.mark.parametrize("change", [{"question": "?"}, {"answers": ("another",)}])
def test_the_hash_of_a_panel_covers_what_is_asked_and_what_is_right(change):
    before = panel(lambda: MANY, "train", None)
    assert panel(lambda: MANY[::-1], "train", None).hash == before.hash
    name = before.tasks[0].id.partition("@")[0].partition("/")[2]
    changed = [
        msgspec.structs.replace(q, **change) if q.id == name else q for q in MANY
    ]
    assert panel(lambda: changed, "train", None).hash != before.hash
    held_out = panel(lambda: changed, "dev", None).hash
    assert held_out == panel(lambda: MANY, "dev", None).hash


def test_sets_of_other_names_are_known_and_sets_of_ones_own_are_splits():
    rows = [*MANY, question("x", "2wikimultihopqa"), question("y", "mine")]
    assert len(panels(rows)["2wiki"]) == 101
    assert [t.kind for t in panel(lambda: rows, "mine", None)] == ["mine"]
    with pytest.raises(
        ValueError, match="split 'theirs': choose train, dev, or one of"
    ):
        panel(lambda: rows, "theirs", None)


def test_a_reported_set_that_is_absent_is_skipped_by_name(caplog):
    spec = load(Settings(questions="sample"), workers=1)
    config = ConfigDict(
        {
            "env": {"name": "search"},
            "adapt": {"split": "train"},
            "strategy": {"name": "grpo", "skillrl": {}},
            "eval": {"splits": REPORTED, "max_tasks": 4, "panel": ()},
        }
    )
    found = build.load_panels(config, spec)
    assert list(found.held_out) == ["nq", "hotpotqa", "2wiki", "musique"]
    assert all(0 < len(one) <= 4 for one in found.held_out.values())
    # The environment says why, the run that nothing is evaluated on it.
    absent = ["popqa", "triviaqa", "bamboogle"]
    assert [r.args for r in caplog.records] == [(name,) for name in 2 * absent]


def test_nothing_to_train_on_is_refused():
    rows = [question("x", "musique")]
    for split in ("train", "dev"):
        with pytest.raises(ValueError, match="none of nq, hotpotqa, only musique"):
            panel(lambda: rows, split, None)


GOOD = {"id": "1", "dataset": "nq", "question": "?", "answers": ["yes"]}


@pytest.mark.parametrize(
    ("line", "what"),
    [
        (b"{", "truncated"),
        (b"[]", "array"),
        (b"\xff\xfe", "UTF-8|utf-8|malformed"),
        (json.dumps(GOOD | {"answers": []}).encode(), "answers has none"),
        (json.dumps(GOOD | {"answers": [" "]}).encode(), "answers has none"),
        (json.dumps(GOOD | {"answers": "yes"}).encode(), "array"),
        (json.dumps(GOOD | {"question": "\n"}).encode(), "question is blank"),
        (json.dumps(GOOD | {"id": 1}).encode(), "str"),
        (b"", "truncated"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, what):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=f"line 2 cannot be read: .*({what})"):
        read_questions(str(path))


def test_files_that_are_missing_empty_or_damaged_are_refused(tmp_path):
    for path in ("", str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(
            ValueError, match=r"questions='.*': name a file of JSON lines"
        ):
            read_questions(path)
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ValueError, match=r"passages='.*empty' is empty"):
        read_passages(str(empty))
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(json.dumps(GOOD).encode() * 50)[:-20])
    with pytest.raises(
        ValueError, match=r"questions='.*cut.gz': line 1 cannot be read"
    ):
        read_questions(str(cut))
    texts = "".join(f'{{"id": "{k}", "contents": "{k * k}"}}\n' for k in range(999))
    whole = gzip.compress(texts.encode())
    for place in range(20, 400, 20):  # some are an error of zlib, others of the sum
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        cut.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"passages='.*cut.gz': line"):
            read_passages(str(cut))


def test_passages_have_title_and_text_or_contents_and_may_be_packed(tmp_path):
    path = tmp_path / "passages.jsonl.gz"
    rows = [{"id": "a", "title": "T", "text": "x"}, {"id": "b", "contents": '"T"\nx'}]
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert [p.contents for p in read_passages(str(path))] == ['"T"\nx'] * 2
    path.write_bytes(gzip.compress(b'{"id": "c"}'))
    with pytest.raises(ValueError, match=r"line 1 .* neither text nor contents"):
        read_passages(str(path))


def test_the_sample_has_an_answer_in_the_passages_of_every_question():
    passages = {p.id: p for p in read_passages("sample")}
    for one in read_questions("sample"):
        text = " ".join(passages[name].contents for name in one.supporting_passage_ids)
        assert any(answer in text for answer in one.answers), one


def test_the_published_questions_are_divided_as_documented():
    if not DATA.is_dir():
        pytest.skip(f"needs the questions in {DATA}")
    questions = read_questions(str(DATA / "questions.jsonl"))
    found = panels(questions)
    assert collections.Counter(q.dataset for q in questions) == {
        "nq": 2655, "hotpotqa": 872, "musique": 300, "2wiki": 164,
    }  # fmt: skip
    assert {s: (len(one), one.hash) for s, one in found.items() if one.tasks} == {
        "train": (2461, "a54638171b82"),
        "dev": (326, "570f59509453"),
        "nq": (547, "2206021357c6"),
        "hotpotqa": (193, "28956fb6284d"),
        "2wiki": (164, "2ccde9bffc1c"),
        "musique": (300, "d4b402c13815"),
    }
