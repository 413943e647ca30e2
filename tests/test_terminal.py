"""No text of models or files acts on a terminal; long work shows that it lives."""

import io
import re
import subprocess
import sys
import threading
import unicodedata

import pytest
from absl import logging
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax import terminal
from reskill_jax.terminal import activity, duration, notices_to, one_line, printable

HOSTILE = (
    "\x1b[2J\x1b]0;title\x07",  # clears the screen, sets the window's title
    "\x9b31m red",  # the same in one C1 character
    "\r\x08\x7f\x00\x0b\x0c",
    "\u202egnihton\u202c \u2066x\u2069 \u200e\u200f\u061c",  # other order
    "\u200b\ufeff\xad",  # invisible
    "\u2028\u2029\x85",  # breaks
    "\ud83d",  # cannot be printed at all
)
PATIENCE = 60.0


@pytest.mark.parametrize("text", HOSTILE)
def test_what_a_terminal_would_act_upon_is_escaped(text):
    shown = printable(f"before {text} after")
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert shown.isprintable()
    assert printable("\x1b\u202e\ud83d") == r"\x1b\u202e\ud83d"


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_any_text_can_be_printed(text):
    shown = printable(text)
    shown.encode()
    kinds = {unicodedata.category(c) for c in shown if c not in "\n\t\u200d"}
    assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    assert "\n" not in one_line(text)


def test_plain_text_stays_as_it_is():
    text = "Grüße, 日本語:\n\t±5% 🙂 \N{WOMAN}\u200d\N{PERSONAL COMPUTER} \\x1b"
    assert printable(text) == text
    assert one_line(" a\n\n b\tc ") == "a b c"


def run(program, **environment):
    return subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        check=False,
        env={"PATH": "", **environment},
    )


def test_logs_errors_and_tracebacks_of_a_program_are_harmless():
    program = (
        "from absl import logging; from reskill_jax import terminal; terminal.guard()\n"
        r"bad = '\x1b[2J\u202e\ud83d'"
        "\n"
        "logging.warning('from a model: %s', bad)\n"
        "try: raise ValueError(bad)\n"
        "except ValueError: logging.exception('logged')\n"
        "terminal.say(bad)\n"
        "{end}"
    )
    for end in ("terminal.fail(bad)", "raise RuntimeError(bad)"):
        done = run(program.replace("{end}", end), PYTHONPATH=":".join(sys.path))
        assert done.returncode == 1
        assert done.stdout == rb"\x1b[2J\u202e\ud83d" b"\n"
        assert done.stderr.count(rb"\x1b[2J\u202e\ud83d") >= 3, done.stderr
        assert not set(done.stderr) - set(range(32, 127)) - {ord("\n")}


def test_what_could_not_be_raised_is_one_line():
    done = run(
        "from reskill_jax import terminal; terminal.guard()\n"
        "class Last:\n"
        "    def __del__(self): raise ValueError('\\x1b[2J')\n"
        "Last()",
        PYTHONPATH=":".join(sys.path),
    )
    [line] = done.stderr.splitlines()
    assert line.startswith(b"ignored in <function Last.__del__")
    assert line.endswith(rb": ValueError: \x1b[2J")


def test_an_encoding_that_lacks_characters_ends_no_program():
    done = run(
        "from reskill_jax import terminal; terminal.guard(); print('±5% 日本')",
        PYTHONPATH=":".join(sys.path),
        PYTHONIOENCODING="ascii",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == rb"\xb15% \u65e5\u672c" b"\n"


def test_long_work_tells_how_far_it_is_and_ends_quietly():
    told, enough = [], threading.Event()

    def show(line):
        told.append(line)
        if "4 of 9" in line:
            enough.set()

    done = 0
    with notices_to(show):
        with activity("playing", lambda: f"{done} of 9 \x1b[2J", first_s=1e-3):
            done = 4
            assert enough.wait(PATIENCE)
        threads = [thread.name for thread in threading.enumerate()]
        assert "activity" not in threads
    assert re.fullmatch(r"playing: 4 of 9 \\x1b\[2J, 0:\d\d", told[-1])


def test_short_work_is_silent(capsys):
    with activity("a moment"):
        pass
    with pytest.raises(RuntimeError, match="x"), activity("a moment"):
        raise RuntimeError("x")
    assert capsys.readouterr() == ("", "")


def test_notices_go_to_standard_error(capsys):
    told = threading.Event()

    def detail():
        told.set()
        return ""

    with activity("loading", detail, first_s=1e-3):
        assert told.wait(PATIENCE)
    assert capsys.readouterr().err.startswith("loading: 0:00\n")


def test_durations():
    assert [duration(s) for s in (0.4, 61, 3600)] == ["0:00", "1:01", "1:00:00"]


def test_guard_leaves_replaced_streams_alone(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    for name in ("excepthook", "unraisablehook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    former = logging.get_absl_handler().formatter
    terminal.guard()
    logging.get_absl_handler().setFormatter(former)
