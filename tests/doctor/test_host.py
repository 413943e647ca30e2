"""Hosts broken on purpose: packages, drivers, disks."""

import dataclasses
import fcntl
import os
import shutil
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from corridor_runs import corridor_config

from reskill_jax.doctor import host
from reskill_jax.doctor.checks import Session, State
from reskill_jax.grpo.optimizer import TrainState
from reskill_jax.laboratory.recipe import Shape
from reskill_jax.workdir import Workdir


@pytest.fixture
def session(tmp_path):
    return Session(corridor_config("random:tiny"), Workdir(tmp_path / "deep" / "run"))


def test_versions_of_this_host_are_right(session):
    finding = host.versions(session)
    assert finding.state is State.OK, finding
    assert "jax 0." in finding.text


def test_requirements_that_are_not_met_are_named(session, monkeypatch):
    lines = ["jax<0.2", "no-such-package>=1", "numpy", 'torch<0; extra == "parity"']
    monkeypatch.setattr(host.importlib.metadata, "requires", lambda name: lines)
    finding = host.versions(session)
    assert finding.state is State.WRONG
    assert "which must be <0.2; no-such-package is not installed" in finding.text
    assert "torch" not in finding.text


def cards(tmp_path, monkeypatch, text, code=0):
    """Put an nvidia-smi in the way that says `text`."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\necho '{text}'\nexit {code}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)


H100 = "NVIDIA H100 80GB HBM3, {}, 81559, {}"


@pytest.mark.parametrize(
    ("said", "plugins", "state", "text"),
    [
        (H100.format("580.65.06", 4), ["jax-cuda13-plugin"], "ok", "1 x NVIDIA H100"),
        (H100.format("550.54", 4), ["jax-cuda13-plugin"], "wrong", "too old for jax"),
        (H100.format("550.54", 4), ["jax-cuda12-plugin"], "ok", "driver 550.54"),
        (H100.format("580.65", 9000), ["jax-cuda13-plugin"], "slow", "1 of them hold"),
        (H100.format("580.65", "[N/A]"), ["jax-cuda13-plugin"], "ok", "1 x NVIDIA"),
        (H100.format("580.65", 4), [], "wrong", "JAX has no plugin"),
    ],
)
def test_drivers_must_fit_the_plugin(
    session, tmp_path, monkeypatch, said, plugins, state, text
):
    cards(tmp_path, monkeypatch, said)
    monkeypatch.setattr(host, "_plugins", lambda: plugins)
    finding = host.drivers(session)
    assert (finding.state, bool(finding.way_out)) == (state, state != "ok")
    assert text in finding.text


def test_a_driver_that_is_not_loaded_is_said(session, tmp_path, monkeypatch):
    cards(tmp_path, monkeypatch, "couldn not communicate with the driver", 9)
    finding = host.drivers(session)
    assert finding.state is State.WRONG
    assert "communicate with the driver" in finding.text


def test_gpus_that_are_switched_off_are_said(session, tmp_path, monkeypatch):
    cards(tmp_path, monkeypatch, H100.format("580.65", 4))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert "unset JAX_PLATFORMS" in host.drivers(session).way_out


def test_a_workdir_is_as_it_was(session, tmp_path):
    assert host.workdir(session).state is State.OK
    assert [*tmp_path.iterdir()] == []


def test_the_lock_of_a_run_stays(session):
    with session.workdir.lock():
        with pytest.raises(BlockingIOError, match="in use by process"):
            host.workdir(session)
        assert (session.workdir.root / "lock").exists()


def test_a_workdir_that_cannot_be_written_is_named(session, tmp_path):
    (tmp_path / "deep").write_text("a file")
    with pytest.raises(OSError, match="cannot be written"):
        host.workdir(session)


def test_locks_that_do_not_hold_are_found(session, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: None)
    finding = host.workdir(session)
    assert finding.state is State.WRONG
    assert "locks do not hold" in finding.text


def with_state(session, size=2**20):
    params = {"x": jnp.zeros(size // 4)}
    return dataclasses.replace(session, state=TrainState(params, {}, jnp.int32(0)))


def test_a_disk_must_hold_all_checkpoints(session, monkeypatch):
    session = with_state(session)
    assert host.space(session).state is State.OK
    usage = shutil._ntuple_diskusage(10**9, 10**9, 5 * 2**19)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    finding = host.space(session)  # two are kept, one is in the making
    assert finding.state is State.WRONG
    assert "2.5 MiB free for checkpoints of 1.0 MiB" in finding.text
    session.config.checkpoint.keep = 1
    assert host.space(session).state is State.OK


def test_a_directory_for_weights_may_be_made_later(session, tmp_path):
    policy = SimpleNamespace(config=Shape().decoder(500))
    session = dataclasses.replace(with_state(session), policy=policy)
    session.config.engine.name = "vllm"
    session.config.engine.vllm.weights_dir = str(tmp_path / "later" / "weights")
    assert host.space(session).state is State.OK


def test_a_cache_that_cannot_be_kept_is_slow(session, tmp_path, monkeypatch):
    monkeypatch.setenv("RESKILL_CACHE", str(tmp_path / "cache"))
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: path != tmp_path and real(path, mode)
    )
    finding = host.space(with_state(session))
    assert finding.state is State.SLOW
    assert "RESKILL_CACHE" in finding.way_out


def test_another_configuration_of_the_same_run_is_named(session):
    session.workdir.root.mkdir(parents=True)
    session.workdir.bind(session.config.to_dict() | {"seed": 7})
    with pytest.raises(ValueError, match=r"config.seed: 7 there"):
        host.configuration(session)
