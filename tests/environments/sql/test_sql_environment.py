"""Playing: what is understood, what is shown, and when an answer is scored."""

import asyncio
import gc
import hashlib
import json
import pickle
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.sql.action_format import SqlFormat
from reskill_jax.environments.sql.database import Result
from reskill_jax.environments.sql.environment import render
from reskill_jax.environments.sql.settings import Settings
from reskill_jax.environments.sql.spec import load
from reskill_jax.environments.task import Task

SHIPS = "SELECT name, built FROM ship ORDER BY built"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESKILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def spec(cache):
    return load(Settings(sample=True), workers=1)


@pytest.fixture(scope="module")
def task(spec):
    """All ships, ordered by their years."""
    tasks = [t for s in ("train", "dev", "test") for t in spec.panel(s, None)]
    task = next(t for t in tasks if SHIPS in json.loads(t.source)["gold"])
    return task


@pytest.fixture
def environment(spec, task):
    environment = spec.make()
    environment.reset(task)
    yield environment
    environment.close()


def play(environment, *actions):
    return [environment.step(action) for action in actions][-1]


def test_the_first_observation_names_the_database(spec, task, environment):
    goal, seen = environment.reset(task)
    assert goal == json.loads(task.source)["question"]
    assert seen.text == "The database is harbour."
    shown = load(Settings(sample=True, show_schema=True), workers=1).make()
    text = shown.reset(task)[1].text
    shown.close()
    assert text.splitlines()[1:] == [
        "berth(berth_id, quay, depth_m)",
        "ship(ship_id, name, flag, length_m, built)",
        "visit(ship_id, berth_id, arrived, nights)",
    ]


@pytest.mark.parametrize("submit", ["submit", " SUBMIT; "])
def test_submit_scores_the_last_result_and_only_that(environment, submit):
    for action in ("SHOW TABLES", "SELECT 1", SHIPS):
        seen = environment.step(action)
        assert (seen.reward, seen.done, seen.success) == (0, False, False)
    seen = environment.step(submit)
    assert (seen.reward, seen.done, seen.success) == (1, True, True)
    assert seen.scores == {"score": 1, "submitted": 1}
    with pytest.raises(RuntimeError, match="outside of an episode: call reset first"):
        environment.step("SELECT 1")


@pytest.mark.parametrize(
    ("actions", "wanted"),
    [
        ((), 0),
        ((SHIPS,), 1),
        ((SHIPS, "SELECT 1"), 0),  # the last one, not the best one
        (("SELECT 1", SHIPS), 1),
        ((SHIPS, "SELECT nonsense"), 0),  # an error is no result
        ((SHIPS, "SHOW TABLES"), 0),
        ((SHIPS, "", "DROP TABLE ship", "x" * 100_000), 1),  # these are nothing
        ((f"{SHIPS} LIMIT 4",), 0.5),
        (("SELECT name, built FROM ship ORDER BY built DESC",), -26 / 28),
    ],
)
def test_the_turn_limit_scores_what_a_submission_would(
    spec, task, environment, actions, wanted
):
    other = spec.make()
    other.reset(task)
    for action in actions:
        assert environment.step(action) == other.step(action)
    ended, submitted = environment.finish(), other.step("submit")
    assert ended.reward == submitted.reward == pytest.approx(wanted)
    assert ended.success == submitted.success == (wanted == 1)
    assert (ended.text, ended.done) == ("", True)
    assert ended.scores == {"score": ended.reward, "submitted": 0}


def test_every_gold_of_the_sample_wins(spec):
    environment = spec.make()
    for split in ("train", "dev", "test", "unseen"):
        for task in spec.panel(split, None):
            environment.reset(task)
            seen = play(environment, json.loads(task.source)["gold"], "submit")
            assert seen.success, task
    environment.close()


