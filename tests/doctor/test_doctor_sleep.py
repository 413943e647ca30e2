"""Servers on the trainer's devices, which have to give memory back when they sleep."""

import os

import pytest
from corridor_runs import corridor_config

pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")

from fake_vllm import FakeVllm

from reskill_jax.doctor import host, learner, sampler
from reskill_jax.doctor.checks import Session, State
from reskill_jax.workdir import Workdir


@pytest.fixture
def server():
    with FakeVllm(sleep_mode=True) as server:
        yield server


@pytest.fixture
def session(tmp_path, server):
    config = corridor_config("random:tiny", policy__lora__rank=2)
    config.engine.name = "vllm"
    config.engine.vllm.update(
        {
            "urls": (server.url,),
            "colocate": True,
            "logprob_tolerance": 100.0,
            "weights_dir": str(tmp_path / "weights"),
        }
    )
    session = Session(config, Workdir(tmp_path / "run"))
    assert learner.policy(session).state is State.OK
    assert sampler.engine(session).state is State.OK
    server.asked.clear()
    yield session
    session.resources.close()


def cards(tmp_path, monkeypatch, before, after):
    """Let nvidia-smi say first one thing, then another (MiB)."""
    program, asked = tmp_path / "nvidia-smi", tmp_path / "asked"
    program.write_text(
        f"#!/bin/sh\nif [ -e {asked} ]; then echo {after}; else echo {before}; fi\n"
        f"touch {asked}\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_server_that_gives_memory_back_is_well(
    session, server, tmp_path, monkeypatch
):
    cards(tmp_path, monkeypatch, 60_000, 12_000)
    finding = sampler.sleep(session)
    assert finding.state is State.OK, finding
    assert "gave back 46.9 GiB" in finding.text
    assert server.asked.index("/sleep") < server.asked.index("/wake_up kv_cache")


def test_a_server_that_keeps_its_memory_is_found(session, tmp_path, monkeypatch):
    cards(tmp_path, monkeypatch, 60_000, 60_000)
    finding = sampler.sleep(session)
    assert finding.state is State.WRONG
    assert "gave back 0.0 GiB" in finding.text
    assert "--enable-sleep-mode" in finding.way_out


def test_where_nobody_tells_of_memory_only_the_protocol_is_tried(session, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert host.memory_in_use() is None
    finding = sampler.sleep(session)
    assert finding.state is State.OK
    assert "does not tell" in finding.text


def test_servers_with_devices_of_their_own_are_left_awake(session, server):
    session.config.engine.vllm.colocate = False
    assert sampler.sleep(session).state is State.SKIPPED
    assert server.asked == []
