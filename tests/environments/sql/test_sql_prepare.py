"""Preparation: whole or not at all, checked, counted; splits that share nothing."""

import json
import shutil
import subprocess
import sys
from collections import Counter

import msgspec
import pytest
from published_sql import published_root

from reskill_jax.environments.sql import prepare as module
from reskill_jax.environments.sql.database import Database
from reskill_jax.environments.sql.prepare import DUMP, QUESTIONS, SAMPLE, prepare
from reskill_jax.environments.sql.score import score
from reskill_jax.environments.sql.settings import Settings
from reskill_jax.environments.sql.spec import load
from reskill_jax.environments.sql.tasks import SPLITS, panel, split_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "intercode_sql"


@pytest.fixture
def sources(tmp_path):
    return shutil.copytree(SAMPLE, tmp_path / "sources")


def test_degenerate_questions_are_left_out_and_counted():
    prepared = prepare(sample=True)
    assert len(prepared.questions) == 35
    assert prepared.left_out == {
        "empty database": {"easy": 1}, "empty result": {"easy": 1},
    }  # fmt: skip
    shown = module.table(prepared).splitlines()
    assert [line.split()[-1] for line in shown if "left out" in line] == ["1", "1"]
    assert [line.split()[-1] for line in shown if "counted" in line] == ["35"]


def test_questions_that_cannot_be_played_are_counted_by_reason(sources):
    rows = json.loads((sources / QUESTIONS).read_text())
    bad = {
        "db": "harbour",
        "query": "?",
        "hardness": "extra",
        "gold": "SELECT nonsense",
    }
    rows += [rows[0], bad, bad | {"db": "no_such_database"}]
    (sources / QUESTIONS).write_text(json.dumps(rows))
    left_out = prepare(str(sources)).left_out
    assert left_out["asked twice"] == {"easy": 1}
    assert left_out["gold fails"] == left_out["no database"] == {"extra": 1}


def test_it_is_made_once_and_other_sources_are_other_data(cache, sources, monkeypatch):
    first = prepare(str(sources))
    assert prepare(sample=True).folder == first.folder  # the same content
    monkeypatch.setattr(module, "read_dump", None)  # nothing is made any more
    assert prepare(str(sources)) == first
    monkeypatch.undo()
    monkeypatch.setenv("RESKILL_CACHE", str(cache.parent))
    dump = (sources / DUMP).read_text()
    (sources / DUMP).write_text(dump.replace("Grey Heron", "Gray Heron"))
    second = prepare(str(sources))
    assert second.folder != first.folder
    changed = {n for n in first.content if first.content[n] != second.content[n]}
    assert changed == {"harbour"}
    before, after = panel(first, "test", None), panel(second, "test", None)
    assert before.hash != after.hash
    assert [split_of(q) for q in first.questions] == [
        split_of(q) for q in second.questions
    ]


def test_a_failure_leaves_nothing_behind(cache, sources, monkeypatch):
    monkeypatch.setattr(module, "_content", None)  # fails after the databases
    with pytest.raises(TypeError):
        prepare(str(sources))
    assert list(cache.iterdir()) == []


def test_processes_that_prepare_at_once_get_the_same(tmp_path):
    program = "from reskill_jax.environments.sql.prepare import prepare; print(prepare(sample=True).folder)"  # noqa: E501
    runs = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert len({run.communicate()[0] for run in runs}) == 1
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert [p.name for p in (tmp_path / "cache" / "intercode_sql").iterdir()] == [
        prepare(sample=True).folder.name
    ]


@pytest.mark.parametrize("name", ["harbour.sqlite", "tasks.json"])
def test_a_damaged_file_is_named_with_the_way_out(name):
    folder = prepare(sample=True).folder
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=f"{name} is damaged: remove {folder}, it"):
        prepare(sample=True)
    path.unlink()
    with pytest.raises(ValueError, match="is damaged"):
        prepare(sample=True)
    (folder / "manifest.json").write_text("{")
    with pytest.raises(
        ValueError, match=f"manifest.json is not JSON.*: remove {folder}"
    ):
        prepare(sample=True)


