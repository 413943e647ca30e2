"""However a command ends, it says why in a line, and leaves nobody waiting."""

import os
import resource
import sys

import pytest
from corridor_runs import corridor_command
from programs import CPU, HELPERS, save_random_policy, start, start_two

from reskill_jax.workdir import Workdir

MAIN = (sys.executable, "-m", "reskill_jax.main")
CORRIDOR = "--config=tests/helpers/corridor_runs.py:again"
TINY = "--config.policy.path=random:tiny"
BROKEN = "--config.env.name=broken_environment"


def run(*words, **options):
    return start(*MAIN, *words, env=os.environ | CPU | HELPERS, **options)


@pytest.mark.parametrize(
    ("mode", "text", "message"),
    [
        ("show", None, "holds no run (config.json is missing)"),
        ("show", '{"a": ', "config.json is not JSON"),
        ("show", "null", "config.json is not a JSON object"),
        ("evaluate", "[" * 100_000, "config.json is not JSON"),
        ("evaluate", '{"env": {"name": "\\u001b[2J"}}', "config.env.name="),
        ("export", '{"env": {"name": "alfworld"}}', "config.policy.path is missing"),
    ],
)
def test_a_wrong_or_damaged_workdir_is_named(tmp_path, mode, text, message):
    workdir = tmp_path / "run"
    if text is not None:
        workdir.mkdir()
        (workdir / "config.json").write_text(text)
    done = run(f"--mode={mode}", f"--workdir={workdir}", f"--output={tmp_path / 'o'}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: "), done.stderr
    assert message in done.stderr
    assert "should not happen" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_full_disk_does_not_hide_the_error(tmp_path):
    def full():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # enough for the lock

    (tmp_path / "config.json").write_text("{}")  # of another run
    done = run(CORRIDOR, TINY, f"--workdir={tmp_path}", preexec_fn=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: "), done.stderr
    assert "the traceback could not be written" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_before_there_is_a_run_is_told_with_its_traceback(tmp_path):
    done = run(CORRIDOR, BROKEN, f"--workdir={tmp_path}")
    assert done.returncode == 1
    told, *traceback = done.stderr.splitlines()
    assert told.startswith("error: config.env.name='broken_environment': load raised")
    assert told.isprintable()
    assert "in load" in "".join(traceback)
    assert not any(tmp_path.iterdir())


def test_only_the_process_that_holds_a_run_keeps_its_traceback_there(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with Workdir(tmp_path).lock():
        done = run(CORRIDOR, TINY, f"--workdir={tmp_path}")
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: workdir='{tmp_path}': the workdir is in")
        assert "Errno" not in done.stderr
        assert not (tmp_path / "traceback.txt").exists()
    done = run(CORRIDOR, TINY, f"--workdir={tmp_path}")
    assert "another configuration" in done.stderr
    kept = f"(the traceback is in {tmp_path / 'traceback.txt'})"
    assert done.stderr.splitlines()[-1] == kept
    assert "in check" in (tmp_path / "traceback.txt").read_text()


def test_what_is_no_run_gets_no_file(tmp_path):
    done = run("--mode=show", f"--workdir={tmp_path}")
    assert done.returncode == 1
    assert not any(tmp_path.iterdir())


def test_a_split_that_is_not_there_binds_no_workdir(tmp_path):
    policy = save_random_policy(tmp_path / "policy")
    workdir = tmp_path / "run"
    flags = (CORRIDOR, f"--workdir={workdir}", f"--config.policy.path={policy}")
    done = run(*flags, "--config.eval.splits=('bogus',)")
    assert done.returncode == 1
    assert done.stderr.startswith("error: config.eval.splits: split='bogus': choose")
    assert not (workdir / "config.json").exists()
    done = run(*flags, "--config.num_steps=1")
    assert done.returncode == 0, done.stderr
    assert (workdir / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode=export", "--workdir=w"], "--mode=export needs --output"),
        (["--workdir=w"], "--mode=train needs --config"),
        (["--mode=compile"], "--mode=compile needs --config"),
        ([CORRIDOR], "--mode=train needs --workdir"),
        (
            ["--mode=evaluate", "--workdir=w", "--step=newest"],
            "--step='newest': give the number",
        ),
        ([CORRIDOR, "--workdir=w", "--step=3"], "--step=3 has no meaning with"),
        ([CORRIDOR, "--workdir=w", "--output=o"], "--output='o' has no meaning with"),
        (
            [CORRIDOR, TINY, "--workdir=w", "--config.mesh.topology=v6e:2x2"],
            "the configuration cannot run:\n  config.mesh.topology='v6e:2x2' is for",
        ),
        ([CORRIDOR, "w"], "unexpected arguments ['w']"),
        (["--config=absent.py"], "--config='absent.py': there is no file"),
        (["--config"], "--config='': there is no file"),
        (
            [CORRIDOR, "--config.grpo.low=1"],
            "--config.grpo.low: there is no such key: did you mean config.grpo.clip_",
        ),
        ([CORRIDOR, "--config.seed.x", "1"], "--config.seed.x: config.seed is a value"),
        ([CORRIDOR, "--config.seed=a"], "flag --config.seed=a: invalid"),
        (
            ["--config=configs/alfworld.py:huge"],
            "configs/alfworld.py:huge has no variant 'huge': choose from",
        ),
        (["--nothing=1"], "Unknown command line flag 'nothing'"),
    ],
)
def test_a_wrong_or_missing_flag_is_named_in_a_line(words, message):
    done = run(*words)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}")
    assert len(done.stderr.splitlines()) == 1 + message.count("\n")


def test_a_bug_in_a_configuration_file_is_told_with_its_place(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def get_config():\n    return {}['a']\n")
    done = run(f"--config={file}", f"--workdir={tmp_path / 'w'}")
    assert done.returncode == 1
    assert done.stderr == f"error: {file}, line 2: KeyError: 'a'\n"


def test_help_is_no_error():
    done = run("--help")
    assert done.returncode == 0
    assert "--mode=export --workdir=" in done.stdout
    assert "--export_dtype" in done.stdout


def test_no_devices_are_an_error_not_a_crash(tmp_path):
    env = os.environ | HELPERS | {"JAX_PLATFORMS": "nowhere"}
    done = start(*MAIN, CORRIDOR, f"--workdir={tmp_path}", env=env)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_bug_in_one_process_leaves_no_other_waiting(tmp_path):
    policy = save_random_policy(tmp_path / "policy")
    processes = start_two(
        tmp_path / "w", policy, tmp_path, ((BROKEN,), (BROKEN,)),
        command=corridor_command("again"),
    )  # fmt: skip
    assert all(process.wait(timeout=240) != 0 for process in processes)
    told = (tmp_path / "1.err").read_text()
    assert "load raised KeyError: " in told
    assert not (tmp_path / "w" / "metrics.jsonl").exists()
