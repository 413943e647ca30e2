"""Prepares InterCode-SQL once: SQLite files, and the questions that can be counted.

    python -m reskill_jax.environments.sql.prepare --root=DIRECTORY

makes them in the cache, where every run finds them, and prints how many questions there
are and which were left out. Left out are questions whose databases are empty and those
whose golds have an empty result, since any query without rows would answer them.
"""

import argparse
import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from reskill_jax.environments.sql.database import Database, QueryError
from reskill_jax.environments.sql.dump import Table, read_dump, write_database
from reskill_jax.storage import cache_directory, read_json
from reskill_jax.terminal import fail

VARIABLE = "INTERCODE_SQL_DATA"
QUESTIONS, DUMP = "ic_spider_dev.json", "ic_spider_dbs.sql"
SAMPLE = Path(__file__).with_name("sample")
_MANIFEST = "manifest.json"
_TASKS = "tasks.json"
_FORMAT = 2  # to be raised when the same sources give other files
_GET_DATA = (
    f"{QUESTIONS} and {DUMP} are part of princeton-nlp/intercode; the package "
    "intercode-bench has the dump, too, as spider_dev.sql. sample=True plays a few "
    "questions that ship with this package"
)


class Question(msgspec.Struct, frozen=True):
    """One question, in the fields of InterCode's file.

    Attributes:
        db: name of its database.
        gold: the query that answers it.
        query: the question.
        hardness: easy, medium, hard or extra.
    """

    db: str
    gold: str
    query: str
    hardness: str


@dataclass(frozen=True)
class Prepared:
    """What was prepared.

    Attributes:
        folder: where it is; ``<database>.sqlite`` are the databases.
        questions: those that count.
        content: hash of each database's content, by name.
        left_out: how many questions were left out, by reason, then by hardness.
    """

    folder: Path
    questions: tuple[Question, ...]
    content: Mapping[str, str]
    left_out: Mapping[str, Mapping[str, int]]

    def database(self, name: str) -> Path:
        """Return the file of a database."""
        return self.folder / f"{name}.sqlite"


def prepare(root: str = "", *, sample: bool = False) -> Prepared:
    """Return the data, made in the cache where it is missing.

    It is a function of the two sources, whose hashes name its folder. The folder
    appears whole, by one rename; its files are checked every time.

    Args:
        root: directory of the sources; empty: the one in INTERCODE_SQL_DATA.
        sample: take the sources that ship with the package.

    Raises:
        ValueError: there is no root, or a source or the cache is broken.
        FileNotFoundError: a source is missing.
    """
    source = SAMPLE if sample else _root(root)
    dump, questions = (_read(source / name) for name in (DUMP, QUESTIONS))
    sources = hashlib.sha256(f"{_FORMAT} {_hash(dump)} {_hash(questions)}".encode())
    folder = cache_directory() / "intercode_sql" / sources.hexdigest()[:12]
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as partial:
            whole = Path(partial, "data")
            _make(whole, source, dump, questions)
            try:
                whole.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    return _load(folder)


def _root(root: str) -> Path:
    root = root or os.environ.get(VARIABLE, "")
    if not root:
        raise ValueError(
            f"root='' and the variable {VARIABLE} is not set: set one of them to the "
            f"directory with the data. {_GET_DATA}"
        )
    return Path(root)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileNotFoundError(f"cannot read {path}: {error}. {_GET_DATA}") from error


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _make(folder: Path, source: Path, dump: bytes, questions: bytes) -> None:
    folder.mkdir()
    try:
        tables = read_dump(dump.decode())
        for name in tables:
            write_database(folder / f"{name}.sqlite", tables[name])
        asked = msgspec.json.decode(questions, type=list[Question])
    except (ValueError, KeyError) as error:
        raise ValueError(f"{source} has no data of InterCode-SQL: {error}") from error
    reasons = [*_reasons_to_leave_out(folder, tables, asked)]
    counted = [q for q, reason in zip(asked, reasons, strict=True) if not reason]
    left_out: dict[str, Counter[str]] = {}
    for question, reason in zip(asked, reasons, strict=True):
        if reason:
            left_out.setdefault(reason, Counter())[question.hardness] += 1
    (folder / _TASKS).write_bytes(msgspec.json.encode(counted))
    manifest = {
        "files": {path.name: _hash(path.read_bytes()) for path in folder.iterdir()},
        "content": {name: _content(tables[name]) for name in tables},
        "left_out": left_out,
    }
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))


def _content(tables: dict[str, Table]) -> str:
    """Hash what a database holds, whichever SQLite wrote its file."""
    content = [(name, table.columns, table.rows) for name, table in tables.items()]
    return _hash(json.dumps(content).encode())[:12]


def _reasons_to_leave_out(
    folder: Path, tables: dict[str, dict[str, Table]], questions: list[Question]
) -> Iterator[str]:
    """Yield for each question why it does not count; "" where it does."""
    opened: dict[str, Database] = {}
    seen: set[Question] = set()
    try:
        for question in questions:
            name = question.db
            if question in seen:
                yield "asked twice"
            elif name not in tables:
                yield "no database"
            elif not any(table.rows for table in tables[name].values()):
                yield "empty database"
            else:
                if name not in opened:
                    opened[name] = Database(folder / f"{name}.sqlite", name)
                yield _reason(opened[name], question.gold)
            seen.add(question)
    finally:
        for database in opened.values():
            database.close()


def _reason(database: Database, gold: str) -> str:
    try:
        return "" if database.query(gold).rows else "empty result"
    except QueryError:
        return "gold fails"


def _load(folder: Path) -> Prepared:
    try:
        manifest: dict[str, Any] = read_json(folder / _MANIFEST)
    except ValueError as error:
        raise ValueError(f"{error}: remove {folder}, it will be made again") from error
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _hash(path.read_bytes()) != digest:
            raise ValueError(
                f"{path} is damaged: remove {folder}, it will be made again"
            )
    questions = msgspec.json.decode(
        (folder / _TASKS).read_bytes(), type=tuple[Question, ...]
    )
    return Prepared(folder, questions, manifest["content"], manifest["left_out"])


def table(prepared: Prepared) -> str:
    """Say how many questions there are, by database and hardness."""
    kinds = sorted({question.hardness for question in prepared.questions})
    kinds = sorted({*kinds, *(k for c in prepared.left_out.values() for k in c)})
    counts: dict[str, Counter[str]] = {}
    for question in prepared.questions:
        counts.setdefault(question.db, Counter())[question.hardness] += 1
    rows = [(name, counts[name]) for name in sorted(counts)]
    rows.append(("counted", sum((c for _, c in rows), Counter())))
    rows += [(f"left out: {r}", Counter(c)) for r, c in prepared.left_out.items()]
    lines = [f"{'':28}" + "".join(f"{kind:>8}" for kind in (*kinds, "all"))]
    for name, count in rows:
        cells = (*(count[kind] for kind in kinds), count.total())
        lines.append(f"{name:28}" + "".join(f"{cell:8}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Parse flags, prepare and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", default="", help=f"default: ${VARIABLE}")
    parser.add_argument("--sample", action="store_true", help="what ships with us")
    flags = parser.parse_args()
    try:
        prepared = prepare(flags.root, sample=flags.sample)
    except (ValueError, OSError) as error:
        fail(error)
    print(table(prepared))
    print(prepared.folder)


if __name__ == "__main__":
    main()
