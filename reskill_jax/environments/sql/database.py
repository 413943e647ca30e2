"""Read-only access to one SQLite file, for statements that nobody has checked.

Nothing can be changed: the file is opened as immutable, and SQLite's authorizer lets
only reading pass. Every statement ends: its steps are counted, which repeats where a
time would not; a time limit stands behind that for what is slow in few steps. Memory,
rows and lengths are limited, too.
"""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from reskill_jax.environments.sql.functions import FORBIDDEN, add_functions

Row = tuple[object, ...]

# All published golds stay below 1,860 rows, 54,000 steps and 60 characters per value.
MAX_ROWS = 5_000
MAX_STEPS = 2_000_000  # of SQLite's virtual machine, 0.1 to 0.2 s
MAX_SECONDS = 10.0  # for steps on long texts
MAX_CHARACTERS = 1_000_000  # of a result
MAX_HEAP = 64 * 2**20  # bytes, of all connections of the process
_STEPS_PER_CALL = 100  # one of them may take tens of milliseconds
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 8_000,  # bytes of a value
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 16_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
}
# One message for all: which limit is met first may depend on what else is open.
_STOPPED = "stopped: it takes too much time or memory"
_READING = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}


class QueryError(Exception):
    """A statement failed, or went beyond a limit; the message is for the agent."""


