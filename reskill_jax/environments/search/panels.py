"""Which questions are trained on, chosen by, and reported.

NQ and HotpotQA are divided by a hash of the question's id: seven tenths are for
training, one for choices (`dev`), two are reported. The other sets are only reported,
whole. So a question stays where it is whatever else a file holds, and in whatever
order. The published division is not public; this one is ours.
"""

import hashlib
import logging
from collections.abc import Callable, Sequence

import msgspec

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.search.files import Question
from reskill_jax.environments.task import Task
from reskill_jax.environments.tfds import read, splits

TRAINED = ("nq", "hotpotqa")
# As the paper reports them: two that are trained on, five that are not.
REPORTED = (*TRAINED, "popqa", "triviaqa", "2wiki", "musique", "bamboogle")
_ALIASES = {
    "2wikimultihopqa": "2wiki",
    "natural_questions": "nq",
    "hotpot_qa": "hotpotqa",
}

_log = logging.getLogger(__name__)


class Source(msgspec.Struct, frozen=True):
    """What a task's `source` holds, as JSON."""

    question: str
    answers: tuple[str, ...]


def panel(
    questions: Callable[[], Sequence[Question]], split: str, limit: int | None
) -> TaskPanel:
    """Return the tasks of a split, in the order of a hash of their ids.

    Args:
        questions: reads them.
        split: train, dev, or the name of a set. One of `REPORTED` that the file lacks
            has no tasks, and a warning names it.
        limit: at most so many, the first ones.

    Raises:
        ValueError: there is no such split, or nothing to train on.
    """
    sets = {split} if split not in ("train", "dev") else set(TRAINED)
    known = {_name(q) for q in questions()}
    if split in ("train", "dev") and not known & sets:
        raise ValueError(
            f"questions has none of {', '.join(TRAINED)}, only "
            f"{', '.join(sorted(known))}: name a file with one of them"
        )
    if not known & sets:
        if split not in REPORTED:
            raise ValueError(
                f"split {split!r}: choose train, dev, or one of "
                f"{', '.join(sorted({*known, *REPORTED}))}"
            )
        _log.warning("the file of questions has none of %s: it is skipped", split)
    chosen = [q for q in questions() if _name(q) in sets and _part(q) == split]
    chosen.sort(key=lambda question: _digest(question.id))
    return TaskPanel(tuple(_task(question, split) for question in chosen[:limit]))


def read_panel(source: str, split: str, limit: int | None) -> TaskPanel:
    """Return the tasks of a split as `panel` does, from a TensorFlow dataset.

    Raises:
        ValueError: there is no such split.
        FileNotFoundError: there is no such dataset.
    """
    if split in REPORTED and split not in splits(source):
        _log.warning("%s has none of %s: it is skipped", source, split)
        return TaskPanel(())
    return TaskPanel(tuple(read(source, split)[:limit]))


def _part(question: Question) -> str:
    """Return the split that a question belongs to."""
    name = _name(question)
    if name not in TRAINED:
        return name
    tenth = int(_digest(question.id), 16) % 10
    return "train" if tenth < 7 else "dev" if tenth == 7 else name


def _task(question: Question, split: str) -> Task:
    """Make a task; its id, and so a panel's hash, covers the content."""
    source = Source(question.question, question.answers)
    content = msgspec.json.encode(source).decode()
    kind = _name(question)
    name = f"{kind}/{question.id}@{_digest(content)[:8]}"
    return Task(name, kind, split, content)


def _name(question: Question) -> str:
    return _ALIASES.get(question.dataset, question.dataset)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
