"""Skills for querying databases, and the assertions behind them."""

from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import (
    ActionBefore,
    ActionExists,
    FinalAction,
    NoConsecutiveRepeat,
    ObservationContains,
)
from reskill_jax.skills.rule import Rule, RuleTable

SCHEMA = r"^(show|desc|describe|explain) |information_schema|sqlite_master"
TABLES = r"^show (full )?tables|information_schema\.tables|sqlite_master"
QUERY = r"^(select|with|values)\b"
SUBMIT = r"^submit;?$"
PATTERNS = (SCHEMA, QUERY, SUBMIT)

_QUERIES = ActionExists(QUERY)

# The order of blame: one that never queried cannot have submitted anything.
ASSERTIONS: tuple[Assertion, ...] = (
    Assertion(_QUERIES, "queries"),
    Assertion(ActionBefore(SCHEMA, QUERY), "reads-the-schema-first"),
    Assertion(ActionExists(r"^desc"), "describes", given=ActionExists(TABLES)),
    Assertion(NoConsecutiveRepeat(2), "does-not-repeat"),
    Assertion(
        ObservationContains(r"\(\d+ rows?[,)]", after_action=QUERY),
        "gets-a-result",
        given=_QUERIES,
    ),
    Assertion(FinalAction(SUBMIT), "submits", given=_QUERIES),
)

RULES: tuple[Rule, ...] = (
    Rule(
        "read-the-schema-first",
        "List the tables and their columns before the first query.",
        (
            (
                "You do not know the tables and columns yet.",
                "Show the tables and describe those that you need.",
            ),
            (
                "You are about to write the first query.",
                "First look at the tables and their columns.",
            ),
            (
                "No table was described yet.",
                "Describe the tables before you select from them.",
            ),
        ),
        example="SHOW TABLES, then DESCRIBE city",
        assertions=("reads-the-schema-first", "describes"),
    ),
    Rule(
        "query-for-the-answer",
        "Write a query once the columns are known.",
        (
            (
                "You have seen the columns that you need.",
                "Write one SELECT statement that answers the question.",
            ),
            (
                "The tables were described.",
                "Select just the columns that the question asks for.",
            ),
            (
                "You know where the answer is.",
                "Query it now. Do not describe more tables.",
            ),
        ),
        pattern=r"^(show|desc|describe) .*",
        assertions=("queries",),
    ),
    Rule(
        "mend-what-failed",
        "Correct a query that failed before you send it again.",
        (
            (
                "The last result is an error.",
                "Describe the table that it names and correct the query.",
            ),
            (
                "A query has just failed.",
                "Check names of tables and columns, then change the query.",
            ),
            (
                "You got an error or the same result twice.",
                "Do not send the same statement again. Change it.",
            ),
        ),
        pattern=r"^(select|with) .*",
        assertions=("gets-a-result", "does-not-repeat"),
    ),
    Rule(
        "submit-the-answer",
        "Submit as soon as the last result answers the question.",
        (
            (
                "The last result has just the rows and columns asked for.",
                "Submit it now.",
            ),
            (
                "The last result answers the question.",
                "Write submit and nothing more.",
            ),
            (
                "Your query gave what the question asks for.",
                "Do not query again. Submit.",
            ),
        ),
        pattern=r"^(select|with) .*",
        assertions=("submits",),
    ),
)
TABLE = RuleTable(rules=RULES, assertions=ASSERTIONS, patterns=PATTERNS)
