"""JSON objects are read whole, or the error says which file is wrong, and how."""

import pytest

from reskill_jax.storage import read_json


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
