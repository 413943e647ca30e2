"""What the offline creator may propose for Search QA, and the checks behind it."""

from reskill_jax.skills.assertions import Assertion
from reskill_jax.skills.checks import (
    ActionBefore,
    ActionCount,
    ActionExists,
    ActionNotExists,
    NoConsecutiveRepeat,
)
from reskill_jax.skills.rule import Rule, RuleTable

SEARCH = r"^search\["
ANSWER = r"^answer\["
_LONG_ANSWER = r"^answer\[.{50,}\]$"
_TWO_SEARCHES = ActionCount(SEARCH, min=2)

# The order of blame: an episode without an answer lacks that first.
ASSERTIONS = (
    Assertion(ActionExists(ANSWER), "answers"),
    Assertion(ActionBefore(SEARCH, ANSWER), "searches-first"),
    Assertion(ActionNotExists(_LONG_ANSWER), "answers-in-few-words"),
    Assertion(NoConsecutiveRepeat(2, SEARCH, window=4), "rewords", given=_TWO_SEARCHES),
    Assertion(_TWO_SEARCHES, "searches-again", given=ActionExists(SEARCH)),
)

RULES = (
    Rule(
        "answer-in-time",
        "Answer before the replies run out.",
        (
            ("The results name what the question asks for.", "Answer now."),
            (
                "Few replies are left.",
                "Give the likeliest answer instead of searching.",
            ),
            ("You have an answer that fits.", "Write it between answer tags at once."),
        ),
        pattern=SEARCH,
        assertions=("answers",),
    ),
    Rule(
        "search-before-answering",
        "Search at least once before answering.",
        (
            ("You have not searched yet.", "Search for the names in the question."),
            ("No result has been shown.", "Do not answer from memory. Search first."),
        ),
        assertions=("searches-first",),
    ),
    Rule(
        "answer-in-few-words",
        "Answer with the name, date or words alone.",
        (
            (
                "You are about to answer.",
                "Write only the name, date or number, as the results spell it.",
            ),
            (
                "You know the answer.",
                "Leave out everything but the answer itself: no sentence.",
            ),
        ),
        example="Clontarf",
        assertions=("answers-in-few-words", "answers"),
    ),
    Rule(
        "search-in-other-words",
        "Change the words of a search that did not help.",
        (
            (
                "The results do not help.",
                "Search again in other words: fewer, or the name of a thing itself.",
            ),
            (
                "You are about to repeat a search.",
                "Use words that you have not searched for yet.",
            ),
        ),
        pattern=SEARCH,
        assertions=("rewords", "searches-again"),
    ),
    Rule(
        "one-fact-per-search",
        "Find the facts of a question one after the other.",
        (
            (
                "The question needs two facts.",
                "Search for the first alone, then use what you found for the second.",
            ),
            (
                "The question speaks of a thing that it does not name.",
                "Find its name first, then search for that name.",
            ),
        ),
        assertions=("searches-again",),
    ),
)

TABLE = RuleTable(rules=RULES, assertions=ASSERTIONS, patterns=(SEARCH, ANSWER))
