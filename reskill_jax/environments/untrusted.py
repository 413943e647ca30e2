"""Text of services and files, made safe to show in a prompt."""

import re
from collections.abc import Iterable
from functools import cache

# Control characters (Unicode's Cc), and halves of characters (Cs).
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Tags of conversations that no text may write, beside those of an environment.
_TAGS = ("information", "think", "result")


def one_line(text: str, limit: int, tags: Iterable[str]) -> str:
    """Write a text as one line; without tags and line breaks it can play no turn.

    Args:
        text: anything.
        limit: most characters; a longer text ends with dots, where a word ends.
        tags: of the environment's actions.
    """
    line = " ".join(CONTROL.sub(" ", text).split())
    pattern = _pattern(tuple(tags))
    # Until none is left: a removed one may leave another behind.
    while (shorter := pattern.sub(" ", line)) != line:
        line = shorter
    line = " ".join(line.split())
    if len(line) <= limit:
        return line
    return line[: limit - 3].rsplit(" ", 1)[0] + " .."


def tagged_problem(text: str, most: int) -> str:
    """Say why what a response has between its tags cannot be used; "" where it can.

    Args:
        text: what stands there.
        most: characters that it may have.
    """
    if not text:
        return "There is nothing between the tags."
    if len(text) > most:
        return f"More than {most} characters are between the tags."
    if CONTROL.search(text):
        return "There are control characters between the tags."
    return ""


@cache
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, (*tags, *_TAGS)))
    return re.compile(rf"<\s*/?\s*({names})\b[^<>]*>", re.IGNORECASE)
