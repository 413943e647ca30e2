"""The documentation builds without a warning."""

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


def build(source, target):
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-q", "-E", source, target],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_pages_build_without_warnings(tmp_path):
    pytest.importorskip(
        "sphinx_book_theme", reason="needs the extra docs: pip install '.[docs]'"
    )
    done = build(DOCS, tmp_path)
    assert done.returncode == 0, done.stderr
    for page in DOCS.glob("*.md"):
        assert (tmp_path / f"{page.stem}.html").is_file()
