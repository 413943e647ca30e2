"""Programs take flags only, and end without a traceback when nobody reads on."""

import signal
import subprocess
import sys

import pytest
from programs import ROOT

COUNT = """
import time
from reskill_jax.command_line import start
def count():
    for number in range(100_000):
        print(number, flush=True)
        time.sleep(1e-3)
start(count)
"""


def program(text, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", text, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("argument", ["7", "--", "-"])
def test_words_that_are_no_flags_are_refused(argument):
    process = program(COUNT, argument, "seeds")
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert not output
    assert "unexpected arguments" in errors
    assert "'seeds'" in errors


def test_an_unknown_flag_is_named_in_a_line():
    process = program(COUNT, "--sedes=1")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: Unknown command line flag 'sedes'" in errors
    assert "Traceback" not in errors


def test_output_that_nobody_reads_ends_a_program_quietly():
    process = program(COUNT)
    assert process.stdout.readline() == "0\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == ""


def test_ctrl_c_ends_a_program_without_a_traceback():
    process = program(COUNT)
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "interrupted\n"
