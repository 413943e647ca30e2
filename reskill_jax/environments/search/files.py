"""Reads the two files of Search QA: questions and passages, as JSON lines.

Both may come from anywhere, so every line is checked, and what is wrong with one names
the file and the line.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from reskill_jax.environments.search.settings import SAMPLE

SAMPLE_DIRECTORY = Path(__file__).with_name("sample")
_T = TypeVar("_T")


class Question(msgspec.Struct, frozen=True):
    """One line of the file of questions.

    Attributes:
        id: unique.
        dataset: where it is from, e.g. ``hotpotqa``.
        question: the text.
        answers: right ones, any of which counts.
        supporting_passage_ids: of passages that hold the answer; may be unknown.
    """

    id: str
    dataset: str
    question: str
    answers: tuple[str, ...]
    supporting_passage_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be asked or scored.

        Raises:
            ValueError: something is blank.
        """
        for name in ("id", "dataset", "question"):
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is blank")
        if not any(answer.strip() for answer in self.answers):
            raise ValueError("answers has none that is not blank")


class Passage(msgspec.Struct, frozen=True):
    """One line of the file of passages: title and text, or both in `contents`.

    Attributes:
        id: unique.
        title: may be empty.
        text: without the title.
        contents: the title in quotes, a new line and the text: Search-R1's form. Made
            from the other two where it is empty.
    """

    id: str
    title: str = ""
    text: str = ""
    contents: str = ""

    def __post_init__(self) -> None:
        """Complete `contents`.

        Raises:
            ValueError: there is no text.
        """
        if not self.contents:
            contents = f'"{self.title}"\n{self.text}'
            msgspec.structs.force_setattr(self, "contents", contents)
        if not (self.text or self.contents.partition("\n")[2] or self.title).strip():
            raise ValueError("there is neither text nor contents")


def read_questions(path: str) -> list[Question]:
    """Read a file of questions, in its order.

    Args:
        path: of the file, plain or .gz; or ``sample``.

    Raises:
        ValueError: there is no such file, or a line of it is wrong.
    """
    return list(_read("questions", path, Question))


def read_passages(path: str) -> list[Passage]:
    """Read a file of passages, in its order; see `read_questions`."""
    return list(_read("passages", path, Passage))


def _read(name: str, path: str, kind: type[_T]) -> Iterator[_T]:
    decoder = msgspec.json.Decoder(kind)
    place = SAMPLE_DIRECTORY / f"{name}.jsonl" if path == SAMPLE else Path(path)
    if not path or not place.is_file():
        raise ValueError(
            f"{name}={path!r}: name a file of JSON lines, or {SAMPLE!r} for the few "
            "that the package ships"
        )
    read = 0
    try:
        with gzip.open(place) if place.suffix == ".gz" else place.open("rb") as lines:
            for line in lines:
                yield decoder.decode(line)
                read += 1
    except (ValueError, EOFError, OSError, zlib.error) as error:  # and msgspec's
        raise ValueError(
            f"{name}={path!r}: line {read + 1} cannot be read: {error}"
        ) from error
    if not read:
        raise ValueError(f"{name}={path!r} is empty")
