"""Which questions are in which split; nothing of this is published.

A question is asked in two wordings that share a gold, so that splits are made by
(database, gold), and some databases are held out as a whole. Everything follows from
hashes of names and golds: more data would move no question.

    train    easy and medium questions
    dev      a tenth or so of all kinds, for choices
    test     held-out golds of the same databases, mostly hard and extra
    unseen   databases that no other split has
"""

import hashlib
import json
import re
from functools import cache

from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.sql.prepare import Prepared, Question
from reskill_jax.environments.task import Task

SPLITS = ("train", "dev", "test", "unseen")
UNSEEN = 0.25  # share of databases
# Shares of golds in train and in dev, by hardness; test has the others. The paper
# reports easy, hard and extra, which is why medium is what is trained on most.
SHARES = {"easy": (0.5, 0.1), "medium": (0.8, 0.1)}
_OTHERS = (0.0, 0.15)  # hard and extra


def split_of(question: Question) -> str:
    """Return the split of a question."""
    if _place(question.db) < UNSEEN:
        return "unseen"
    train, dev = SHARES.get(question.hardness, _OTHERS)
    place = _place(question.db, _same(question.gold))
    return "train" if place < train else "dev" if place < train + dev else "test"


def panel(prepared: Prepared, split: str, limit: int | None) -> TaskPanel:
    """Return the tasks of a split, sorted by kind and id, whatever their file's order.

    Raises:
        ValueError: there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: choose one of {', '.join(SPLITS)}")
    tasks = [
        _task(prepared, question, split)
        for question in prepared.questions
        if split_of(question) == split
    ]
    tasks.sort(key=lambda task: (task.kind, task.id))
    return TaskPanel(evenly_spaced(tasks, limit))


def _task(prepared: Prepared, question: Question, split: str) -> Task:
    # The content of the database is part of what is asked, and so of the id.
    content = prepared.content[question.db], question.gold, question.query
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]
    source = {
        "path": str(prepared.database(question.db)),
        "database": question.db,
        "question": " ".join(question.query.split()),
        "gold": question.gold,
    }
    kind = question.hardness
    return Task(f"{question.db}/{digest}", kind, split, json.dumps(source))


def _same(gold: str) -> str:
    """Write golds alike that differ in case, blanks or a semicolon only."""
    return " ".join(re.sub(";", " ", gold.casefold()).split())


@cache
def _place(*names: str) -> float:
    """Return a number in [0, 1) that follows from names only."""
    digest = hashlib.sha256("\n".join(names).encode()).digest()
    return int.from_bytes(digest[:7]) / 2**56
