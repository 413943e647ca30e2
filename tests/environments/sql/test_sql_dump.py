"""Dumps of MySQL become SQLite files."""

import sqlite3

import pytest

from reskill_jax.environments.sql.dump import read_dump, write_database

HEAD = "CREATE DATABASE IF NOT EXISTS `d` /*!40100 x; y */;\nUSE `d`;\n"
TABLE = """CREATE TABLE `t` (
  `a` int NOT NULL AUTO_INCREMENT,
  `b` varchar(20) COLLATE utf8mb4_general_ci DEFAULT NULL,
  `c, (d)` double DEFAULT NULL,
  PRIMARY KEY (`a`,`b`(10)),
  UNIQUE KEY `u` (`b`),
  KEY `k` (`c, (d)`),
  CONSTRAINT `f` FOREIGN KEY (`a`) REFERENCES `s` (`x`)
) ENGINE=InnoDB AUTO_INCREMENT=9 DEFAULT CHARSET=utf8mb4;
"""


def rows_of(tmp_path, values):
    tables = read_dump(f"{HEAD}{TABLE}INSERT INTO `t` VALUES {values};")["d"]
    write_database(tmp_path / "d.sqlite", tables)
    connection = sqlite3.connect(tmp_path / "d.sqlite")
    rows = connection.execute("SELECT * FROM t").fetchall()
    connection.close()
    return rows


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (r"'it\'s'", "it's"),
        ("'it''s'", "it's"),
        (r"'a\nb\\\"'", 'a\nb\\"'),
        ("'x; -- y /* z */ `q`'", "x; -- y /* z */ `q`"),
        ("'),(9'", "),(9"),
        ("'Alton  '", "Alton"),  # as MySQL compares
        ("'  Alton'", "  Alton"),
        ("''", ""),
        ("'NULL'", "NULL"),
        ("NULL", None),
        ("'Raúl'", "Raúl"),
    ],
)
def test_values_come_out_as_they_went_in(tmp_path, written, value):
    wanted = [(1, value, -2.5), (2, "z", None)]
    assert rows_of(tmp_path, f"(1,{written},-2.50),\n(2,'z',NULL)") == wanted


@pytest.mark.parametrize("kind", ["text", "tinytext", "mediumtext", "LONGTEXT"])
def test_texts_of_every_size_compare_without_case(tmp_path, kind):
    table = f"CREATE TABLE `t` (\n  `a` {kind} COLLATE utf8_general_ci\n);\n"
    tables = read_dump(f"{HEAD}{table}INSERT INTO `t` VALUES ('Abc');")["d"]
    write_database(tmp_path / "d.sqlite", tables)
    connection = sqlite3.connect(tmp_path / "d.sqlite")
    assert connection.execute("SELECT a FROM t WHERE a = 'aBC'").fetchall()
    connection.close()


def test_texts_compare_without_case_and_types_keep_their_names(tmp_path):
    rows_of(tmp_path, "(1,'Abc',1)")
    connection = sqlite3.connect(tmp_path / "d.sqlite")
    assert connection.execute("SELECT a FROM t WHERE b = 'aBC'").fetchall() == [(1,)]
    types = [row[2] for row in connection.execute("PRAGMA table_info(t)")]
    keys = [row[2:5] for row in connection.execute("PRAGMA foreign_key_list(t)")]
    connection.close()
    assert [name.lower() for name in types] == ["int", "varchar(20)", "double"]
    assert keys == [("s", "a", "x")]


@pytest.mark.parametrize(("written", "value"), [("1e-05", 1e-05), ("-2.5E3", -2500.0)])
def test_numbers_may_have_exponents(tmp_path, written, value):
    assert rows_of(tmp_path, f"(1,'a',{written})") == [(1, "a", value)]


def test_what_sqlite_cannot_hold_is_named(tmp_path):
    enum = "CREATE TABLE `t` (\n  `a` enum('x','y') NOT NULL\n);\n"
    for text in (HEAD + enum, HEAD + TABLE + "INSERT INTO `t` VALUES (1,'a');"):
        with pytest.raises(ValueError, match="table t cannot be written: "):
            write_database(tmp_path / "d.sqlite", read_dump(text)["d"])
        (tmp_path / "d.sqlite").unlink()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("INSERT INTO `t` VALUES (1);", "names no database before 'INSERT"),
        (HEAD + "ALTER TABLE `t` ADD x int;", "unknown statement 'ALTER TABLE"),
        (HEAD + "LOCK TABLES `t` WRITE", "breaks off in 'LOCK"),
        (HEAD + TABLE + "INSERT INTO `t` VALUES (1,now(),2);", r"now\(\),2"),
        (HEAD + TABLE + "INSERT INTO `t` VALUES (1,'a',2) x;", "rows .* 'x'"),
        ("USE `../evil`;", "names no database before"),
        ("USE `main`;", "a database main: rename it"),
    ],
)
def test_what_is_not_known_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_dump(text)
