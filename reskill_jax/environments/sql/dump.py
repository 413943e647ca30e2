"""Reads what `mysqldump` writes, and makes one SQLite file per database of it.

Types keep their MySQL names, so that ``DESCRIBE`` shows what the dump says; SQLite
gives each the fitting affinity. Two things make comparisons those of MySQL's default
collation: text columns ignore case (``COLLATE NOCASE``), and blanks at the end of texts
are dropped. Indexes, collations and engines are left out.
"""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Value = str | int | float | None

_TOKEN = re.compile(
    r"""(?P<quoted>'(?:[^'\\]|\\.|'')*'|`[^`]*`)"""
    r"""|(?P<comment>/\*.*?\*/|--[^\n]*)|(?P<end>;)|[^'`/;-]+|.""",
    re.DOTALL,
)
_VALUE = re.compile(
    r"\s*(?:'(?P<text>(?:[^'\\]|\\.|'')*)'|(?P<null>NULL)|(?P<number>-?[\d.]+(?:e[-+]?\d+)?))"
    r"\s*(?P<next>[,)])",
    re.DOTALL | re.IGNORECASE,
)
_ROW = re.compile(r"[\s,]*\(")
_ESCAPE = re.compile(r"\\(.)|''", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "Z": "\x1a"}
# Of no use in a file that is only read.
_LEFT_OUT = (
    "CREATE USER", "GRANT", "FLUSH", "CREATE DATABASE", "DROP TABLE", "LOCK", "UNLOCK",
)  # fmt: skip
_TAKEN = {"main", "temp", "information_schema"}  # SQLite's, and what describes all
_TEXT_COLUMN = re.compile(
    r"`[^`]+` ((?:tiny|medium|long)?text|varchar|char)\b", re.IGNORECASE
)
_NO_SUCH_THING = re.compile(r" (?:COLLATE \w+|CHARACTER SET \w+|AUTO_INCREMENT)")


@dataclass
class Table:
    """A table of a dump.

    Attributes:
        columns: definitions of columns and keys, in SQLite's words.
        rows: its content.
    """

    columns: list[str]
    rows: list[list[Value]] = field(default_factory=list)


def read_dump(text: str) -> dict[str, dict[str, Table]]:
    """Read a dump.

    Args:
        text: as ``mysqldump --databases`` writes it.

    Returns:
        Tables by name, by name of the database.

    Raises:
        ValueError: a statement that is not known, or a broken one; the message quotes
            its beginning.
    """
    databases: dict[str, dict[str, Table]] = {}
    tables: dict[str, Table] | None = None
    for statement in _statements(text):
        if match := re.fullmatch(r"USE `(\w+)`", statement):
            if match[1].casefold() in _TAKEN:
                raise ValueError(f"the dump has a database {match[1]}: rename it")
            tables = databases.setdefault(match[1], {})
        elif statement.startswith(_LEFT_OUT):
            continue
        elif tables is None:
            raise ValueError(f"the dump names no database before {statement[:60]!r}")
        elif match := re.match(r"CREATE TABLE `(\w+)` \((.*)\)", statement, re.DOTALL):
            tables[match[1]] = Table(_columns(match[2]))
        elif match := re.match(r"INSERT INTO `(\w+)` VALUES", statement):
            tables[match[1]].rows += _rows(statement, match.end())
        else:
            raise ValueError(f"the dump has an unknown statement {statement[:60]!r}")
    return databases


def write_database(path: Path, tables: dict[str, Table]) -> None:
    """Write the tables of one database as a new SQLite file.

    Raises:
        ValueError: SQLite has no such table, or its rows do not fit.
    """
    connection = sqlite3.connect(path)
    try:
        for name, table in tables.items():
            try:
                _write(connection, name, table)
            except sqlite3.Error as error:
                raise ValueError(f"table {name} cannot be written: {error}") from error
        connection.commit()
    finally:
        connection.close()


def _write(connection: sqlite3.Connection, name: str, table: Table) -> None:
    columns = ",\n  ".join(table.columns)
    connection.execute(f"CREATE TABLE `{name}` (\n  {columns}\n)")
    if table.rows:
        places = ",".join("?" * len(table.rows[0]))
        connection.executemany(f"INSERT INTO `{name}` VALUES ({places})", table.rows)


def _statements(text: str) -> Iterator[str]:
    parts: list[str] = []
    for token in _TOKEN.finditer(text):
        if token["end"]:
            if statement := "".join(parts).strip():
                yield statement
            parts = []
        elif not token["comment"]:
            parts.append(token[0])
    if rest := "".join(parts).strip():
        raise ValueError(f"the dump breaks off in {rest[:60]!r}")


def _columns(body: str) -> list[str]:
    """Translate the lines of a definition; mysqldump writes one column or key each."""
    lines = (line.strip().removesuffix(",") for line in body.splitlines())
    return [_column(line) for line in lines if line and not line.startswith("KEY ")]


def _column(line: str) -> str:
    if not line.startswith("`"):
        line = re.sub(r"^UNIQUE KEY `\w+`", "UNIQUE", line)
        return re.sub(r"\(\d+\)", "", line)  # lengths of key prefixes
    line = _NO_SUCH_THING.sub("", line)
    return f"{line} COLLATE NOCASE" if _TEXT_COLUMN.match(line) else line


def _rows(statement: str, position: int) -> Iterator[list[Value]]:
    while match := _ROW.match(statement, position):
        row: list[Value] = []
        following = ","
        while following == ",":
            value = _VALUE.match(statement, match.end())
            if value is None:
                quoted = statement[match.end() : match.end() + 40]
                raise ValueError(f"the dump has a value that cannot be read: {quoted}")
            row.append(_value(value))
            match, following = value, value["next"]
        yield row
        position = match.end()
    if rest := statement[position:].strip():
        raise ValueError(f"the dump has rows that cannot be read: {rest[:40]!r}")


def _value(match: re.Match[str]) -> Value:
    if match["null"]:
        return None
    if number := match["number"]:
        return int(number) if number.lstrip("-").isdecimal() else float(number)
    text = _ESCAPE.sub(
        lambda m: _ESCAPES.get(m[1], m[1]) if m[1] else "'", match["text"]
    )
    return text.rstrip(" ")