@pytest.mark.parametrize(
    ("statement", "wanted"),
    [
        ("show tables;", "tables\nberth\nship\nvisit\n(3 rows)"),
        ("SHOW FULL TABLES FROM `harbour` LIKE 'sh%'", "tables\nship\n(1 row)"),
        ("SHOW\nDATABASES", "database\nharbour\n(1 row)"),
        ("SHOW TABLES FROM orchard", "Error: there is no database orchard"),
        ("DESC boat", "Error: there is no table boat"),
        ("SHOW COLUMNS FROM boat FROM harbour", "Error: there is no table boat"),
        ("select", "Error: incomplete input"),
        ("SELECT \u200b", r"Error: no such column: \u200b"),
        ("SELECT name FROM boat", "Error: no such table: boat"),
        ("SELECT 1; SELECT 2", "Error: You can only execute one statement at a time."),
        ("-- first\n/* x */ SELECT 1 AS one -- last\n;", "one\n1\n(1 row)"),
        ("SELECT name FROM ship WHERE 1 > 2", "name\n(0 rows)"),
        ("select name from SHIP where NAME = 'éclair'", "name\n(0 rows)"),
        ("SELECT name FROM ship WHERE name = 'ÉCLAIR'", "name\nÉclair\n(1 row)"),
        (
            "SELECT NULL, 1.50, x'00', char(7, 10) || 'a'",
            "NULL | 1.50 | x'00' | char(7, 10) || 'a'\n"
            "NULL | 1.5 | b'\\x00' | \\x07\\na\n(1 row)",
        ),
    ],
)
def test_statements_and_what_is_shown_of_them(environment, statement, wanted):
    seen = environment.step(statement)
    assert seen.text == wanted
    assert seen.understood


@pytest.mark.parametrize(
    "statement",
    [
        "DESCRIBE berth",
        "desc `harbour`.`berth`;",
        "EXPLAIN Berth",
        "SHOW COLUMNS FROM harbour.berth",
        "SHOW FULL FIELDS IN berth IN harbour",
    ],
)
def test_columns_are_described(environment, statement):
    assert environment.step(statement).text.splitlines() == [
        "field | type | null | key",
        "berth_id | INT | NO | PRI",
        "quay | TEXT | YES | ",
        "depth_m | decimal(19,4) | YES | ",
        "(3 rows)",
    ]


def test_tables_are_shown_as_they_were_created(environment):
    text = environment.step("SHOW CREATE TABLE visit").text
    assert "FOREIGN KEY (`berth_id`) REFERENCES `berth` (`berth_id`)" in text


NO_STATEMENTS = [
    "",
    "   ",
    "I think that the table ship is needed.",
    "x" * 100_000,
    "SELECT '" + "x" * 100_000 + "'",
    "SELECT '\x00'",
    "SELECT '\x1b[31m'",
    "SELECT '\ud800'",
    "PRAGMA table_info(ship)",
    "ATTACH 'x' AS y",
    "DROP TABLE ship",
    "INSERT INTO ship SELECT * FROM ship",
    "CREATE TABLE x (y)",
    "EXPLAIN SELECT 1",
    "USE orchard",
    "skip",
    "submit it",
]


@pytest.mark.parametrize("action", NO_STATEMENTS, ids=range(len(NO_STATEMENTS)))
def test_what_is_no_statement_is_an_invalid_turn_and_nothing_else(
    environment, task, action
):
    path = Path(json.loads(task.source)["path"])
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    play(environment, SHIPS)
    seen = environment.step(action)
    assert not seen.understood
    assert (seen.reward, seen.done) == (0, False)
    assert len(seen.text) < 200
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert play(environment, "submit").success


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60), st.sampled_from(["", "SELECT ", "SHOW ", "WITH a AS ("]))
def test_any_text_has_an_answer_that_can_be_shown(environment, text, start):
    action = start + text
    if action.strip().rstrip(";").rstrip().casefold() != "submit":
        seen = environment.step(action)
        assert not seen.done
        assert seen.text.replace("\n", "").isprintable()


@given(
    st.lists(st.lists(st.text(max_size=30), min_size=2, max_size=2), max_size=40),
    st.integers(200, 400),
)
def test_shown_results_are_cut_and_say_how_many_rows_there_are(rows, characters):
    text = render(Result(("a", "b"), tuple(map(tuple, rows))), characters)
    assert len(text) <= characters + 40
    lines = text.split("\n")
    shown = len(lines) - 2
    count = f"{len(rows)} row{'s' if len(rows) != 1 else ''}"
    cut = f", {shown} of them shown" if shown < len(rows) else ""
    assert lines[-1] == f"({count}{cut})"