@dataclass(frozen=True)
class Result:
    """What a statement gave: names of columns, and rows in order."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]


class Database:
    """One database; close it afterwards.

    Its tables are there under their own names and as ``name.table``, and described in
    ``information_schema`` (schemata, tables, columns, key_column_usage).

    Args:
        path: the SQLite file; it must not change while it is open.
        name: of the database.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: this Python's SQLite lacks what the limits need.
    """

    def __init__(self, path: Path, name: str):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: prepare the data again")
        uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
        self.name = name
        self._connection = sqlite3.connect(uri, uri=True, isolation_level=None)
        self._functions = sqlite3.connect(":memory:")  # SQLite's own
        try:
            self._set_up(uri)
        except BaseException:
            self.close()
            raise
        self._steps = 0
        self._deadline = 0.0

    def query(self, sql: str, parameters: tuple[str, ...] = ()) -> Result:
        """Run one statement that reads.

        Raises:
            QueryError: it failed, is not allowed, or went beyond a limit.
        """
        self._steps, self._deadline = 0, time.monotonic() + MAX_SECONDS
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql, parameters)
            columns = tuple(column[0] for column in cursor.description or ())
            return Result(columns, self._fetch(cursor))
        except MemoryError as error:
            raise QueryError(_STOPPED) from error
        except (sqlite3.Error, sqlite3.Warning, ValueError) as error:
            raise QueryError(self._explain(str(error))) from error
        finally:
            cursor.close()

    def close(self) -> None:
        """Close the file, and free what SQLite holds for it at once.

        A connection that is only forgotten keeps its part of the process' memory until
        Python looks for cycles, and what a statement may have would depend on that.
        """
        self._connection.close()
        self._functions.close()

    def _fetch(self, cursor: sqlite3.Cursor) -> tuple[Row, ...]:
        rows: list[Row] = []
        characters = 0
        for row in cursor:
            rows.append(row)
            characters += sum(len(v) for v in row if isinstance(v, str | bytes))
            if len(rows) > MAX_ROWS:
                raise QueryError(f"stopped: more than {MAX_ROWS} rows; add a LIMIT")
            if characters > MAX_CHARACTERS:
                raise QueryError("stopped: the result is too large")
        return tuple(rows)

    def _explain(self, message: str) -> str:
        if "interrupted" in message:
            return _STOPPED
        if "to use function" in message:
            return "this function is not allowed, its value would not repeat"
        if "not authorized" in message or "authorization" in message:
            return "not allowed: the database can only be read"
        return message

    def _set_up(self, uri: str) -> None:
        run = self._connection.execute
        self._connection.text_factory = lambda data: data.decode(errors="replace")
        if run('SELECT "no column"').fetchone() != ("no column",):
            raise RuntimeError(
                "SQLite is built without double-quoted texts (SQLITE_DQS)"
            )
        limit = run(f"PRAGMA hard_heap_limit = {MAX_HEAP}").fetchone()
        if limit is None or not 0 < limit[0] <= MAX_HEAP:
            raise RuntimeError(
                f"SQLite {sqlite3.sqlite_version} has no limit of memory: use a Python "
                "with SQLite 3.31 or later"
            )
        run("PRAGMA temp_store = MEMORY")
        run("ATTACH ? AS ?", (uri, self.name))
        self._describe()
        run("PRAGMA query_only = ON")
        add_functions(self._connection, self._functions, self.name)
        for category, value in _LIMITS.items():
            self._connection.setlimit(category, value)
        self._connection.set_progress_handler(self._over, _STEPS_PER_CALL)
        self._connection.set_authorizer(_authorize)

    def _describe(self) -> None:
        """Make information_schema of what SQLite knows about the tables."""
        self._connection.executescript(_INFORMATION_SCHEMA)
        for insertion in _INSERTIONS:
            self._connection.execute(insertion, {"name": self.name})

    def _over(self) -> bool:
        self._steps += _STEPS_PER_CALL
        return self._steps > MAX_STEPS or time.monotonic() > self._deadline


_INFORMATION_SCHEMA = """
ATTACH ':memory:' AS information_schema;
CREATE TABLE information_schema.schemata (schema_name TEXT COLLATE NOCASE);
CREATE TABLE information_schema.tables (
  table_schema TEXT COLLATE NOCASE, table_name TEXT COLLATE NOCASE, table_type TEXT
);
CREATE TABLE information_schema.columns (
  table_schema TEXT COLLATE NOCASE, table_name TEXT COLLATE NOCASE,
  column_name TEXT COLLATE NOCASE, ordinal_position INTEGER, column_default TEXT,
  is_nullable TEXT, data_type TEXT, column_type TEXT, column_key TEXT
);
CREATE TABLE information_schema.key_column_usage (
  table_schema TEXT COLLATE NOCASE, table_name TEXT COLLATE NOCASE,
  column_name TEXT COLLATE NOCASE, referenced_table_name TEXT COLLATE NOCASE,
  referenced_column_name TEXT COLLATE NOCASE
);
"""
_INSERTIONS = (
    "INSERT INTO information_schema.schemata VALUES (:name)",
    """
    INSERT INTO information_schema.tables SELECT :name, name, 'BASE TABLE'
    FROM main.sqlite_master WHERE type = 'table' ORDER BY name
    """,
    """
    INSERT INTO information_schema.key_column_usage
    SELECT :name, t.table_name, k."from", k."table", k."to"
    FROM information_schema.tables t, pragma_foreign_key_list(t.table_name, 'main') k
    """,
    """
    INSERT INTO information_schema.columns
    SELECT :name, t.table_name, c.name, c.cid + 1, c.dflt_value,
      CASE WHEN c."notnull" THEN 'NO' ELSE 'YES' END,
      substr(c.type, 1, instr(c.type || '(', '(') - 1), c.type,
      CASE WHEN c.pk THEN 'PRI' WHEN EXISTS (
        SELECT 1 FROM information_schema.key_column_usage k
        WHERE k.table_name = t.table_name AND k.column_name = c.name
      ) THEN 'MUL' ELSE '' END
    FROM information_schema.tables t, pragma_table_info(t.table_name, 'main') c
    """,
)


def _authorize(action: int, _: str | None, name: str | None, *__: str | None) -> int:
    forbidden = action == sqlite3.SQLITE_FUNCTION and (name or "").lower() in FORBIDDEN
    allowed = action in _READING and not forbidden
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY
