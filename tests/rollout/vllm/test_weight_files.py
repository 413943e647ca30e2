"""What a vLLM worker accepts as weights, before it touches its model."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from reskill_jax.rollout.vllm.plugin.weight_files import check, read_shapes

MANIFEST = {"a": (2, 3), "b": (4,), "c": ()}


def write(directory, name="model.safetensors", **shapes):
    shapes = {key: shapes.get(key, shape) for key, shape in MANIFEST.items()}
    arrays = {k: np.zeros(s, np.float32) for k, s in shapes.items() if s is not None}
    save_file(arrays, directory / name)


def test_a_complete_directory_is_accepted(tmp_path):
    write(tmp_path, "x-1.safetensors", c=None)
    write(tmp_path, "x-2.safetensors", a=None, b=None)
    files = check(tmp_path, MANIFEST)
    assert [path.name for path in files] == ["x-1.safetensors", "x-2.safetensors"]


def test_files_of_other_writers_are_read_as_theirs(tmp_path):
    write(tmp_path)
    assert read_shapes(tmp_path / "model.safetensors") == MANIFEST


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"b": None}, "b is missing"),
        ({"a": (3, 2)}, r"a is \[3, 2\], not \[2, 3\]"),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, shapes, message):
    write(tmp_path, **shapes)
    with pytest.raises(ValueError, match=message):
        check(tmp_path, MANIFEST)


def test_unexpected_and_repeated_tensors_are_named(tmp_path):
    save_file({"d": np.zeros(1)}, tmp_path / "1.safetensors")
    write(tmp_path, "2.safetensors")
    write(tmp_path, "3.safetensors", a=None, b=None)
    with pytest.raises(ValueError, match="c is in two files; d is unexpected"):
        check(tmp_path, MANIFEST)


def test_many_problems_are_counted(tmp_path):
    write(tmp_path)
    manifest = MANIFEST | {f"x{i}": (1,) for i in range(9)}
    with pytest.raises(ValueError, match="x4 is missing; and 4 more"):
        check(tmp_path, manifest)


def test_a_directory_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no safetensors files"):
        check(tmp_path, MANIFEST)


def damage(path, how):
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    if how == "cut":
        data = data[:-1]
    elif how == "longer":
        data += b"\0"
    elif how == "empty":
        data = bytearray()
    elif how == "huge header":
        data[:8] = (1 << 40).to_bytes(8, "little")
    elif how == "not JSON":
        data[8:12] = b"!!!!"
    elif how == "no offsets":
        header = json.loads(data[8 : 8 + length])
        del header["a"]["data_offsets"]
        text = json.dumps(header).encode()
        data = bytearray(len(text).to_bytes(8, "little") + text) + data[8 + length :]
    path.write_bytes(data)


@pytest.mark.parametrize(
    "how", ["cut", "longer", "empty", "huge header", "not JSON", "no offsets"]
)
def test_damaged_files_are_named(tmp_path, how):
    write(tmp_path)
    damage(tmp_path / "model.safetensors", how)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        check(tmp_path, MANIFEST)