def test_sources_that_are_missing_or_broken(tmp_path, sources, monkeypatch):
    monkeypatch.delenv("INTERCODE_SQL_DATA", raising=False)
    with pytest.raises(
        ValueError, match=r"INTERCODE_SQL_DATA is not set: .*sample=True"
    ):
        prepare()
    with pytest.raises(FileNotFoundError, match="intercode-bench"):
        prepare(str(tmp_path / "nowhere"))
    monkeypatch.setenv("INTERCODE_SQL_DATA", str(sources))
    assert prepare().folder == prepare(sample=True).folder
    for text in ("{}", '[{"db": 1}]', "nonsense"):
        (sources / QUESTIONS).write_text(text)
        with pytest.raises(ValueError, match="no data of InterCode-SQL"):
            prepare()


def test_settings_name_what_is_wrong():
    with pytest.raises(ValueError, match="observation_characters=10: must be 200"):
        Settings(observation_characters=10)
    with pytest.raises(ValueError, match="sample=True with root='x'"):
        Settings(root="x", sample=True)


def splits(prepared):
    return {split: panel(prepared, split, None).tasks for split in SPLITS}


def assert_splits_share_nothing(tasks):
    """Neither a (database, gold) nor, for unseen, a database."""
    asked = {
        split: {
            (source["database"], source["gold"].casefold().rstrip("; "))
            for task in tasks[split]
            for source in [json.loads(task.source)]
        }
        for split in tasks
    }
    for split in SPLITS:
        others = set().union(*(asked[s] for s in SPLITS if s != split))
        assert tasks[split]
        assert not asked[split] & others
    unseen = {name for name, _ in asked["unseen"]}
    assert not unseen & {name for s in SPLITS[:3] for name, _ in asked[s]}


def test_splits_of_the_sample_share_nothing_and_hold_everything():
    prepared = prepare(sample=True)
    tasks = splits(prepared)
    assert_splits_share_nothing(tasks)
    assert sum(map(len, tasks.values())) == len(prepared.questions)
    assert {task.kind for task in tasks["train"]} == {"easy", "medium"}
    assert {"easy", "hard", "extra"} <= {task.kind for task in tasks["test"]}


def test_panels_do_not_depend_on_the_order_of_the_file(sources):
    rows = json.loads((sources / QUESTIONS).read_text())
    prepared = prepare(str(sources))
    (sources / QUESTIONS).write_text(json.dumps(rows[::-1]))
    other = prepare(str(sources))
    assert other.folder != prepared.folder
    for split in SPLITS:
        assert panel(other, split, None).hash == panel(prepared, split, None).hash


def test_more_questions_move_none():
    prepared = prepare(sample=True)
    question = msgspec.structs.replace(prepared.questions[0], gold="SELECT 1 + 1")
    more = (question, *prepared.questions)
    assert [split_of(q) for q in more[1:]] == [split_of(q) for q in prepared.questions]


def test_a_limit_keeps_all_kinds_and_an_unknown_split_is_refused():
    spec = load(Settings(sample=True), workers=1)
    assert {t.kind for t in spec.panel("test", 6)} >= {"easy", "hard", "extra"}
    with pytest.raises(ValueError, match="split='valid': choose one of train, dev"):
        spec.panel("valid", None)


# ---- the published data, where it is


def test_the_published_questions_are_counted_as_documented():
    prepared = prepare(published_root())
    assert Counter(q.hardness for q in prepared.questions) == {
        "easy": 228, "medium": 398, "hard": 156, "extra": 154,
    }  # fmt: skip
    left_out = {reason: sum(c.values()) for reason, c in prepared.left_out.items()}
    assert left_out == {"empty database": 62, "empty result": 36}
    tasks = splits(prepared)
    assert_splits_share_nothing(tasks)
    counts = {split: len(tasks[split]) for split in SPLITS}
    assert counts == {"train": 378, "dev": 85, "test": 345, "unseen": 128}


def test_every_published_gold_that_counts_scores_one():
    prepared = prepare(published_root())
    for name in {question.db for question in prepared.questions}:
        database, again = (Database(prepared.database(name), name) for _ in range(2))
        for question in prepared.questions:
            if question.db == name:
                rows = database.query(question.gold).rows
                assert score(rows, again.query(question.gold).rows) == 1, question
        database.close()
        again.close()
