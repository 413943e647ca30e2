"""Where the published questions of InterCode-SQL are, if they are here."""

import os
from pathlib import Path

import pytest

BESIDE = Path(__file__).parents[3] / "shared" / "data" / "intercode_sql"


def published_root() -> str:
    """Return their directory, or skip the test."""
    root = os.environ.get("INTERCODE_SQL_DATA") or (
        str(BESIDE) if BESIDE.is_dir() else ""
    )
    if not root:
        pytest.skip("needs InterCode's questions and dump, at INTERCODE_SQL_DATA")
    return root
