"""Nothing changes a database, everything ends, and everything repeats."""

import hashlib
import time

import pytest

from reskill_jax.environments.sql import database as limits
from reskill_jax.environments.sql.database import Database, QueryError
from reskill_jax.environments.sql.prepare import prepare


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESKILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        return prepare(sample=True).database("harbour")


@pytest.fixture
def database(path):
    opened = Database(path, "harbour")
    yield opened
    opened.close()


def value(database, sql):
    ((only,),) = database.query(sql).rows
    return only


COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c)"
ATTACKS = [
    "DROP TABLE ship",
    "DELETE FROM ship",
    "UPDATE ship SET name = 'x'",
    "INSERT INTO berth VALUES (9, 'x', 1)",
    "REPLACE INTO berth VALUES (1, 'x', 1)",
    "CREATE TABLE x (y)",
    "CREATE TEMP TABLE x (y)",
    "CREATE TABLE information_schema.x (y)",
    "INSERT INTO information_schema.tables VALUES (1, 2, 3)",
    "ALTER TABLE ship RENAME TO boat",
    "WITH x AS (SELECT 1) DELETE FROM ship",
    "PRAGMA writable_schema = ON",
    "PRAGMA query_only = OFF",
    "PRAGMA hard_heap_limit = 0",
    "SELECT * FROM pragma_table_info('ship')",
    "ATTACH 'x.sqlite' AS x",
    "DETACH harbour",
    "VACUUM",
    "VACUUM INTO 'x.sqlite'",
    "REINDEX",
    "ANALYZE",
    "BEGIN",
    "SAVEPOINT x",
    "SELECT load_extension('x')",
    "SELECT fts3_tokenizer('x')",
    "SELECT random()",
    "SELECT 1; DROP TABLE ship",
]
BOMBS = [
    f"{COUNT} SELECT count(*) FROM c",
    f"{COUNT} SELECT * FROM c",
    f"{COUNT} SELECT x FROM c ORDER BY x DESC",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION SELECT x + 1 FROM c) SELECT max(x) FROM c",
    "WITH RECURSIVE c(x) AS (SELECT printf('%7000d', 1) UNION ALL "
    "SELECT c.x FROM c, ship) SELECT count(*) FROM c",
    f"{COUNT} SELECT group_concat(printf('%7000d', x)) FROM c",
    f"{COUNT} SELECT printf('%7900d', x) FROM c",
    "SELECT count(*) FROM " + ", ".join(f"ship s{i}" for i in range(9)),
    "SELECT * FROM " + " NATURAL JOIN ".join(f"ship s{i}" for i in range(60)),
    "SELECT hex(zeroblob(1000000000))",
    "SELECT " + "(" * 900 + "1" + ")" * 900,
    " UNION ".join(["SELECT name FROM ship"] * 100),
    # Every name stands for twice the one before.
    "WITH a0 AS (SELECT 1 i), "
    + ", ".join(
        f"a{k} AS (SELECT x.i FROM a{k - 1} x, a{k - 1} y)" for k in range(1, 25)
    )
    + " SELECT * FROM a24",
]


