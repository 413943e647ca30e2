"""What goes to the terminal: harmless text, and signs of life from long work.

Text of models, files and environments may hold control characters. They could clear the
screen, forge what was printed before, set the window's title, or show words in another
order than they have (bidirectional marks).
"""

import sys
import threading
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from logging import LogRecord
from types import TracebackType
from typing import Any, NoReturn

from absl import logging

# Control, format, surrogate characters, and separators that terminals take for breaks.
_HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_KEPT = {"\n", "\t", "\u200d"}  # the last one joins the parts of an emoji
_FIRST_S = 5.0  # seconds until work says that it goes on
_LONGEST_PAUSE_S = 60.0  # between two signs of life


def printable(text: str) -> str:
    r"""Return text with everything that a terminal would act upon as an escape.

    Args:
        text: anything; line breaks and tabs stay.

    Returns:
        The same, with e.g. ``\x1b`` in place of the escape character.
    """
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(map(_shown, text))


def one_line(text: str) -> str:
    """Return untrusted text as one harmless line, its blanks collapsed."""
    return printable(" ".join(text.split()))


def say(text: str) -> None:
    """Print untrusted text."""
    print(printable(text), flush=True)


def fail(error: object) -> NoReturn:
    """End the program with an error message."""
    sys.exit(printable(f"error: {error}"))


def duration(seconds: float) -> str:
    """Write a time as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextmanager
def activity(
    what: str, detail: Callable[[], str] | None = None, *, first_s: float = _FIRST_S
) -> Iterator[None]:
    """Tell after some seconds, and then ever more rarely, that something goes on.

    Args:
        what: in a few words, such as ``loading the weights``.
        detail: how far it is, such as ``12 of 64 episodes``; called in a thread.
        first_s: seconds until it is first told, doubled with each time up to a minute.
    """
    started = time.monotonic()
    ended = threading.Event()

    def watch() -> None:
        pause = first_s
        while not ended.wait(pause):
            parts = [detail() if detail else "", duration(time.monotonic() - started)]
            _notice(f"{what}: {', '.join(part for part in parts if part)}")
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    watcher = threading.Thread(target=watch, name="activity", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


_show: Callable[[str], None] = _to_stderr


@contextmanager
def notices_to(show: Callable[[str], None]) -> Iterator[None]:
    """Give signs of life to `show`, e.g. to what keeps a line at the bottom."""
    global _show  # noqa: PLW0603 (there is one terminal)
    former, _show = _show, show
    try:
        yield
    finally:
        _show = former


def _notice(line: str) -> None:
    _show(printable(line))


def guard() -> None:
    """Make harmless what is logged and the tracebacks of what nobody caught.

    To be called once, at the start of a program. Characters that the terminal's
    encoding lacks are escaped from now on: no text can end the program.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a replaced one has none
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(_Formatter())
    sys.excepthook = _show_exception
    sys.unraisablehook = _show_unraisable


class _Formatter(logging.PythonFormatter):
    def format(self, record: LogRecord) -> str:
        return printable(super().format(record))


def _show_exception(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    lines = traceback.format_exception(kind, error, trace)
    sys.stderr.write(printable("".join(lines)))


def _show_unraisable(found: Any) -> None:
    """Tell in a line of what could not be raised, e.g. in a callback of a library."""
    what = f"{type(found.exc_value).__name__}: {found.exc_value}"
    where = found.object or "a callback"
    sys.stderr.write(one_line(f"ignored in {where}: {what}") + "\n")


def _shown(character: str) -> str:
    harmful = unicodedata.category(character) in _HARMFUL
    if not harmful or character in _KEPT:
        return character
    return character.encode("unicode_escape").decode()
