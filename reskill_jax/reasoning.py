"""Finds the answer of a reasoning model: what it says after its thoughts.

Models think before they answer, in texts such as ``<think>..</think>answer``, and what
they draft there is not the answer. The marks around thoughts have many spellings, the
first is missing where a chat template wrote it already, and some models have channels
in their place. A text that only mentions a mark is an answer: in quotes, in a JSON
object, or in an element such as ``<action>``.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Iterator
from itertools import pairwise

# Elements that hold thoughts; a prefix may stand before the name, as in <seed:think>.
TAGS = (
    *("think", "thinking", "thought", "thoughts", "reason", "reasoning"),
    *("analysis", "reflection", "scratchpad"),
)
_NAME = rf"(?:\w{{1,9}}:)?(?:{'|'.join(TAGS)})"
# Then those of Magistral, of Kimi, of OpenThinker, of Command A and of Gemma.
_MARK = re.compile(
    rf"(?P<opening><\s{{0,9}}{_NAME}(?:\s[^<>]{{0,99}})?>|\[think\]|◁think▷|<\|think\|>"
    r"|<\|begin_of_thought\|>|<\|start_thinking\|>|<\|channel>\s{0,9}thought\b)"
    rf"|(?P<closing><\s{{0,9}}/\s{{0,9}}{_NAME}\s{{0,9}}>|\[/think\]|◁/think▷|<\|/think\|>"
    r"|<\|end_of_thought\|>|<\|end_thinking\|>|<channel\|>)",
    re.IGNORECASE,
)
# Channels of gpt-oss: a message is a thought, or it is final. Where special tokens were
# left out, the words around them remain: "analysis..assistantfinal..".
_CHANNEL = re.compile(r"<\|channel\|>\s*(analysis|commentary|final)\b", re.IGNORECASE)
_MESSAGE = re.compile(
    r"(?:[^\n]{0,99}?<\|message\|>)?(.*?)(?:<\|(?:end|return|call|start|channel)\|>|\Z)",
    re.IGNORECASE | re.DOTALL,
)
_BARE_THOUGHT = re.compile(r"\s*analysis", re.IGNORECASE)
_BARE_FINAL = "assistantfinal"

_ELEMENT = re.compile(r"<(\w+)>")
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "«": "»"}
_OBJECTS = 1000  # places where a JSON object is looked for, at most
_DECODER = json.JSONDecoder()
Marks = list[re.Match[str]]


def answer_of(text: str) -> str:
    """Return what a model says after its thoughts; "" while it still thinks.

    The answer begins behind the last mark that ends thoughts, whatever was drafted
    before. If nothing follows, it is what stands before those thoughts.

    Args:
        text: all that the model wrote, with or without thoughts.
    """
    text = _final_message(text)
    marks = _without_mentions(text, [*_MARK.finditer(text)])
    end, after = len(text), len(marks)
    while True:
        closing = after - 1
        while closing >= 0 and not marks[closing]["closing"]:
            closing -= 1
        start = marks[closing].end() if closing >= 0 else 0
        for mark in marks[closing + 1 : after]:
            line = max(start, text.rfind("\n", start, mark.start()) + 1)
            if not text[line : mark.start()].strip():
                end = mark.start()  # thoughts that do not end
                break  # within a line the mark would be a mention
        answer = text[start:end]
        if closing < 0 or answer.strip():
            return answer
        if closing == 0 or not marks[closing - 1]["opening"]:
            return ""  # thoughts from the beginning on
        after = closing - 1
        end = marks[after].start()


def opened_by(text: str) -> str:
    """Return the mark that begins thoughts in a text, e.g. a prompt; "" if they end."""
    marks = [*_MARK.finditer(text)]
    return marks[-1][0] if marks and marks[-1]["opening"] else ""


def is_mark(text: str) -> bool:
    """Tell whether a text is a mark that begins or ends thoughts, and nothing else."""
    return _MARK.fullmatch(text) is not None


def _final_message(text: str) -> str:
    """Return the last final message, or the whole of a text without channels."""
    marks = _without_mentions(text, [*_CHANNEL.finditer(text)])
    if marks:
        finals = [i for i, mark in enumerate(marks) if mark[1].lower() == "final"]
        if not finals:
            return ""
        message = _MESSAGE.match(text, marks[finals[-1]].end())
        return message[1] if message else ""
    if _BARE_THOUGHT.match(text) and _BARE_FINAL in text:
        return text.rpartition(_BARE_FINAL)[2]
    return text


def _without_mentions(text: str, marks: Marks) -> Marks:
    """Leave out the marks that a text only mentions."""
    if not marks:
        return marks
    mentions = {mark for mark in marks if _in_quotes(text, mark, mark)}
    for pair in pairwise(marks):
        if _in_quotes(text, *pair) and "\n" not in text[pair[0].end() : pair[1].end()]:
            mentions.update(pair)
    mentions.update(_in_elements(text, marks))
    objects = [*_objects(text)]
    for mark in marks:
        place = bisect_left(objects, (mark.start(), 0)) - 1
        if place >= 0 and mark.start() < objects[place][1]:
            mentions.add(mark)
    return [mark for mark in marks if mark not in mentions]


def _in_quotes(text: str, first: re.Match[str], last: re.Match[str]) -> bool:
    """Tell whether quotes begin right before one mark and end right after another."""
    before = text[max(first.start() - 2, 0) : first.start()]
    after = text[last.end() : last.end() + 2]
    return (
        _QUOTES.get(before[-1:], "none") == after[:1]
        and not before[:-1].isalnum()
        and not after[1:].isalnum()
    )


def _objects(text: str) -> Iterator[tuple[int, int]]:
    """Yield where JSON objects begin and end."""
    end = 0
    for _ in range(_OBJECTS):
        start = text.find("{", end)
        if start < 0:
            return
        try:
            _, end = _DECODER.raw_decode(text, start)
            yield start, end
        except (ValueError, RecursionError):
            end = start + 1


def _in_elements(text: str, marks: Marks) -> Iterator[re.Match[str]]:
    """Yield the marks within elements: after an opening tag, before its closing tag."""
    openings = iter([m for m in _ELEMENT.finditer(text) if not _MARK.match(m[0])])
    following, end = next(openings, None), -1
    for mark in marks:
        opening = None
        while following is not None and following.start() < mark.start():
            opening, following = following, next(openings, None)
        if opening is not None:
            end = text.find(f"</{opening[1]}>", opening.end())
            if text.find(opening[0], opening.end(), max(end, 0)) >= 0:
                end = -1  # it begins again, so it did not end
        if mark.end() <= end:
            yield mark
