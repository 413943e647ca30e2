import io
import json
import resource
import tempfile
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.report.metrics import MetricWriter, cut, read_metrics, sampled_names
from reskill_jax.report.progress import Progress


def writer(directory: Path, start: int = 0) -> MetricWriter:
    return MetricWriter(directory / "metrics.jsonl", start)


def play(metrics: MetricWriter, steps: range) -> None:
    """Write what a deterministic run measures."""
    for step in steps:
        metrics.write(step, {"loss": 1 / (step + 3), "adv/abs_max": step})
        if step % 2:
            metrics.write(step, {"success": step / 7}, phase="unseen")


def test_lines_have_sorted_keys_and_exact_values(tmp_path):
    metrics = writer(tmp_path)
    metrics.write(0, {"z": 0.1 + 0.2, "a/b": jnp.float32(0.1), "n": np.int64(3)})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == (
        '{"a/b": 0.10000000149011612, "n": 3.0, "phase": "train", "step": 0, '
        '"z": 0.30000000000000004}\n'
    )


@given(st.lists(st.floats(), max_size=20))
@settings(max_examples=20, deadline=None)
def test_every_float_comes_back(values):
    with tempfile.TemporaryDirectory() as name:
        metrics = writer(Path(name))
        metrics.write(0, {f"x{i}": value for i, value in enumerate(values)})
        path = Path(name) / "metrics.jsonl"
        # Strict JSON: no NaN, no Infinity.
        json.loads(path.read_text(), parse_constant=pytest.fail)
        (line,) = read_metrics(path)
    np.testing.assert_array_equal([line[f"x{i}"] for i in range(len(values))], values)


@pytest.mark.parametrize("start", range(7))
@pytest.mark.parametrize("written", [3, 6])
def test_a_resumed_run_ends_with_the_file_of_an_uninterrupted_one(
    tmp_path, start, written
):
    play(writer(tmp_path / "whole"), range(6))
    play(writer(tmp_path / "resumed"), range(written))
    path = tmp_path / "resumed" / "metrics.jsonl"
    with path.open("a") as file:
        file.write('{"loss": 0.33')  # the process was killed in mid-line
    start = min(start, written)
    play(writer(tmp_path / "resumed", start), range(start, 6))
    whole = tmp_path / "whole" / "metrics.jsonl"
    assert path.read_bytes() == whole.read_bytes()


def test_an_evaluation_that_is_made_again_takes_the_place_of_the_old_one(tmp_path):
    metrics = writer(tmp_path)
    for step in range(3):
        metrics.write(step, {"loss": step})
        metrics.write(step, {"success": step}, phase="eval")
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    metrics = MetricWriter(path, start=3, evaluation=2)
    left = [line["phase"] for line in read_metrics(path)]
    assert left == ["train", "eval", "train", "eval", "train"]
    metrics.write(2, {"success": 2}, phase="eval")
    assert path.read_bytes() == before


def test_a_full_disk_leaves_the_lines_before_and_is_told_with_the_file(tmp_path):
    metrics = writer(tmp_path)
    metrics.write(0, {"loss": 1.0})
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"metrics\.jsonl"):
            metrics.write(1, {"x" * 5000: 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_steps_of_a_phase_increase_also_after_a_resume(tmp_path):
    play(metrics := writer(tmp_path), range(3))
    with pytest.raises(ValueError, match="'train': step 2 comes after step 2"):
        metrics.write(2, {"loss": 0.0})
    metrics.write(2, {"success": 0.0}, phase="seen")
    metrics = writer(tmp_path, 2)
    with pytest.raises(ValueError, match="step 1 comes after step 1"):
        metrics.write(1, {"loss": 0.0})


@pytest.mark.parametrize("key", ["step", "phase"])
def test_reserved_names_are_refused(tmp_path, key):
    metrics = writer(tmp_path)
    with pytest.raises(ValueError, match=f"cannot be called '{key}'"):
        metrics.write(0, {key: 1.0})
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@pytest.mark.parametrize(
    "line",
    [
        {"phase": "eval", "step": 1, "valid/success": 10**400},
        {"phase": "eval", "step": 1, "panels": ["x"]},
    ],
)
def test_a_line_of_another_program_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1 is damaged"):
        read_metrics(path)


def test_samples_without_what_belongs_to_them_are_left_out():
    assert sampled_names({"valid/mean@4": 0.5}, "valid") == []


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"phase": "train", "step": 0}\n{"phase"\n{"step": 1}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
        cut(path, 5)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_shows_speed_and_time_left():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, start=10, stream=stream, clock=clock)
    clock.now = 60.0
    progress.update(11, tokens=1200, old=0.5)
    assert stream.getvalue() == (
        "step 11/100 | success old 50% new - | 20 tokens/s | 1:29:00 left\n"
    )


def test_progress_forgets_the_slow_start():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(100, stream=stream, interval=0, clock=clock)
    clock.now = 1000.0  # compilation
    progress.update(1, tokens=10)
    for done in range(2, 31):
        clock.now += 2.0
        progress.update(done, tokens=10)
    last = stream.getvalue().splitlines()[-1]
    assert last.endswith("5 tokens/s | 2:20 left")


def test_progress_prints_plain_lines_now_and_then_and_the_last_step():
    clock, stream = Clock(), io.StringIO()
    progress = Progress(7, stream=stream, interval=10, clock=clock)
    for done in range(1, 8):
        clock.now += 4.0
        progress.update(done, tokens=0, trial="trial 1 of 5")
    progress.close()
    lines = stream.getvalue().splitlines()
    assert [line.split(" ")[1] for line in lines] == ["1/7", "4/7", "7/7"]
    assert "\r" not in stream.getvalue()
    assert lines[0].split(" | ")[2] == "trial 1 of 5"


def test_progress_redraws_one_line_on_a_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    clock, stream = Clock(), Terminal()
    progress = Progress(3, stream=stream, clock=clock)
    clock.now = 1.0
    progress.update(1, tokens=5, old=0.0, new=1.0)
    progress.note("trial 1: accepted")
    progress.update(2, tokens=5)
    progress.close()
    assert _screen(stream.getvalue()) == [
        "trial 1: accepted",
        "step 2/3 | success old - new - | 10 tok",
        "",
    ]


def _screen(output: str) -> list[str]:
    """Interpret carriage return, line feed and erase-to-end-of-line."""
    lines, column = [""], 0
    index = 0
    while index < len(output):
        if output.startswith("\x1b[K", index):
            lines[-1] = lines[-1][:column]
            index += 3
            continue
        character = output[index]
        if character == "\r":
            column = 0
        elif character == "\n":
            lines.append("")
            column = 0
        else:
            lines[-1] = lines[-1][:column] + character + lines[-1][column + 1 :]
            column += 1
        index += 1
    return lines
