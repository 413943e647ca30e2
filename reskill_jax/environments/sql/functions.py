"""SQL functions: those of MySQL that SQLite lacks, and a clock that stands still.

An episode must repeat, today and tomorrow: ``now`` is a fixed time everywhere, and what
draws at random is not there at all. What takes long within a single step of SQLite's
virtual machine, where nothing can stop it, is bounded here.
"""

import re
import sqlite3
from collections.abc import Callable
from datetime import date
from functools import partial
from typing import Any

import re2

NOW = "2023-04-28 12:00:00"  # of the published dump
FORBIDDEN = frozenset({"random", "randomblob", "load_extension", "fts3_tokenizer"})
_CLOCK = ("date", "time", "datetime", "julianday", "unixepoch", "strftime")
_ZONES = ("localtime", "utc")  # they would depend on the machine
_LONGEST = 8_000  # characters that formats fill up to, all together
# Width and precision of what begins with a % in a format; * takes them from a value.
_WIDTHS = re.compile(r"%[-+ 0#,!]*(\d+|\*)?(?:\.(\d+|\*))?")


def add_functions(
    connection: sqlite3.Connection, own: sqlite3.Connection, database: str
) -> None:
    """Add the functions to a connection.

    Args:
        connection: gets them.
        own: where SQLite's own functions are called; open as long as `connection` is.
        database: what ``DATABASE()`` returns.
    """
    add = partial(connection.create_function, deterministic=True)
    add("database", 0, lambda: database)
    for name, count, function in _MYSQL:
        add(name, count, function)
    for name in _CLOCK:
        add(name, -1, partial(_at_now, own, name))
    for name, kind in (("date", "date"), ("time", "time"), ("timestamp", "datetime")):
        add(f"current_{name}", 0, partial(_at_now, own, kind))
    for name in ("printf", "format"):
        add(name, -1, partial(_formatted, own))
    add("now", 0, lambda: NOW)
    add("curdate", 0, lambda: NOW[:10])


def _at_now(own: sqlite3.Connection, name: str, *values: Any) -> Any:
    """Call a function of date and time with the fixed time for the present."""
    given = [_text(value) if isinstance(value, bytes) else value for value in values]
    kept = [NOW if _is(value, "now") else value for value in given]
    kept = [value for value in kept if not any(_is(value, zone) for zone in _ZONES)]
    place = int(name == "strftime")  # of the time
    if len(kept) == place:  # it is left out: now
        kept.append(NOW)
    if any(_is(kept[place], word) for word in ("subsec", "subsecond")):  # SQLite 3.42
        kept[place] = NOW
    return _call(own, name, *kept)


def _formatted(own: sqlite3.Connection, *values: Any) -> Any:
    """Call printf; NULL, as for a result that is too long, where it would take long."""
    template = _text(values[0]) if values else ""
    widths = [w for pair in _WIDTHS.findall(template) for w in pair if w]
    given = max(map(_size, values[1:]), default=0)
    filled = sum(given if width == "*" else int(width) for width in widths)
    return None if filled > _LONGEST else _call(own, "printf", *values)


def _size(value: Any) -> float:
    """Return what a value is at most as a width, whatever its sign."""
    if isinstance(value, int | float):
        return abs(value)
    number = re.match(r"\s*[-+]?(\d+)", _text(value))
    return float(number[1]) if number else 0


def _call(own: sqlite3.Connection, name: str, *values: Any) -> Any:
    places = ",".join("?" * len(values))
    return own.execute(f"SELECT {name}({places})", values).fetchone()[0]


def _is(value: Any, word: str) -> bool:
    return isinstance(value, str) and value.casefold() == word


def _concat(*values: Any) -> str | None:
    return None if None in values else "".join(map(_text, values))


def _concat_ws(separator: Any, *values: Any) -> str | None:
    if separator is None:
        return None
    return _text(separator).join(_text(v) for v in values if v is not None)


def _if(condition: Any, then: Any, otherwise: Any) -> Any:
    try:
        return then if condition is not None and float(condition) else otherwise
    except ValueError:  # a text that is no number is false
        return otherwise


def _part(of_date: Callable[[date], int], value: Any) -> int | None:
    try:
        return of_date(date.fromisoformat(_text(value)[:10]))
    except ValueError:
        return None


def _regexp(pattern: Any, value: Any) -> bool | None:
    """Search without regard to case, in time linear in the text."""
    if None in (pattern, value):
        return None
    options = re2.Options()
    options.log_errors = False
    options.case_sensitive = False
    return re2.compile(_text(pattern), options).search(_text(value)) is not None


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


_MYSQL: tuple[tuple[str, int, Callable[..., Any]], ...] = (
    ("concat", -1, _concat),
    ("concat_ws", -1, _concat_ws),
    ("if", 3, _if),
    ("year", 1, partial(_part, lambda day: day.year)),
    ("month", 1, partial(_part, lambda day: day.month)),
    ("day", 1, partial(_part, lambda day: day.day)),
    ("regexp", 2, _regexp),
)
