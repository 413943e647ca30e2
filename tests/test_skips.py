"""Only the tests that skips.txt lists may be skipped in continuous integration."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MODULE = """
import pytest

def test_listed():
    pytest.skip("no data")

@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.skipif(True, reason="no compiler")
def test_other(size):
    pass

@pytest.mark.xfail
def test_expected():
    assert False
"""
OTHER_MODULE = """
import pytest
pytest.importorskip("no_such_package", reason="no package")
"""


@pytest.fixture
def run(tmp_path):
    """Run tests that skip, under a list of the skips that are allowed."""
    (tmp_path / "tests").mkdir()
    shutil.copy(TESTS / "conftest.py", tmp_path / "tests")
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (tmp_path / "tests" / "test_one.py").write_text(MODULE)

    def run(listed, ci):
        (tmp_path / "tests" / "skips.txt").write_text("# A comment\n\n" + listed)
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests"],
            env=os.environ | {"CI": ci},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_skip_that_is_not_listed_fails_in_ci(run):
    done = run("tests/test_one.py::test_listed | no data\n", ci="true")
    assert done.returncode == 1
    assert "1 skipped, 1 xfailed, 2 errors" in done.stdout
    for size in (1, 2):
        assert f"ERROR tests/test_one.py::test_other[{size}]" in done.stdout
    assert "not listed in tests/skips.txt: Skipped: no compiler" in done.stdout


def test_a_file_that_is_skipped_as_a_whole_fails_in_ci(run, tmp_path):
    (tmp_path / "tests" / "test_two.py").write_text(OTHER_MODULE)
    done = run("tests/test_one.py | all of it\n", ci="true")
    assert done.returncode != 0
    assert "ERROR tests/test_two.py" in done.stdout
    assert "not listed in tests/skips.txt: Skipped: no package" in done.stdout


def test_listed_skips_pass_in_ci(run):
    done = run(
        "tests/test_one.py::test_listed | no data\n"
        "tests/test_one.py::test_other[ | no compiler\n",
        ci="true",
    )
    assert done.returncode == 0, done.stdout
    assert "3 skipped, 1 xfailed" in done.stdout


def test_elsewhere_they_are_printed(run):
    done = run("tests/test_one.py::test_listed | no data\n", ci="")
    assert done.returncode == 0, done.stdout
    assert "tests/test_one.py::test_other[1]: Skipped: no compiler" in done.stdout
    assert "test_listed: " not in done.stdout


def test_every_entry_names_a_test_that_exists_and_a_reason(skips):
    for entry, reason in skips.items():
        file, _, name = entry.partition("::")
        text = (TESTS.parent / file).read_text()
        assert f"def {name.partition('[')[0]}" in text, entry
        assert reason.strip(), entry
