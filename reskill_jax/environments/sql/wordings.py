"""The texts around what databases say."""

from reskill_jax.environments.wording import Wording

_TASK = (
    "You answer a question about an SQLite database. At each turn write one sentence "
    "of thought and one SQL statement between <sql> and </sql>; then you see its "
    "result. Begin with SHOW TABLES, then DESCRIBE the tables that you need. When the "
    "last result is the answer, with just the columns and the order that the question "
    "asks for, write <sql>submit</sql>.\n"
)
_EXAMPLE = (
    "\nExample of a turn:\nI need the columns of the table pets.\n"
    "<sql>DESCRIBE pets</sql>\n\n"
)

FULL = Wording(
    role=_TASK + _EXAMPLE,
    role_with_skills=(
        f"{_TASK}You also get skills: follow those that apply and name them in your "
        f"thought.\n{_EXAMPLE}"
    ),
    start="Question: {goal}\n{observation}\n",
    turn="\nStatement {turn}: {action}\nResult {turn}:\n{observation}\n",
    # A small model answers a sentence that asks; without a verb it only chats.
    request=(
        "\nTurn {turn} of at most {max_turns}. Write one sentence, then the next SQL "
        "statement between <sql> and </sql>."
    ),
)
WORDINGS = {"full": FULL}
