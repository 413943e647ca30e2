"""JSON objects are read whole, or the error says which file is wrong, and how."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.storage import append_line, read_json, read_json_lines, well_formed


def test_reads_an_object(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"name": "Grüße", "sizes": [1, 2.5]}', encoding="utf-8")
    assert read_json(path) == {"name": "Grüße", "sizes": [1, 2.5]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', r"a\.json is not JSON: Expecting value"),
        (b"", r"a\.json is not JSON"),
        (b'"\xff"', r"a\.json is not JSON: 'utf-8' codec"),
        (b"[1, 2]", r"a\.json is not a JSON object: \[1, 2\]"),
        (b"[" * 100_000, r"a\.json is not JSON: maximum recursion"),
        (b"null", r"a\.json is not a JSON object: None"),
    ],
)
def test_what_is_not_an_object_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json does not exist"):
        read_json(tmp_path / "a.json")


def test_lines_of_any_system_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + b'{"a": "\\ud83d\\ude42 \\ud83d!"}\r\n\n  \n'
        + b'[NaN, null, "\\\\ud83d"]\n"no newline \xc3\xa9"'
    )
    (place, first), (_, second), (last, third) = read_json_lines(path)
    assert first == {"a": "\N{SLIGHTLY SMILING FACE} \ufffd!"}
    assert second[1:] == [None, "\\ud83d"]
    assert third == "no newline é"
    assert (place, last) == (f"{path}, line 1", f"{path}, line 5")


@pytest.mark.parametrize(
    "line", [b'{"a": ', b"\xff", b"[" * 100_000, b"9" * 5_000, b"nul"]
)
def test_a_line_that_is_not_json_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n" + line + b"\n2\n")
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: not JSON: "):
        list(read_json_lines(path))


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_well_formed_text_can_be_written_and_valid_text_stays(text):
    made = well_formed(text)
    made.encode()
    if not any("\ud800" <= character <= "\udfff" for character in text):
        assert made == text


def test_a_line_is_appended_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "lines"
    append_line(path, "a")
    path.write_bytes(path.read_bytes() + b"no end")
    append_line(path, "\u00e9")
    before = "a\nno end\n\u00e9\n".encode()
    assert path.read_bytes() == before
    # A file that may not grow beyond 10,000 bytes stands for a full disk.
    program = (
        "import pathlib, resource, sys; from reskill_jax.storage import append_line; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)); "
        "append_line(pathlib.Path(sys.argv[1]), 'x' * 20_000)"
    )
    command = (sys.executable, "-c", program, str(path))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(path) in done.stderr.splitlines()[-1]
    assert path.read_bytes() == before


def test_lines_of_several_processes_do_not_mix(tmp_path):
    path = tmp_path / "lines"
    program = (
        "import pathlib, sys; from reskill_jax.storage import append_line\n"
        "for _ in range(50):\n"
        "    append_line(pathlib.Path(sys.argv[1]), sys.argv[2] * 30_000)"
    )
    commands = [(sys.executable, "-c", program, str(path), x) for x in "abc"]
    for process in [subprocess.Popen(command) for command in commands]:
        assert process.wait(60) == 0
    lines = path.read_text().splitlines()
    assert sorted(lines) == [x * 30_000 for x in "abc" for _ in range(50)]
