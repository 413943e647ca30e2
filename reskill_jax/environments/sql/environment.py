"""InterCode-SQL: answer a question about a database by querying it.

An action is one statement, or ``submit``. The answer is the last result; it is scored
when it is submitted or when the turn limit is reached, and only then (`score`).
"""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.sql.database import Database, QueryError, Result, Row
from reskill_jax.environments.sql.packing import database_file
from reskill_jax.environments.sql.score import score
from reskill_jax.environments.sql.statements import (
    NotUnderstoodError,
    Statement,
    read_statement,
)
from reskill_jax.environments.task import Task

SUBMIT = "submit"
_LONGEST_VALUE = 500  # characters that are shown of one


@dataclass
class _Episode:
    """One task that is being played; `result` is the last one, None after an error.

    Its database is opened for each statement anew, which takes less than a millisecond:
    what is open beside it would take its part of the memory that a statement may have.
    """

    path: Path
    name: str
    gold: str
    result: Result | None = None


class SqlEnvironment:
    """Plays one task at a time (see `reskill_jax.environments.protocol.Environment`).

    Args:
        show_schema: whether the first observation lists tables and columns.
        characters: longest observation of a result.
    """

    def __init__(self, *, show_schema: bool, characters: int):
        self._show_schema = show_schema
        self._characters = characters
        self._episode: _Episode | None = None

    def reset(self, task: Task) -> tuple[str, Observation]:
        """Open the task's database; return the question and the database's name."""
        self.close()
        source = json.loads(task.source)
        path = database_file(source)
        name = source["database"]
        self._episode = _Episode(path, name, source["gold"])
        text = f"The database is {name}."
        with closing(Database(path, name)) as database:
            if self._show_schema:
                text += f" Its tables:\n{_schema(database)}"
        return source["question"], Observation(text)

    def step(self, action: str) -> Observation:
        """Run a statement, or submit the last result.

        A statement that fails in the database is understood: the next result may be
        the answer, but until then there is none. What is no statement changes nothing.

        Raises:
            RuntimeError: no episode is running.
        """
        episode = self._running(action)
        if action.strip().rstrip(";").rstrip().casefold() == SUBMIT:
            return self._end(submitted=True)
        try:
            statement = read_statement(action)
        except NotUnderstoodError as error:
            return Observation(str(error), understood=False)
        try:
            episode.result = None
            with closing(Database(episode.path, episode.name)) as database:
                episode.result = _run(database, statement)
        except QueryError as error:
            return Observation(f"Error: {_printable(str(error))}")
        return Observation(render(episode.result, self._characters))

    def finish(self) -> Observation:
        """Score the last result of an episode that has reached its turn limit."""
        return self._end(submitted=False)

    def close(self) -> None:
        """Forget the episode."""
        self._episode = None

    def _running(self, action: str) -> _Episode:
        if self._episode is None:
            raise RuntimeError(f"{action!r} outside of an episode: call reset first")
        return self._episode

    def _end(self, submitted: bool) -> Observation:
        """Score, and end the episode."""
        episode = self._running(SUBMIT)
        reward = 0.0
        if episode.result is not None:
            reward = score(episode.result.rows, _gold_rows(episode))
        self.close()
        return Observation(
            "Submitted." if submitted else "",
            reward=reward,
            done=True,
            success=reward == 1,
            scores={"score": reward, "submitted": float(submitted)},
        )


def render(result: Result, characters: int) -> str:
    """Write a result as lines, the first rows of it where it is too long."""
    lines = [_printable(" | ".join(result.columns))[:characters]]
    room = characters - len(lines[0])
    for row in result.rows:
        line = " | ".join(map(_shown, row))
        if room < len(line) + 1:
            break
        room -= len(line) + 1
        lines.append(line)
    count, shown = len(result.rows), len(lines) - 1
    rows = f"{count} row{'s' if count != 1 else ''}"
    lines.append(f"({rows})" if shown == count else f"({rows}, {shown} of them shown)")
    return "\n".join(lines)


def _shown(value: object) -> str:
    """Write a value in one line."""
    text = "NULL" if value is None else str(value)
    if len(text) > _LONGEST_VALUE:
        text = f"{text[:_LONGEST_VALUE]}..."
    return _printable(text)


def _printable(text: str) -> str:
    """Write line breaks and control characters as Python does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _schema(database: Database) -> str:
    columns: dict[object, list[str]] = {}
    listed = database.query(
        "SELECT table_name, column_name FROM information_schema.columns "
        "ORDER BY table_name, ordinal_position"
    )
    for table, column in listed.rows:
        columns.setdefault(table, []).append(str(column))
    return "\n".join(f"{name}({', '.join(columns[name])})" for name in columns)


def _run(database: Database, statement: Statement) -> Result:
    named = statement.database.casefold()
    if named not in ("", database.name.casefold()):
        raise QueryError(f"there is no database {statement.database}")
    result = database.query(statement.sql, statement.parameters)
    if statement.about and not result.rows:
        raise QueryError(f"there is no table {statement.about}")
    return result


def _gold_rows(episode: _Episode) -> tuple[Row, ...]:
    """Run the gold as nothing that was played can have touched it."""
    with closing(Database(episode.path, episode.name)) as database:
        return database.query(episode.gold).rows
