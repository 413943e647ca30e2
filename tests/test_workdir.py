import copy
import json
import os
import resource
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax import defaults
from reskill_jax.memories.settings import METHODS
from reskill_jax.storage import plain, write_text
from reskill_jax.workdir import Workdir, flatten

CONFIG = {
    "seed": 0,
    "num_steps": 10,
    "grpo": {"group_size": 8, "clip": (0.2, 0.28)},
    "model": {},
}

HOLD = """
import pathlib, sys, time
from reskill_jax.workdir import Workdir
with Workdir(pathlib.Path(sys.argv[1])).lock():
    print("held", flush=True)
    time.sleep(60)
"""


def test_first_start_writes_the_whole_configuration(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.bind(CONFIG)
    stored = json.loads(workdir.config.read_text())
    assert stored == {**CONFIG, "grpo": {"group_size": 8, "clip": [0.2, 0.28]}}
    assert workdir.read_config() == stored


def test_same_configuration_binds_again(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.bind(CONFIG)
    before = workdir.config.read_bytes()
    workdir.bind(CONFIG)
    assert workdir.config.read_bytes() == before


def test_another_configuration_is_refused_with_all_keys_and_values(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.bind(CONFIG)
    other = {
        **CONFIG,
        "grpo": {"group_size": 16, "clip": [0.2, 0.28], "beta": None},
        "model": {"width": 64},
    }
    with pytest.raises(ValueError, match="another configuration") as caught:
        workdir.bind(other)
    message = str(caught.value)
    assert "config.grpo.group_size: 8 there, 16 now" in message
    assert "config.grpo.beta: absent there, null now" in message
    assert "config.model.width: absent there, 64 now" in message
    assert "config.seed" not in message
    assert "clip" not in message
    assert "--workdir" in message
    assert workdir.read_config()["grpo"]["group_size"] == 8


def test_state_of_which_nobody_can_tell_the_configuration_is_refused(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.bind(CONFIG)
    (workdir.checkpoints / "00000004").mkdir(parents=True)
    workdir.bind(CONFIG)
    workdir.config.unlink()
    with pytest.raises(ValueError, match=r"config.json is missing, and .*: restore"):
        workdir.bind({**CONFIG, "seed": 1})
    assert not workdir.config.exists()


def test_checkpoints_that_are_no_directory_are_refused_at_the_start(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.checkpoints.write_text("")
    with pytest.raises(ValueError, match="checkpoints is no directory: remove it"):
        workdir.bind(CONFIG)
    workdir.checkpoints.unlink()
    workdir.checkpoints.symlink_to(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"is no directory: .*the link"):
        workdir.bind(CONFIG)
    (tmp_path / "gone").mkdir()
    workdir.bind(CONFIG)


def test_the_constants_of_a_method_belong_to_the_run(tmp_path):
    """What a method keeps was counted by them; a state of other ones would mix both."""
    config = defaults.get_config("alfworld").to_dict()
    workdir = Workdir(tmp_path)
    workdir.bind(config)
    for section in METHODS:
        for key, value in config["strategy"][section].items():
            other = copy.deepcopy(config)
            other["strategy"][section][key] = f"not {value}"
            with pytest.raises(ValueError, match=rf"config.strategy.{section}.{key}: "):
                workdir.check(other)
    with pytest.raises(ValueError, match=r"config.embedder.name: "):
        workdir.check(config | {"embedder": config["embedder"] | {"name": "openai"}})


def test_a_run_can_be_made_longer_but_not_shorter(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.bind(CONFIG)
    workdir.bind({**CONFIG, "num_steps": 20})
    assert workdir.read_config()["num_steps"] == 20
    with pytest.raises(ValueError, match=r"config.num_steps: 20 there, 10 now"):
        workdir.bind(CONFIG)
    with pytest.raises(ValueError, match=r"config.seed: 0 there, 1 now"):
        workdir.bind({**CONFIG, "num_steps": 30, "seed": 1})
    assert workdir.read_config()["num_steps"] == 20


def test_a_run_can_go_on_with_other_devices(tmp_path):
    workdir = Workdir(tmp_path)
    workdir.bind({**CONFIG, "mesh": {"fsdp": 4}})
    workdir.bind({**CONFIG, "mesh": {"fsdp": 2}})
    assert workdir.read_config()["mesh"] == {"fsdp": 2}


def test_a_missing_or_damaged_configuration_is_named(tmp_path):
    workdir = Workdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        workdir.read_config()
    workdir.config.write_text('{"seed": ')
    with pytest.raises(ValueError, match=r"config.json is not JSON: .* restore"):
        workdir.bind(CONFIG)


def test_two_processes_cannot_use_one_workdir(tmp_path):
    workdir = Workdir(tmp_path / "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(workdir.root)], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(BlockingIOError, match=f"in use by process {holder.pid} on"),
            workdir.lock(),
        ):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    with workdir.lock():  # the kernel has freed the lock of the killed process
        lock = (workdir.root / "lock").read_text()
        assert lock.split()[0] == str(os.getpid())


def test_lock_is_free_after_an_error(tmp_path):
    workdir = Workdir(tmp_path)
    with pytest.raises(KeyError), workdir.lock():
        raise KeyError
    with workdir.lock():
        pass


def test_write_text_replaces_whole_files(tmp_path):
    path = tmp_path / "new" / "file.txt"
    write_text(path, "old\r\n")
    assert path.read_bytes() == b"old\r\n"
    write_text(path, "né")
    assert path.read_bytes() == "né".encode()
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_failed_write_names_the_file_and_leaves_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"file\.txt"):
            write_text(path, "x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
@settings(deadline=None)
def test_plain_documents_survive_json_exactly(value):
    copied = plain(value, "x")
    assert repr(copied) == repr(value)
    assert repr(json.loads(json.dumps(copied))) == repr(value)


def test_plain_copies():
    value = {"a": [1, (2, 3)]}
    copied = plain(value, "x")
    value["a"].append(4)
    assert copied == {"a": [1, [2, 3]]}


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": [0.0, float("nan")]}, ValueError, r"host\.a\[1\] is nan"),
        ({"a": {"b": float("-inf")}}, ValueError, r"host\.a\.b is -inf"),
        ({"a": {1: 2}}, TypeError, r"host\.a has the key 1"),
        ({"a": {"x"}}, TypeError, r"host\.a is of type set"),
        ({"a": Path("x")}, TypeError, r"host\.a is of type PosixPath"),
    ],
)
def test_plain_refuses_what_json_cannot_hold(value, error, message):
    with pytest.raises(error, match=message):
        plain(value, "host")


def test_flatten():
    tree = {"a": {"b": 1, "c": {"d": [2]}}, "e": {}, "f": None}
    assert flatten(tree) == {"a.b": 1, "a.c.d": [2], "e": {}, "f": None}


def test_a_workdir_that_cannot_be_written_is_named_with_the_way_out(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "run"):
        with (
            pytest.raises(OSError, match=f"^workdir='{root}' cannot be written: .*ano"),
            Workdir(root).lock(),
        ):
            pass
