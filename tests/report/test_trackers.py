import json
import os
import sqlite3
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from reskill_jax.environments.alfworld.rules import HELPFUL
from reskill_jax.report import trackers
from reskill_jax.report.logbook import Logbook
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.report.track import replay
from reskill_jax.report.trackers import (
    TRACKERS,
    Trackers,
    as_markdown,
    describe,
    make_tracker,
)
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.workdir import Workdir

CONFIG = {"seed": 1, "num_steps": 4, "env.workers": 2, "grpo.clip_low": 0.2}
BANK = SkillBank((HELPFUL[0].skill(),))


class Recorder:
    """Keeps what it is told."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        return lambda *arguments: self.calls.append((name, *arguments))


def events(directory: Path) -> list[Event]:
    """Read event files: records of length, crc, data, crc."""
    found = []
    for path in sorted(directory.glob("events.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + size]))
            data = data[16 + size :]
    return found


def make_run(root: Path) -> Workdir:
    """Write what a run of four steps, killed after two, leaves behind."""
    workdir = Workdir(root / "a run")
    workdir.episodes.mkdir(parents=True)
    nested = {"seed": 1, "num_steps": 4, "env": {"workers": 2}}
    workdir.config.write_text(json.dumps(nested | {"grpo": {"clip_low": 0.2}}))
    writer = MetricWriter(workdir.metrics)
    writer.write(0, {"success": 0.5}, phase="eval")
    for step in (1, 2):
        writer.write(step, {"loss": 1 / step, "kl": float("nan")})
    workdir.trials.write_text('{"step": 2, "accepted": true}\n{"step": 3, "acc')
    episode = {"task": "t", "kind": "k", "arm": 0, "group": 0, "index": 0, "reward": 1}
    episode |= {"observations": ["a <b>room</b>", "done"], "responses": ["go"]}
    episode |= {"success": True, "split": "dev"}
    line = json.dumps(episode) + "\n"
    (workdir.episodes / "eval-00000.jsonl").write_text(line * 30)
    save_bank(BANK, workdir.skills)
    return workdir


def test_a_replay_tells_a_tracker_all_that_was_written(tmp_path):
    recorder = Recorder()
    workdir = make_run(tmp_path)
    assert replay(workdir, recorder) == 3
    names = [(name, *rest[:2]) for name, *rest in recorder.calls[1:-1]]
    assert names == [
        ("scalars", 0, "eval"),
        ("episodes", 0, "eval"),
        ("scalars", 1, "train"),
        ("scalars", 2, "train"),
        ("document", 2, "trial"),
        ("document", 2, "skills"),
    ]
    assert len(recorder.calls[2][3]) == 20
    assert HELPFUL[0].skill().name in as_markdown(BANK)
    assert recorder.calls[-1] == ("finish", "finished")
    live = describe(workdir.root, CONFIG, 3)
    assert recorder.calls[0][1].run_id == live.run_id


def test_a_run_keeps_its_id_where_it_goes_on_elsewhere_or_longer(tmp_path):
    run_id = describe(tmp_path / "a", CONFIG, 0).run_id
    moved = CONFIG | {"num_steps": 9, "env.workers": 7}
    assert describe(tmp_path / "a", moved, 5).run_id == run_id
    assert describe(tmp_path / "b", CONFIG, 0).run_id != run_id
    assert describe(tmp_path / "a", CONFIG | {"seed": 2}, 0).run_id != run_id


def test_tensorboard_gets_every_metric_and_hides_repeated_steps(tmp_path):
    for start, steps in ((0, range(4)), (2, range(2, 4))):
        tracker = make_tracker("tensorboard")
        tracker.start(describe(tmp_path, CONFIG, start))
        for step in steps:
            tracker.scalars(step, "train", {"loss": 1 / (step + 3)})
            if step % 2:
                tracker.scalars(step, "unseen", {"success": step / 7})
        tracker.finish("finished")
    train = events(tmp_path / "tensorboard" / "train")
    losses = [
        (event.step, value.simple_value)
        for event in train
        for value in event.summary.value
    ]
    assert [step for step, _ in losses] == [0, 1, 2, 3, 2, 3]
    assert losses[1][1] == pytest.approx(1 / 4)
    # A session log of kind START tells TensorBoard from which step on to forget.
    assert [e.step for e in train if e.session_log.status == 1] == [0, 2]
    unseen = events(tmp_path / "tensorboard" / "unseen")
    tags = [(e.step, v.tag) for e in unseen for v in e.summary.value]
    assert tags == [(1, "success"), (3, "success"), (3, "success")]


def test_a_tracker_that_fails_is_left_out_by_name_and_the_others_go_on():
    class Broken(Recorder):
        def scalars(self, *arguments):
            raise ConnectionError("no route to host")

    notices, whole, broken = [], Recorder(), Broken()
    both = Trackers({"broken": broken, "whole": whole}, notices.append)
    for step in range(3):
        both.scalars(step, "train", {})
    both.finish("finished")
    assert [name for name, *_ in whole.calls] == ["scalars"] * 3 + ["finish"]
    assert broken.calls == []
    (notice,) = notices
    assert "tracker broken is left out" in notice
    assert "ConnectionError: no route to host" in notice


def test_a_tracker_that_hangs_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(trackers, "_WAITING", 5)
    monkeypatch.setattr(trackers, "_LAST_WAIT_S", 0.1)
    release = threading.Event()

    class Slow(Recorder):
        def start(self, run):
            release.wait()

    notices = []
    slow = Trackers({"slow": Slow()}, notices.append)
    slow.start(None)
    for step in range(20):
        slow.scalars(step, "train", {})
    slow.finish("finished")
    release.set()
    (notice,) = notices
    assert "it is 5 calls behind" in notice


def test_a_logbook_tells_its_trackers_how_a_run_ended(tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(TRACKERS, "recorder", f"{__name__}:make")
    monkeypatch.setitem(globals(), "make", lambda: recorder)
    settings = {"total": 2, "done": 0, "evaluated": True, "logprob_diff_warning": 1.0}
    logbook = Logbook(Workdir(tmp_path), **settings, trackers=("recorder",))
    with pytest.raises(KeyError), logbook:
        raise KeyError
    assert [call[0] for call in recorder.calls] == ["start", "finish"]
    assert recorder.calls[-1] == ("finish", "failed")


def test_an_unknown_tracker_is_refused():
    with pytest.raises(ValueError, match="trackers='mlflow': choose from tensorboard"):
        make_tracker("mlflow")


def track(workdir: Workdir, *flags: str, **environment: str):
    """Send a run with the command, in a process of its own."""
    command = [sys.executable, "-m", "reskill_jax.report.track"]
    return subprocess.run(
        [*command, f"--workdir={workdir.root}", *flags],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def send(workdir: Workdir, to: str, **environment: str) -> None:
    """Send a run to a tracker that takes it."""
    done = track(workdir, f"--to={to}", **environment)
    assert done.returncode == 0, done.stderr
    assert f"3 lines of metrics of {workdir.root} are in {to}" in done.stdout


def test_what_the_command_cannot_send_is_told_in_a_line(tmp_path):
    done = track(Workdir(tmp_path), "--to=tensorboard")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("is no run: it has no config.json")
    done = track(make_run(tmp_path), "--to=tensorboard", "--name=again")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: --name: its files are")


@pytest.mark.slow
def test_an_error_of_a_service_is_told_in_a_line(tmp_path):
    pytest.importorskip("wandb")
    nothing = {"WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "n")}
    done = track(make_run(tmp_path / "run"), "--to=wandb", **nothing)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: wandb: UsageError: No API")
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_wandb_takes_a_run_offline(tmp_path):
    pytest.importorskip("wandb")
    workdir = make_run(tmp_path)
    send(workdir, "wandb", WANDB_MODE="offline")
    run_id = describe(workdir.root, CONFIG, 0).run_id
    (file,) = workdir.root.glob(f"wandb/offline-run-*/run-{run_id}.wandb")
    content = file.read_bytes()
    for text in (b"train/loss", b"eval/success", b"grpo.clip_low"):
        assert text in content
    # Nothing about this machine.
    for text in (sys.executable, "pytest=="):
        assert text.encode() not in content
    assert not list(file.parent.glob("files/requirements.txt"))


@pytest.mark.slow
def test_trackio_takes_a_run(tmp_path):
    pytest.importorskip("trackio")
    workdir = make_run(tmp_path)
    send(workdir, "trackio", TRACKIO_DIR=str(tmp_path / "trackio"))
    with sqlite3.connect(tmp_path / "trackio" / "reskill_jax.db") as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    found = {(step, key) for step, text in rows for key in json.loads(text)}
    assert {(0, "eval/success"), (1, "train/loss"), (2, "train/kl")} <= found
