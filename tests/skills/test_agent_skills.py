"""Banks of hostile texts, as the public validator of SKILL.md files reads them."""

from pathlib import Path

import pytest

pytest.importorskip("skills_ref", reason="needs the extra dev: pip install '.[dev]'")

from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from skills_ref.cli import main as agentskills
from skills_ref.parser import read_properties

from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.skills.skill_md import load_bank, save_bank

HOSTILE = (
    "---",
    "a --- b",
    "-----",
    "\\--- \\\\---",
    "x\n---\nname: other\n---\ny",
    "key: value # no comment",
    "- item\n- item",
    "yes",
    "null",
    "2024-01-01",
    "!!python/object/apply:os.system [ls]",
    "&anchor *alias",
    "{flow: [a, b]}",
    "| literal",
    "'single\" double",
    "\r\n\ttab and feed\x0c",
    "\x00\x1b[2J\x07 bell",
    "\u202egnihton\u202c \u200b\ufeff",
    "\x85 \u2028 \u2029",
    "日本語 🙂 é",
    "%YAML 9.9",
    "...",
    "long " * 199,
)
texts = st.one_of(
    st.sampled_from(HOSTILE), st.text(st.characters(exclude_categories=["Cs"]))
)
lines = texts.map(lambda text: f"Use {text}")


def bank(*items: str) -> SkillBank:
    return SkillBank(
        tuple(
            Skill(
                f"skill-{number}",
                f"{text} (x)".replace("<", "(").replace(">", ")"),
                f"When {text}",
                f"Do {text}",
                Trigger("action_pattern", "a --- b"),
                example=text,
            )
            for number, text in enumerate(items)
        )
    )


def assert_read_whole(skill: Skill, directory: Path) -> None:
    """Compare what another reader makes of a skill, its metadata included."""
    found = read_properties(directory)
    assert found.name == skill.name
    assert found.description == skill.description.strip()
    assert found.metadata["reskill-when-to-use"] == skill.when_to_use
    assert found.metadata["reskill-action"] == skill.action
    assert found.metadata["reskill-example"] == skill.example
    assert found.metadata["reskill-pattern"] == skill.trigger.pattern


def test_the_validator_accepts_a_hostile_bank_and_loses_nothing(tmp_path):
    save_bank(bank(*HOSTILE), tmp_path)
    assert load_bank(tmp_path) == bank(*HOSTILE)
    for skill in bank(*HOSTILE).skills:
        directory = tmp_path / skill.name
        done = CliRunner().invoke(agentskills, ["validate", str(directory)])
        assert done.exit_code == 0, f"{skill!r}: {done.output}"
        assert_read_whole(skill, directory)


@settings(max_examples=60, deadline=None)
@given(st.lists(lines, min_size=1, max_size=3))
def test_no_text_is_lost_on_another_reader(tmp_path_factory, items):
    directory = tmp_path_factory.mktemp("bank")
    save_bank(bank(*items), directory)
    assert load_bank(directory) == bank(*items)
    for skill in bank(*items).skills:
        assert_read_whole(skill, directory / skill.name)
