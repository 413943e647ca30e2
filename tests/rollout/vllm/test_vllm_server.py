"""Our handling of server processes, with a program that listens in vLLM's place."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from programs import group_ends

from reskill_jax.rollout.vllm.server import Server, ServerOptions

LISTENER = f"""#!{sys.executable}
import os, signal, socket, sys
signal.signal(signal.SIGINT, lambda *_: os._exit(0))
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[sys.argv.index("--uds") + 1])
listener.listen()
while True:
    listener.accept()[0].sendall(str(os.getpid()).encode())
"""


@pytest.fixture
def options(tmp_path):
    executable = tmp_path / "vllm"
    executable.write_text(LISTENER)
    executable.chmod(0o755)
    return ServerOptions(f"{executable}", tmp_path, "float32", 64)


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "p"
    place.mkdir()
    return place


def who_answers(server):
    """The process that listens where the server should, once it does."""
    path = server.url.removeprefix("unix:")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(path)
            return int(client.recv(64))
        except OSError:
            time.sleep(0.02)
        finally:
            client.close()
    pytest.fail(f"no server listens, {server.tail()}")


@pytest.mark.parametrize("alive", [True, False], ids=["foreign", "stale"])
def test_an_existing_socket_is_replaced(options, place, alive):
    """Another process listens on it, or one that has ended has left its file."""
    foreign = socket.socket(socket.AF_UNIX)
    foreign.bind(f"{place}/socket")
    foreign.listen()
    if not alive:
        foreign.close()
    server = Server(options, place)
    assert who_answers(server) == server.pid
    server.stop()
    assert server.ended()
    assert not Path(f"{place}/socket").exists()
    foreign.close()


def test_a_place_that_no_socket_can_have_is_refused(options, tmp_path):
    place = tmp_path / ("p" * (107 - len(f"{tmp_path}//socket")))
    server = Server(options, place)
    assert who_answers(server) == server.pid
    server.stop()
    with pytest.raises(ValueError, match=r"has 108 bytes.* set TMPDIR to a shorter"):
        Server(options, place.with_name(f"{place.name}p"))
    assert [*tmp_path.glob("p*")] == [place]


def test_a_killed_server_starts_again_at_its_own_socket(options, place):
    server = Server(options, place)
    first = who_answers(server)
    os.kill(first, signal.SIGKILL)
    server.restart()
    assert who_answers(server) == server.pid != first
    server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("deaf", [False, True])
def test_a_server_ends_with_its_trainer_also_by_kill_9(tmp_path, place, deaf):
    executable = tmp_path / "vllm"
    ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    text = LISTENER.replace("while True", f"{ignore}\nwhile True") if deaf else LISTENER
    executable.write_text(text)
    executable.chmod(0o755)
    program = f"""
import time
from pathlib import Path
from reskill_jax.rollout.vllm.server import Server, ServerOptions
options = ServerOptions({f"{executable}"!r}, Path({f"{tmp_path}"!r}), "float32", 64)
print(Server(options, Path({f"{place}"!r})).url, flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", program]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    pid = who_answers(SimpleNamespace(url=trainer.stdout.readline().strip()))
    trainer.kill()
    trainer.wait()
    assert group_ends(pid), "the server outlived its trainer"


def test_a_server_stops_where_nobody_reaps_what_it_leaves(options, place):
    """As in a container whose first process is the trainer."""
    program = f"""
import ctypes, time
from pathlib import Path
from reskill_jax.rollout.vllm.server import Server, ServerOptions
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # orphans become ours
options = ServerOptions({options.executable!r}, Path({f"{place}"!r}), "float32", 64)
server = Server(options, Path({f"{place}"!r}))
while not Path({f"{place}"!r}, "socket").exists():
    time.sleep(0.02)
server.stop()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_program_that_ends_without_a_word_is_told(options, place):
    """A wrong executable may do so; an empty log would tell nobody."""
    server = Server(replace(options, executable="true"), place)
    try:
        server._process.wait(30)
        assert server.ended()
        assert "executable='true'" in server.tail()
    finally:
        server.stop()
