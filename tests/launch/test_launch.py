"""The launch scripts, run for real in a copy of the repository.

PATH holds links to a few real tools and stubs that write their calls to a log; the stub
of Python makes "environments" that hold a stub again, so that nothing is installed.
"""

import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
REAL_TOOLS = ("bash", "cat", "cp", "cut", "dirname", "env", "mkdir", "rm", "sha256sum")
COMPILERS = ("c++", "make", "cmake")

PYTHON = """#!/usr/bin/env bash
echo "python $*" >>"$LOG"
case "$*" in
    "-c "*ensurepip*) exit "${NO_PYTHON:-0}" ;;
    "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*) exit "${PIP_STATUS:-0}" ;;
    "-m ruff check "*) exit "${RUFF_STATUS:-0}" ;;
    "-m pytest"*)
        echo "ALFWORLD_DATA=${ALFWORLD_DATA:-}" >>"$LOG"
        echo "CI=${CI:-}" >>"$LOG"
        echo "3 passed in 0.01s"
        exit "${PYTEST_STATUS:-0}" ;;
    "-m reskill_jax.main "*) echo "cache $JAX_COMPILATION_CACHE_DIR" >>"$LOG" ;;
esac
"""
APT_GET = """#!/usr/bin/env bash
echo "apt-get $*" >>"$LOG"
if [ "$1" = install ]; then
    for name in c++ make cmake; do cp "$STUBS/id" "$STUBS/$name"; done
fi
"""
APT_CACHE = """#!/usr/bin/env bash
[ "$2" = "${PACKAGED:-none}" ]
"""
ID = """#!/usr/bin/env bash
echo "${USER_ID:-1000}"
"""
PYTEST = "python -m pytest -n 2 --dist loadfile --no-loadscope-reorder"


