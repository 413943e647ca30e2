"""Finds the JSON object in what a language model answered.

Models wrap it in fences, write their thoughts before it and comments after it. The
search is bounded in time and memory for any text, and finds only what fits the schema.
Objects within thoughts are drafts, never the answer.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from reskill_jax.reasoning import answer_of

MAX_CHARACTERS = 64_000  # of an answer; a real one has a few thousand
_STARTS = 32  # places where an object is looked for
_FENCE = re.compile(r"```[a-zA-Z]{0,8}[^\S\n]*\n(.*?)```", re.DOTALL)
_DECODER = json.JSONDecoder(strict=False)  # models break lines within strings

Answer = TypeVar("Answer", bound=BaseModel)


class AnswerError(ValueError):
    """An answer that cannot be used; the message is for the model that gave it."""


def parse(text: str, schema: type[Answer]) -> Answer:
    """Return the first object in `text` that `schema` accepts.

    Raises:
        AnswerError: too long, no JSON object, or none of the right shape.
    """
    if len(text) > MAX_CHARACTERS:
        raise AnswerError(
            f"the answer is too long, at most {MAX_CHARACTERS} characters are read"
        )
    problem = ""
    for candidate in _objects(text):
        try:
            return schema.model_validate(candidate)
        except ValidationError as error:
            # The first object is the likeliest to be meant.
            problem = problem or _describe(error)
        except RecursionError:
            problem = problem or "the JSON object is nested too deeply"
    if fault := _fault(text):  # what was found after it may be a part of it
        problem = f"the answer holds an object that is no JSON: {fault}; {problem}"
    raise AnswerError(problem.removesuffix("; ") or "the answer holds no JSON object")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects in an answer: all of it, in fences, anywhere."""
    spoken = answer_of(text)
    if text.endswith(spoken):
        yield from _spanning(text, len(text) - len(spoken))
    for part in (spoken, *_FENCE.findall(spoken)[:_STARTS]):
        found = _decode(part.strip(), 0)
        if found is not None:
            yield found[0]
    # Past the end of what was found, so that parts of an object are not found again.
    end = 0
    for _ in range(_STARTS):
        start = spoken.find("{", end)
        if start < 0:
            return
        found = _decode(spoken, start)
        end = start + 1 if found is None else found[1]
        if found is not None:
            yield found[0]


def _spanning(text: str, place: int) -> Iterator[dict[str, Any]]:
    """Yield the objects around a place, outermost first.

    What looks like the end of thoughts there is but mentioned in one of their strings.
    """
    start, found = place, []
    for _ in range(_STARTS):
        start = text.rfind("{", 0, max(start, 0))
        if start < 0:
            break
        decoded = _decode(text, start)
        if decoded is not None and decoded[1] > place:
            found.append(decoded[0])
    yield from reversed(found)


def _decode(text: str, start: int) -> tuple[dict[str, Any], int] | None:
    """Return the object that begins at `start` and where it ends."""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):
        return None
    return (value, end) if isinstance(value, dict) else None


def _fault(text: str) -> str:
    """Say what is wrong with the first thing that looks like an object, if any."""
    spoken = answer_of(text)
    start = spoken.find("{")
    if start < 0:
        return ""
    try:
        _DECODER.raw_decode(spoken, start)
    except json.JSONDecodeError as error:
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    except (ValueError, RecursionError):
        pass  # too many digits, or too deep
    return ""


def _describe(error: ValidationError) -> str:
    """Name the first few fields that are wrong, without what was in them."""
    problems = [
        f"{'.'.join(str(part)[:40] for part in e['loc'][:6]) or 'answer'}: {e['msg']}"
        for e in error.errors(include_input=False, include_url=False)[:5]
    ]
    return "the JSON object has the wrong shape: " + "; ".join(problems)[:600]