# It takes most of the memory that a statement may have.
HEAVY = (
    "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM r LIMIT 11000) "
    "SELECT count(*) FROM (SELECT DISTINCT printf('%.*c',3000,'x')||i FROM r)"
)


def test_the_memory_of_a_statement_does_not_depend_on_what_came_before(environment):
    """Nor on when Python collects garbage."""
    gc.disable()
    try:
        for _ in range(1000):
            environment.step("SELECT 1")
        assert "11000" in environment.step(HEAVY).text
    finally:
        gc.enable()


def test_the_memory_of_a_statement_does_not_depend_on_other_episodes(spec, task):
    """SQLite counts all that the process has open."""
    crowd = [spec.make() for _ in range(150)]
    try:
        for one in crowd:
            one.reset(task)
        assert "11000" in crowd[0].step(HEAVY).text
    finally:
        for one in crowd:
            one.close()


# ---- the form of responses


def parsed(response, tags=()):
    action = SqlFormat().parse(response, tags)
    return action.text if action.well_formed else None


@pytest.mark.parametrize(
    ("response", "text"),
    [
        ("I look.\n<sql>SHOW TABLES</sql>", "SHOW TABLES"),
        ("<SQL> SELECT 1 </sql> done", "SELECT 1"),
        ("<sql>SELECT 'a  b' -- x\nFROM t</sql>", "SELECT 'a  b' -- x\nFROM t"),
        ("<sql>\n```sql\nSELECT 1\n```\n</sql>", "SELECT 1"),
        ("<sql>``` SELECT 1```</sql>", "SELECT 1"),
        ("<sql></sql>", ""),
        ("", None),
        ("SELECT 1", None),
        ("```sql\nSELECT 1\n```", None),
        ("<sql>SELECT 1", None),
        ("SELECT 1</sql>", None),
        ("</sql>SELECT 1<sql>", None),
        ("<query>SELECT 1</query>", None),
        ("<sql>SELECT 1</query>", None),
        ("<sql>SELECT 1</sql><sql>SELECT 2</sql>", None),
        ("<sql>SELECT 1</sql> I could also use <sql>", None),
        ("<sql><sql>SELECT 1</sql></sql>", None),
        ("<sql>" * 20_000, None),
        ("\x00\x1b" * 50_000, None),
        # What a response drafts in thoughts is none of its actions.
        ("<think>try <sql>SELECT 1</sql></think>\n<sql>SELECT 2</sql>", "SELECT 2"),
        ("<think>draft <sql>SELECT 9</sql> no, wait", None),
    ],
)
def test_exactly_one_pair_of_tags(response, text):
    assert parsed(response) == text


def test_tags_of_a_context_count_as_well():
    memory = SqlFormat().parse("<memory>ships</memory>", ("memory",))
    assert (memory.tag, memory.text) == ("memory", "ships")
    assert parsed("<memory>ships</memory>") is None
    assert parsed("<memory>a</memory><sql>SELECT 1</sql>", ("memory",)) is None
    assert SqlFormat().request == "<sql>..</sql>"


# ---- in worker processes


def test_it_plays_in_worker_processes_and_repeats_after_a_crash(spec, task):
    async def play_with(pool):
        with pool.open(task.id) as player:
            await player.reset(task)
            first = await player.step(SHIPS)
            if crash:
                pool._workers[0].process.kill()
            return first, await player.step("SELECT random()"), await player.finish()

    results = []
    for crash in (False, True):
        with EnvironmentPool(spec.make, workers=1) as pool:
            results.append(asyncio.run(play_with(pool)))
            assert pool.counters.replayed_episodes == crash
    assert results[0] == results[1]
    assert results[0][-1].reward == 0
    pickle.dumps(spec.make)


def test_a_task_whose_file_is_gone_says_what_to_do(spec, task, tmp_path):
    source = json.loads(task.source) | {"path": str(tmp_path / "gone.sqlite")}
    with pytest.raises(FileNotFoundError, match="prepare the data again"):
        spec.make().reset(Task("x", "easy", "train", json.dumps(source)))
