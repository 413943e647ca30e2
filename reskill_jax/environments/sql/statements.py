"""What an agent may say: statements that read, and MySQL's about the schema.

``SHOW TABLES``, ``SHOW DATABASES``, ``SHOW COLUMNS FROM t``, ``SHOW CREATE TABLE t``
and ``DESCRIBE t`` become queries on ``information_schema``.
"""

import re
from dataclasses import dataclass

MAX_LENGTH = 4_000  # characters of a statement

_READS = {"SELECT", "WITH", "VALUES"}
_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)*(\w*)", re.DOTALL)
# Line breaks and tabs apart, and halves of characters, which cannot be encoded.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_NAME = r"[`\"']?(\w+)[`\"']?"
_TABLE = rf"(?:{_NAME}\s*\.\s*)?{_NAME}"
_FROM = rf"(?:\s+(?:FROM|IN)\s+{_NAME})?"


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(words.replace(" ", r"\s+"), re.IGNORECASE)


_TABLES = _pattern(rf"SHOW(?: FULL)? TABLES{_FROM}(?: LIKE '([^']*)')?")
_DATABASES = _pattern("SHOW (?:DATABASES|SCHEMAS)")
_COLUMNS = _pattern(rf"SHOW(?: FULL)? (?:COLUMNS|FIELDS) (?:FROM|IN) {_TABLE}{_FROM}")
_DESCRIBE = _pattern(rf"(?:DESC|DESCRIBE|EXPLAIN)(?: TABLE)? {_TABLE}")
_CREATE = _pattern(rf"SHOW CREATE TABLE {_TABLE}")


class NotUnderstoodError(Exception):
    """The text is not a statement that can be run; the message says what can."""


@dataclass(frozen=True)
class Statement:
    """SQL that SQLite can run.

    Attributes:
        sql: the statement.
        parameters: values for its question marks.
        about: the table that it asks about; there is none of that name where the result
            is empty.
        database: the database that it names; "" for none.
    """

    sql: str
    parameters: tuple[str, ...] = ()
    about: str = ""
    database: str = ""


def read_statement(text: str) -> Statement:
    """Read what an agent wrote; whether it is right, SQLite will say.

    Raises:
        NotUnderstoodError: it is empty, too long, has control characters, or is no
            statement of a known kind.
    """
    if not text:
        raise NotUnderstoodError("No statement: write one between <sql> and </sql>.")
    if len(text) > MAX_LENGTH:
        raise NotUnderstoodError(f"A statement has at most {MAX_LENGTH} characters.")
    if _CONTROL.search(text):
        raise NotUnderstoodError("A statement cannot have control characters.")
    match = _FIRST_WORD.match(text)
    if match and match[1].upper() in _READS:
        return Statement(text)
    statement = _about_schema(text.strip().rstrip(";").strip())
    if statement is None:
        raise NotUnderstoodError(
            "Not possible. Write a SELECT statement, SHOW TABLES, DESCRIBE followed by "
            "the name of a table, or submit."
        )
    return statement


def _about_schema(text: str) -> Statement | None:
    if match := _TABLES.fullmatch(text):
        return Statement(
            "SELECT table_name AS tables FROM information_schema.tables "
            "WHERE table_name LIKE ?",
            (match[2] or "%",),
            database=match[1] or "",
        )
    if _DATABASES.fullmatch(text):
        return Statement(
            "SELECT schema_name AS database FROM information_schema.schemata"
        )
    if match := _CREATE.fullmatch(text):
        return Statement(
            "SELECT name AS 'table', sql AS 'create table' FROM main.sqlite_master "
            "WHERE type = 'table' AND name = ? COLLATE NOCASE",
            (match[2],),
            match[2],
            match[1] or "",
        )
    if match := _COLUMNS.fullmatch(text):
        return _describe(match[2], match[1] or match[3] or "")
    if match := _DESCRIBE.fullmatch(text):
        return _describe(match[2], match[1] or "")
    return None


def _describe(table: str, database: str) -> Statement:
    return Statement(
        "SELECT column_name AS field, column_type AS type, is_nullable AS 'null', "
        "column_key AS 'key' FROM information_schema.columns WHERE table_name = ? "
        "ORDER BY ordinal_position",
        (table,),
        table,
        database,
    )
