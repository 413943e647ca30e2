import os
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reskill_jax.skills import skill_md
from reskill_jax.skills.operations import OperationError
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.skills.skill_md import SkillFileError, load_bank, save_bank

TRAPS = [
    "yes",
    "null",
    "1e3",
    "2024-01-01",
    "---",
    "a\n---\nb",
    "## Example\n\nx",
    "- a: b # c",
    "'\"\\",
    "<<",
    "&a *a !!python/object:os.system",
    "\r\n tab\t\u2028\ufeff\x85\x00 end ",
    "\n\n leading and trailing \n\n",
    "日本語 🙂",
    "\x85.",
    "a\x85b\u2028c\u2029 d\n\u2028",
]
texts = st.one_of(
    st.sampled_from(TRAPS), st.text(st.characters(exclude_categories=["Cs"]))
)
lines = texts.filter(lambda text: bool(text.strip()))
triggers = st.one_of(
    st.sampled_from([Trigger(), Trigger("beginning")]),
    st.sampled_from(["^take .*", r"a: \d+ # 'x'", "---", "é|🙂"]).map(
        lambda pattern: Trigger("action_pattern", pattern)
    ),
)
names = st.from_regex(r"\A[a-z0-9]{1,9}(-[a-z0-9]{1,9}){0,3}\Z")
skills = st.builds(
    Skill,
    name=names,
    description=lines.map(lambda t: t.replace("<", "(").replace(">", ")")).filter(
        lambda text: bool(text.strip())
    ),
    when_to_use=lines,
    action=lines,
    trigger=triggers,
    example=texts,
    version=st.integers(1, 10**6),
)
banks = st.lists(skills, max_size=4, unique_by=lambda skill: skill.name).map(
    lambda items: SkillBank(tuple(items))
)
BANK = SkillBank(
    (
        Skill("zebra", "Last by name.", "When?", "Do.", example="DO: a\nDON'T: b"),
        Skill("ant", "First.", "When?", "Do.", Trigger("action_pattern", "^go .*")),
    )
)


def write(directory: Path, text: str, name: str = "by-hand") -> Path:
    path = directory / name / "SKILL.md"
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode())
    return path


@settings(max_examples=60, deadline=None)
@given(banks)
@example(
    SkillBank(
        tuple(
            Skill(f"s{i}", t.replace("<", "("), t, t, example=t)
            for i, t in enumerate(TRAPS)
        )
    )
)
def test_loading_what_was_saved_gives_the_same_bank(tmp_path_factory, bank):
    directory = tmp_path_factory.mktemp("bank") / "skills"
    save_bank(bank, directory)
    loaded = load_bank(directory)
    assert loaded == bank
    assert loaded.hash == bank.hash


@settings(max_examples=60, deadline=None)
@given(banks)
def test_every_file_follows_the_agent_skills_rules(tmp_path_factory, bank):
    """As another agent reads it: with a YAML parser of its own, knowing no field."""
    directory = tmp_path_factory.mktemp("bank") / "skills"
    save_bank(bank, directory)
    assert sorted(path.name for path in directory.iterdir()) == sorted(bank.names())
    for skill in bank.skills:
        text = (directory / skill.name / "SKILL.md").read_bytes().decode()
        start, head, body = re.split(r"^---$", text, maxsplit=2, flags=re.MULTILINE)
        assert start == ""
        assert body.strip()
        front = yaml.safe_load(head)
        assert set(front) == {"name", "description", "metadata"}
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", front["name"])
        assert front["name"] == skill.name
        assert len(front["name"]) <= 64
        assert 1 <= len(front["description"]) <= 1024
        assert not set("<>") & set(front["description"])
        assert front["description"] == skill.description
        assert all(isinstance(x, str) for x in front["metadata"].values())


def test_saving_replaces_the_whole_directory(tmp_path):
    save_bank(BANK, tmp_path / "skills")
    save_bank(SkillBank(BANK.skills[:1]), tmp_path / "skills")
    assert [path.name for path in tmp_path.iterdir()] == ["skills"]
    assert [path.name for path in (tmp_path / "skills").iterdir()] == ["zebra"]


