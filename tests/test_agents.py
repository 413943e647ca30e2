"""What coding agents are told is short, valid, and true: its commands run."""

import os
import re
import shlex
import subprocess
import sys

import pytest
from programs import CPU, ROOT
from skills_ref.validator import validate

SKILLS = sorted((ROOT / ".agents" / "skills").iterdir())
ORDER = ("run-an-experiment", "read-a-run", "add-an-environment", "add-a-creator")


def commands(name):
    """Return the commands of a skill, as lists of words."""
    text = (ROOT / ".agents" / "skills" / name / "SKILL.md").read_text()
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for line in "".join(blocks).splitlines()]


def test_the_page_for_agents_is_short_and_names_every_skill():
    text = (ROOT / "AGENTS.md").read_text()
    assert len(text.splitlines()) <= 100
    for directory in SKILLS:
        assert f"`{directory.name}`" in text
    for path in re.findall(r"`((?:\w+/)+\w+\.(?:py|md|sh|txt))`", text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("directory", SKILLS, ids=lambda path: path.name)
def test_skills_are_valid_and_name_what_is_there(directory):
    assert validate(directory) == []
    text = (directory / "SKILL.md").read_text()
    named = re.findall(r"`((?:docs|configs|reskill_jax)/[\w./]+\.\w+)`", text)
    assert named
    for path in named:
        assert (ROOT / path).is_file(), path
    assert commands(directory.name)


def test_there_are_the_skills_that_the_other_test_runs():
    assert {path.name for path in SKILLS} == set(ORDER)


@pytest.mark.slow
def test_their_commands_run(tmp_path):
    """In a folder of its own; a run is read that another skill has made."""
    for name in ORDER:
        for words in commands(name):
            assert words[0] == "python"
            line = [word.replace("runs/", f"{tmp_path}/runs/") for word in words[1:]]
            done = subprocess.run(
                [sys.executable, *line],
                cwd=ROOT,
                env=os.environ | CPU,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{name}: {words}\n{done.stderr}"
    assert (tmp_path / "runs" / "smoke" / "report.html").is_file()
    assert any((tmp_path / "runs" / "trajectories").rglob("*.json"))
