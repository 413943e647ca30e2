"""Text that a language model or an environment wrote is data, never structure.

Prompts mark their sections with tags in angle brackets, one item per line. `clean`
makes any text one line without such brackets, so that it can close no section, begin no
chat turn and pose as no heading; and short, so that nothing grows without bound.
"""

import re
import unicodedata

# What chat templates are made of. Angle brackets carry most tokens; these need none.
TEMPLATE_TOKENS = (
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)
_TOKEN = re.compile("|".join(map(re.escape, TEMPLATE_TOKENS)), re.IGNORECASE)
_ELLIPSIS = " … "
# Control, format (bidirectional, zero width), surrogate and private-use characters.
_INVISIBLE = {"Cc", "Cf", "Cs", "Co"}


def clean(text: str, limit: int) -> str:
    """Make text safe to stand in a prompt.

    Args:
        text: anything.
        limit: most characters of the result, at least 10.

    Returns:
        One line in NFKC: blanks collapsed, invisible characters dropped, angle brackets
        turned into single quotation marks, those of chat templates into round ones,
        backticks into quotes. What is too long is cut in the middle.
    """
    # Before the costly steps, and with room for what they drop.
    text = _cut(text, 4 * limit)
    # Twice: a character that is dropped may have held two others apart.
    text = unicodedata.normalize("NFKC", " ".join(text.split()))
    text = "".join(c for c in text if unicodedata.category(c) not in _INVISIBLE)
    text = unicodedata.normalize("NFKC", " ".join(text.split()))
    text = text.replace("<", "\u2039").replace(">", "\u203a").replace("`", "'")
    text = _TOKEN.sub(lambda token: f"({token[0][1:-1]})", text)
    return _cut(text.strip(), limit)


def markup(text: str) -> list[str]:
    """Return the angle brackets and chat-template tokens in a text, in any width."""
    upper = unicodedata.normalize("NFKC", text).upper()
    return [token for token in ("<", ">", *TEMPLATE_TOKENS) if token in upper]


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    head = (limit - len(_ELLIPSIS) + 1) // 2
    tail = limit - len(_ELLIPSIS) - head
    return text[:head] + _ELLIPSIS + text[len(text) - tail :]