def test_a_killed_save_leaves_the_old_bank(tmp_path, monkeypatch):
    save_bank(BANK, tmp_path / "skills")
    for kill_at in (1, 2):  # before each of the two renames
        renames = iter(range(1, 3))
        rename = Path.rename

        def dying(self, target, renames=renames, kill_at=kill_at, rename=rename):
            if next(renames) == kill_at:
                raise KeyboardInterrupt
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", dying)
        with pytest.raises(KeyboardInterrupt):
            save_bank(SkillBank(), tmp_path / "skills")
        monkeypatch.undo()
        assert load_bank(tmp_path / "skills") == BANK
    save_bank(SkillBank(), tmp_path / "skills")
    assert load_bank(tmp_path / "skills") == SkillBank()
    assert os.listdir(tmp_path) == ["skills"]


def test_saving_never_deletes_what_it_did_not_write(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SkillFileError, match=r"thesis.txt: not written by save_bank"):
        save_bank(BANK, tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_names_cannot_leave_the_directory(tmp_path):
    bank = SkillBank((Skill("../outside", "d", "w", "a"),))
    with pytest.raises(OperationError, match="kebab-case"):
        save_bank(bank, tmp_path / "skills")
    assert not list(tmp_path.iterdir())
    with pytest.raises(SkillFileError, match="two skills are named 'a'"):
        save_bank(SkillBank((Skill("a", "d", "w", "a"),) * 2), tmp_path / "skills")


def test_a_hand_written_file_is_a_general_skill(tmp_path):
    save_bank(BANK, tmp_path)
    write(
        tmp_path,
        "\ufeff---\r\nname: by-hand\r\ndescription: yes\r\nlicense: MIT\r\n"
        "metadata:\r\n  author: me\r\n  version: '1.0'\r\n---\r\n\r\nLook.\r\n",
    )
    assert load_bank(tmp_path).skills == (
        *BANK.skills,
        Skill("by-hand", "yes", "yes", "Look."),
    )


HEAD = "---\nname: by-hand\ndescription: d\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Look.", "no frontmatter"),
        ("---\nname: by-hand\n", "no frontmatter"),
        ("---\nname: [\n---\nLook.", "frontmatter is not YAML"),
        ("---\n" + "[" * 5000 + "\n---\nLook.", "frontmatter is not YAML"),
        ('---\nname: "\\U00110000"\n---\nLook.', "frontmatter is not YAML"),
        ('---\nname: "\\Uffffffff"\n---\nLook.', "frontmatter is not YAML"),
        ("---\n- a\n---\nLook.", "`key: value` lines"),
        ("---\nname: by-hand\n---\nLook.", "description is missing"),
        ("---\nname: other\ndescription: d\n---\nLook.", "name the directory 'other'"),
        ("---\nname: ../x\ndescription: d\n---\nLook.", "kebab-case"),
        ("---\nname: [a]\ndescription: d\n---\nLook.", "name must be text"),
        (HEAD + "---\n", "action is empty"),
        (HEAD + "metadata: x\n---\nLook.", "metadata must be a map"),
        (HEAD + "metadata:\n  reskill-tigger: x\n---\nLook.", "reskill-tigger is unk"),
        (HEAD + "metadata:\n  reskill-trigger: x\n---\nLook.", "trigger.kind is 'x'"),
        (HEAD + "metadata:\n  reskill-version: 1.0\n---\nLook.", "whole number"),
        (HEAD + "---\n" + "x" * (1 << 16), "larger than"),
    ],
)
def test_a_broken_file_is_named_with_key_and_way_out(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(SkillFileError) as caught:
        load_bank(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


PLAIN = (
    "---\nname: by-hand\ndescription: Use when nothing is known.\nmetadata:\n"
    "  reskill-action: Look.\n---\n\n# Look\n\nOne.\nTwo.\n"
)
STYLES = {
    "folded": PLAIN.replace("Use when", ">\n  Use when"),
    "literal": PLAIN.replace("Use when", "|\n  Use when"),
    "stripped": PLAIN.replace("Use when", ">-\n  Use when"),
    "kept": PLAIN.replace("Use when", "|+\n  Use when"),
    "indented": PLAIN.replace("Use when", "|2-\n  Use when"),
    "folded over lines": PLAIN.replace("Use when nothing", ">\n  Use when\n  nothing"),
    "plain over lines": PLAIN.replace("Use when nothing", "Use when\n  nothing"),
    "quoted": PLAIN.replace(
        "Use when nothing is known.", '"Use when nothing is known."'
    ),
    "ours folded": PLAIN.replace("Look.\n---", ">\n    Look.\n---"),
}


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("style", STYLES)
def test_line_endings_and_styles_of_yaml_make_no_difference(tmp_path, style, ending):
    for text in (PLAIN, STYLES[style]):  # with and without our own metadata
        by_body = re.sub("metadata:.*?---", "---", text, flags=re.DOTALL)
        for name, content in (("a", text), ("b", by_body)):
            directory = tmp_path / name / str(text == PLAIN)
            write(directory, content.replace("\n", ending))
            (skill,) = load_bank(directory).skills
            action = "Look." if name == "a" else "# Look\n\nOne.\nTwo."
            assert skill == Skill(
                "by-hand", *["Use when nothing is known."] * 2, action
            )


def test_a_saved_bank_survives_a_checkout_with_other_line_endings(tmp_path):
    bank = SkillBank((Skill("a", "d", "one\ntwo", "x\n---\ny", example="a\n\nb\n"),))
    save_bank(bank, tmp_path)
    path = tmp_path / "a" / "SKILL.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert load_bank(tmp_path) == bank


def test_directories_without_a_skill_are_skipped_with_a_warning(tmp_path, caplog):
    save_bank(BANK, tmp_path)
    write(tmp_path / "group", PLAIN)  # nested
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "zebra" / "scripts").mkdir()
    with caplog.at_level("WARNING"):
        assert load_bank(tmp_path) == BANK
    assert f"{tmp_path}: skipped __pycache__, group, where" in caplog.text
    (tmp_path / "zebra" / "SKILL.md").rename(tmp_path / "zebra" / "skill.md")
    assert load_bank(tmp_path) == BANK


def test_what_systems_leave_behind_does_not_end_a_run(tmp_path):
    save_bank(BANK, tmp_path / "skills")
    (tmp_path / "skills" / "__pycache__").mkdir()
    (tmp_path / "skills" / ".DS_Store").write_bytes(b"x")
    save_bank(SkillBank(BANK.skills[:1]), tmp_path / "skills")
    assert [path.name for path in (tmp_path / "skills").iterdir()] == ["zebra"]


def test_aliases_cannot_make_an_error_explode(tmp_path):
    aliases = "a0: &a0 [x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
    )
    write(tmp_path, f"---\n{aliases}name: by-hand\ndescription: *a39\n---\nLook.")
    with pytest.raises(SkillFileError, match="description must be text") as caught:
        load_bank(tmp_path)
    assert len(str(caught.value)) < 1000


def test_missing_files_are_named(tmp_path):
    with pytest.raises(SkillFileError, match="no such directory"):
        load_bank(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SkillFileError, match=r"\(empty\) has a SKILL.md: give the dir"):
        load_bank(tmp_path)
    path = write(tmp_path / "latin", HEAD + "---\nx")
    path.write_bytes(b"---\n\xff")
    with pytest.raises(SkillFileError, match="not UTF-8"):
        load_bank(tmp_path / "latin")


def test_the_body_shows_every_field():
    text = skill_md.to_markdown(BANK.skills[0], 0)
    body = text.split("\n---\n", 1)[1]
    for part in ("# zebra", "When?", "Do.", "DO: a\nDON'T: b"):
        assert part in body
