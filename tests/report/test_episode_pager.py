"""Episodes are found by their flags and printed without harm."""

import os
import subprocess
import sys

from programs import CPU, ROOT
from report_runs import episode, write_lines, write_run

from reskill_jax.report.episodes import Wanted, describe, find
from reskill_jax.report.page.reading import Reader


def test_episodes_are_found_newest_first(tmp_path):
    reader = Reader(write_run(tmp_path / "run"))
    steps = [step for _, step, _ in find(reader, Wanted(phase="train"))]
    assert steps == [3] * 8 + [2] * 8 + [1] * 8
    assert len(list(find(reader, Wanted()))) == 24 + 12  # train, eval
    assert len(list(find(reader, Wanted(task="TASK-1", step=2)))) == 4
    assert len(list(find(reader, Wanted(arm=1, phase="train", kind="place")))) == 6
    assert list(find(reader, Wanted(skill="none"))) == []
    won = list(find(reader, Wanted(outcome="success")))
    assert won
    assert all(line.success for _, _, line in won)


def test_an_episode_is_shown_as_it_went(tmp_path):
    reader = Reader(write_run(tmp_path / "run"))
    *_, line = next(find(reader, Wanted(phase="train", step=1)))
    text = describe("train", 1, line, raw=True)
    assert "train step 1, arm 0: failure, reward 0" in text
    assert "  > go 0   [look]   (invalid)\n    raw: look" in text
    assert text.endswith("  the end")


def test_the_command_prints_harmless_text(tmp_path):
    workdir = write_run(tmp_path / "run", steps=0)
    lines = [episode(1, text="\x1b[2J\u202e"), {"task": 1}]
    write_lines(workdir.episodes / "train-00001.jsonl", lines)
    command = [sys.executable, "-m", "reskill_jax.report.episodes"]
    command += [f"--workdir={workdir.root}", "--raw", "--phase=train"]
    printed = subprocess.run(
        command, cwd=ROOT, env=os.environ | CPU, capture_output=True, check=True
    ).stdout.decode()
    assert "\\x1b[2J\\u202e" in printed
    assert "\x1b" not in printed
    assert "not read: train-00001.jsonl, line 2" in printed