class Machine:
    """A machine with stubs on PATH and a copy of the scripts."""

    def __init__(self, root: Path, compilers: tuple[str, ...] = COMPILERS) -> None:
        self.repository = root / "work" / "repository"
        self.stubs = root / "bin"
        self.log = root / "log"
        for name in ("launch", ".ci"):
            shutil.copytree(REPOSITORY / name, self.repository / name)
        (self.repository / "setup.py").write_text("version 1\n")
        self.stubs.mkdir()
        for name in REAL_TOOLS:
            real = shutil.which(name)
            assert real is not None
            (self.stubs / name).symlink_to(real)
        self.stub("python3", PYTHON)
        self.stub("id", ID)
        for name in compilers:
            self.stub(name, ID)

    def stub(self, name: str, text: str) -> None:
        path = self.stubs / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(
        self, script: str, *arguments: str, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a script from another directory, as a user would; the log starts anew."""
        self.log.write_text("")
        return subprocess.run(
            [self.repository / script, *arguments],
            env={
                "PATH": str(self.stubs),
                "LOG": str(self.log),
                "STUBS": str(self.stubs),
                **environment,
            },
            cwd=self.stubs,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self, word: str) -> list[str]:
        """Lines of the log that hold `word`."""
        return [line for line in self.log.read_text().splitlines() if word in line]


def test_local_installs_and_runs_the_main_job(tmp_path):
    machine = Machine(tmp_path)
    done = machine.run("launch/local.sh")
    assert done.returncode == 0, done.stderr
    venv = machine.repository / ".venv"
    assert machine.calls("-m venv") == [f"python -m venv {venv}"]
    assert machine.calls("-m pip") == ["python -m pip install --editable .[alfworld]"]
    assert machine.calls("reskill_jax.main") == [
        "python -m reskill_jax.main --config=configs/alfworld.py:cpu "
        "--workdir=runs/local"
    ]
    assert machine.calls("cache") == [f"cache {machine.repository}/.cache/xla"]


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (
            ("--config.seed=1",),
            "--config=configs/alfworld.py:cpu --workdir=runs/local --config.seed=1",
        ),
        (
            ("--workdir=runs/a b", "--mode=show"),
            "--config=configs/alfworld.py:cpu --workdir=runs/a b --mode=show",
        ),
        (("--workdir", "x"), "--config=configs/alfworld.py:cpu --workdir x"),
        (("--config=c.py",), "--workdir=runs/local --config=c.py"),
        (("--config", "c.py", "--workdir=w"), "--config c.py --workdir=w"),
    ],
)
def test_local_passes_arguments_on(tmp_path, arguments, passed):
    machine = Machine(tmp_path)
    assert machine.run("launch/local.sh", *arguments).returncode == 0
    assert machine.calls("main") == [f"python -m reskill_jax.main {passed}"]


def test_a_second_call_installs_nothing_and_needs_no_compiler(tmp_path):
    machine = Machine(tmp_path)
    assert machine.run("launch/test.sh").returncode == 0
    assert machine.calls("-m pip") == [
        "python -m pip install --editable "
        ".[alfworld,scienceworld,search,llm,vllm,tfds,wandb,trackio,docs,dev]"
    ]
    for name in (*COMPILERS, "python3"):
        (machine.stubs / name).unlink()
    # The environment of the tests also serves the main job.
    for script in ("launch/test.sh", "launch/local.sh"):
        assert machine.run(script).returncode == 0
        assert machine.calls("-m pip") == machine.calls("-m venv") == []


def test_changed_requirements_are_installed(tmp_path):
    machine = Machine(tmp_path)
    machine.run("launch/local.sh")
    (machine.repository / "setup.py").write_text("version 2\n")
    assert machine.run("launch/local.sh").returncode == 0
    assert len(machine.calls("-m pip")) == 1
    assert machine.calls("-m venv") == []


def test_tools_of_the_tests_are_added_to_the_environment_of_the_main_job(tmp_path):
    machine = Machine(tmp_path)
    machine.run("launch/local.sh")
    assert machine.run("launch/test.sh").returncode == 0
    assert len(machine.calls("-m pip")) == 1


def test_a_failed_installation_stops_and_is_repeated(tmp_path):
    machine = Machine(tmp_path)
    assert machine.run("launch/local.sh", PIP_STATUS="1").returncode == 1
    assert machine.calls("main") == []
    assert machine.run("launch/local.sh").returncode == 0
    assert len(machine.calls("-m pip")) == 1


def test_environment_directory_can_be_chosen(tmp_path):
    machine = Machine(tmp_path)
    venv = tmp_path / "elsewhere"
    assert machine.run("launch/local.sh", RESKILL_VENV=str(venv)).returncode == 0
    assert (venv / "bin" / "python").exists()
    assert not (machine.repository / ".venv").exists()


def test_missing_tools_are_named_to_a_user(tmp_path):
    machine = Machine(tmp_path, compilers=("make",))
    machine.stub("apt-get", APT_GET)
    done = machine.run("launch/local.sh")
    assert done.returncode == 1
    assert "'sudo apt-get install g++ cmake'" in done.stderr
    assert machine.calls("apt-get") == machine.calls("-m venv") == []


def test_missing_tools_are_installed_as_root(tmp_path):
    machine = Machine(tmp_path, compilers=())
    machine.stub("apt-get", APT_GET)
    done = machine.run("launch/local.sh", USER_ID="0")
    assert done.returncode == 0, done.stderr
    assert machine.calls("apt-get") == [
        "apt-get update",
        "apt-get install -y --no-install-recommends g++ make cmake",
    ]
    assert len(machine.calls("main")) == 1


def test_root_without_apt_is_told_what_is_missing(tmp_path):
    machine = Machine(tmp_path, compilers=("c++", "make"))
    done = machine.run("launch/local.sh", USER_ID="0")
    assert done.returncode == 1
    assert "missing: cmake" in done.stderr


def test_missing_python_is_named_as_the_distribution_packages_it(tmp_path):
    machine = Machine(tmp_path)
    machine.stub("apt-cache", APT_CACHE)
    done = machine.run("launch/local.sh", NO_PYTHON="1", PACKAGED="python3.11-venv")
    assert done.returncode == 1
    assert "'sudo apt-get install python3.11 python3.11-venv'" in done.stderr


def test_a_distribution_without_a_fitting_python_is_told_so(tmp_path):
    machine = Machine(tmp_path)
    done = machine.run("launch/local.sh", NO_PYTHON="1")
    assert done.returncode == 1
    assert "Python 3.11 or 3.12" in done.stderr
    assert machine.calls("-m venv") == []


def test_an_environment_that_lost_its_python_is_named(tmp_path):
    machine = Machine(tmp_path)
    python = machine.repository / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to("/nonexistent/python")
    done = machine.run("launch/local.sh")
    assert done.returncode == 1
    assert str(python.parents[1]) in done.stderr


def test_test_runs_the_checks_then_pytest(tmp_path):
    machine = Machine(tmp_path)
    done = machine.run("launch/test.sh", "-k", "a or b")
    assert done.returncode == 0, done.stderr
    assert machine.calls("python -m")[-4:] == [
        "python -m ruff check .",
        "python -m ruff format --check .",
        "python -m mypy",
        f"{PYTEST} -k a or b",
    ]


def test_ci_ends_with_the_line_and_status_of_pytest(tmp_path):
    machine = Machine(tmp_path)
    done = machine.run(".ci/run", PYTEST_STATUS="7")
    assert done.returncode == 7
    assert done.stdout.splitlines()[-1] == "3 passed in 0.01s"
    assert machine.calls("ALFWORLD_DATA") == ["ALFWORLD_DATA="]


def test_ci_says_that_it_is_ci_and_runs_all_tests(tmp_path):
    machine = Machine(tmp_path)
    assert machine.run(".ci/run").returncode == 0
    assert machine.calls("CI=") == ["CI=true"]
    assert machine.calls("-m pytest") == [f"{PYTEST} -m slow or not slow"]


def test_ci_fails_where_a_check_fails(tmp_path):
    assert Machine(tmp_path).run(".ci/run", RUFF_STATUS="5").returncode == 5


def test_ci_finds_the_data_set_beside_the_checkout(tmp_path):
    machine = Machine(tmp_path)
    found = re.search(r"-d (\S+)", (REPOSITORY / ".ci" / "run").read_text())
    assert found is not None
    data = Path(os.path.normpath(machine.repository / found[1]))
    data.mkdir(parents=True)
    assert machine.run(".ci/run").returncode == 0
    assert machine.calls("ALFWORLD_DATA") == [f"ALFWORLD_DATA={data}"]


def test_scripts_are_executable():
    for script in ("launch/local.sh", "launch/test.sh", ".ci/run"):
        assert os.access(REPOSITORY / script, os.X_OK), script