@pytest.mark.parametrize("sql", ATTACKS)
def test_only_reading_is_possible(tmp_path, monkeypatch, path, database, sql):
    monkeypatch.chdir(tmp_path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(QueryError):
        database.query(sql)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert not list(tmp_path.iterdir())
    assert value(database, "SELECT count(*) FROM ship") == 8
    assert value(database, "SELECT count(*) FROM information_schema.tables") == 3


@pytest.mark.parametrize("sql", BOMBS, ids=range(len(BOMBS)))
def test_bombs_end_and_leave_the_database_usable(database, sql):
    with pytest.raises(QueryError):
        database.query(sql)
    assert value(database, "SELECT count(*) FROM ship") == 8


def test_what_is_slow_in_few_steps_ends_by_the_clock(database, monkeypatch):
    monkeypatch.setattr(limits, "MAX_SECONDS", 0.05)
    slow = "sum(length(replace(printf('%6000d', x), ' ', 'a')))"
    with pytest.raises(QueryError, match="stopped: it takes too much time or memory"):
        database.query(f"{COUNT} SELECT {slow} FROM c")


def test_results_beyond_the_limits_are_errors_that_say_so(database, monkeypatch):
    with pytest.raises(QueryError, match="more than 5000 rows; add a LIMIT"):
        database.query(f"{COUNT} SELECT x FROM c")
    assert len(database.query(f"{COUNT} SELECT x FROM c LIMIT 5000").rows) == 5000
    with pytest.raises(QueryError, match="the result is too large"):
        database.query(f"{COUNT} SELECT printf('%7900d', x) FROM c LIMIT 500")


def test_tables_have_their_own_and_the_full_name(database):
    rows = database.query("SELECT s.name FROM harbour.ship s ORDER BY 1 LIMIT 1").rows
    assert rows == database.query("SELECT min(name) FROM Ship").rows


def test_information_schema(database):
    listed = database.query(
        "SELECT column_name, data_type, column_type, is_nullable, column_key FROM "
        "INFORMATION_SCHEMA.COLUMNS WHERE TABLE_NAME = 'VISIT' AND table_schema = "
        "database() ORDER BY ordinal_position"
    )
    assert [(name, key) for name, *_, key in listed.rows] == [
        ("ship_id", "PRI"), ("berth_id", "MUL"), ("arrived", "PRI"), ("nights", ""),
    ]  # fmt: skip
    assert [row[3] for row in listed.rows] == ["NO", "NO", "NO", "YES"]
    kinds = database.query(
        "SELECT data_type, column_type FROM information_schema.columns "
        "WHERE column_name = 'flag'"
    )
    assert kinds.rows == (("char", "char(2)"),)
    keys = database.query("SELECT * FROM information_schema.key_column_usage")
    assert ("harbour", "visit", "berth_id", "berth", "berth_id") in keys.rows


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("concat('a', 1, 2.5)", "a12.5"),
        ("concat('a', NULL)", None),
        ("concat_ws('-', 'a', NULL, 'b')", "a-b"),
        ("if(2 > 1, 'yes', 'no')", "yes"),
        ("if(NULL, 'yes', 'no')", "no"),
        ("year('2021-05-02 08:00:00')", 2021),
        ("month('2021-05-02')", 5),
        ("day('nonsense')", None),
        ("'Harbour' REGEXP '^harb'", 1),
        ("NULL REGEXP 'x'", None),
        ("database()", "harbour"),
    ],
)
def test_functions_of_mysql(database, expression, wanted):
    assert value(database, f"SELECT {expression}") == wanted


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("printf('%05.1f|%-4s|%%', 2.25, 'ab')", "002.3|ab  |%"),
        ("format('%*d', -4, 7)", "7   "),
        ("printf('%.*c', '3', 'x')", "xxx"),
        ("printf('%10000d', 7)", None),  # too long, as for SQLite itself
        ("printf('%.*c', 2147483647, 'x')", None),
        ("format('%.*c', '2147483647', 'x')", None),
        ("printf('%.*c', 1e300, 'x')", None),
        ("printf(NULL)", None),
        ("printf()", None),
    ],
)
def test_formats_fill_up_to_a_limit(database, expression, wanted):
    assert value(database, f"SELECT {expression}") == wanted


@pytest.mark.parametrize("pattern", ["(", "((a{100}){100}){100}"])
def test_a_bad_pattern_is_an_error_of_the_query(database, pattern):
    with pytest.raises(QueryError):
        database.query(f"SELECT name FROM ship WHERE name REGEXP '{pattern}'")


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        ("date('now')", "2023-04-28"),
        ("date(x'6e6f77')", "2023-04-28"),
        ("date('subsec')", "2023-04-28"),
        ("strftime('%Y', 'subsecond')", "2023"),
        ("date('now', '+1 day', 'localtime')", "2023-04-29"),
        ("date()", "2023-04-28"),
        ("strftime('%Y')", "2023"),
        ("strftime('%Y', 'now')", "2023"),
        ("strftime('%Y', '1999-01-01')", "1999"),
        ("datetime('2020-01-01', 'utc')", "2020-01-01 00:00:00"),
        ("CURRENT_TIMESTAMP", "2023-04-28 12:00:00"),
        ("CURRENT_DATE", "2023-04-28"),
        ("year(now())", 2023),
    ],
)
def test_the_clock_stands_still_in_any_time_zone(
    database, monkeypatch, expression, wanted
):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert value(database, f"SELECT {expression}") == wanted
    finally:
        monkeypatch.undo()
        time.tzset()


def test_texts_that_are_no_utf8_can_be_seen(database):
    assert value(database, "SELECT CAST(x'61ff' AS TEXT)") == "a\ufffd"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.sqlite does not exist"):
        Database(tmp_path / "none.sqlite", "none")
