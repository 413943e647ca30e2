"""Skill banks as directories of SKILL.md files, for people and for other agents.

One directory per skill, as the public Agent Skills specification asks: YAML
frontmatter with `name`, `description` and string-valued `metadata`, then a Markdown
body. Our fields live under `metadata` with the prefix ``reskill-`` and are the source
that is read back; the body is rendered from them for readers. A file written by hand
needs only name, description and body: a general skill whose action is the body. Line
endings and the style of YAML's block scalars make no difference to what is read.
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

import yaml
from absl import logging

from reskill_jax.skills.operations import OperationError, validate
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.storage import replace_directory

_FILE = "SKILL.md"
_NAMES = (_FILE, "skill.md")  # the specification's reader takes both
# What systems leave in any directory: of no worth, and no reason to refuse to save.
_LITTER = {"__pycache__", ".DS_Store"}
_PREFIX = "reskill-"
_MAX_BYTES = 1 << 16  # a skill is a few hundred characters; YAML parsing is slow
_FRONTMATTER = re.compile(
    r"\A---[ \t]*\n(.*?)^---[ \t]*$(.*)", re.DOTALL | re.MULTILINE
)
_BREAKS = re.compile("\x85|\u2028|\u2029")
_FENCE = "---"
_LAST = 1 << 30  # position of skills that state none: after the others, by name


class _Dumper(yaml.SafeDumper):
    """Puts text into double quotes, which have escapes, where other styles lose it.

    Within single quotes YAML reads rare line breaks back as others. Other readers, the
    public validator among them, end the frontmatter at the next ``---`` wherever it is.
    """


def _represent(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    lost = _FENCE in text or _BREAKS.search(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, '"' if lost else None)


_Dumper.add_representer(str, _represent)


class _Loader(yaml.BaseLoader):
    """Builds strings, lists and dicts only.

    So `yes`, `1.0` and `2024-01-01` stay the words that were written. A block scalar
    ends with a line break only because its last line does: that break is no text.
    """

    def construct_scalar(self, node: yaml.ScalarNode) -> str:
        text = super().construct_scalar(node)
        return text.rstrip("\n") if node.style in ("|", ">") else text


class SkillFileError(ValueError):
    """A SKILL.md, or a directory of them, that cannot be used; names file and key."""

    def __init__(self, path: Path, problem: str):
        super().__init__(f"{path}: {problem}")


def save_bank(bank: SkillBank, directory: Path | str) -> None:
    """Replace `directory` by one that holds exactly this bank.

    The files are written beside it and renamed into place: a reader, or a run that was
    killed meanwhile, finds the old bank or the new one, never a mixture.

    Raises:
        OperationError: a skill is invalid (see `operations.validate`).
        SkillFileError: two skills share a name, or `directory` holds other things.
        OSError: the disk is full or not writable; the old bank stays.
    """
    directory = Path(directory).absolute()
    names = list(bank.names())
    for skill in bank.skills:
        validate(skill)  # also keeps names from leaving the directory
        if names.count(skill.name) > 1:
            raise SkillFileError(directory, f"two skills are named {skill.name!r}")
    _refuse_foreign(directory)
    new, old = _beside(directory, "new"), _beside(directory, "old")
    shutil.rmtree(new, ignore_errors=True)  # left by a killed run
    new.mkdir(parents=True)
    for position, skill in enumerate(bank.skills):
        path = new / skill.name / _FILE
        path.parent.mkdir()
        with path.open("wb") as file:
            file.write(to_markdown(skill, position).encode())
            file.flush()
            os.fsync(file.fileno())
    replace_directory(new, directory, old)


def load_bank(directory: Path | str) -> SkillBank:
    """Read the bank in `directory`; loading what `save_bank` wrote gives an equal bank.

    Skills without a stated position come last, by name. Hidden entries and plain files
    beside the skills are ignored, directories without a SKILL.md with a warning.

    Raises:
        SkillFileError: the directory is missing, has directories but no skill, or a
            SKILL.md does not parse.
    """
    directory = Path(directory).absolute()
    if not directory.is_dir() and _beside(directory, "old").is_dir():
        directory = _beside(directory, "old")  # killed between the two renames
    if not directory.is_dir():
        raise SkillFileError(
            directory, f"no such directory: give one with <skill-name>/{_FILE} files"
        )
    skills, others = [], []
    for entry in sorted(directory.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            path = next((p for n in _NAMES if (p := entry / n).is_file()), None)
            if path is None:
                others.append(entry.name)
                continue
            position, skill = _load_skill(path)
            skills.append((position, skill.name, skill))
    if others and not skills:
        raise SkillFileError(
            directory,
            f"none of its directories ({_listed(others)}) has a {_FILE}: give the "
            "directory that holds those of the skills",
        )
    if others:
        logging.warning(
            "%s: skipped %s, where there is no %s", directory, _listed(others), _FILE
        )
    return SkillBank(tuple(skill for _, _, skill in sorted(skills, key=_order)))


def to_markdown(skill: Skill, position: int) -> str:
    """Render one SKILL.md; `position` is the skill's place in its bank, from 0."""
    fields = {
        "when-to-use": skill.when_to_use,
        "action": skill.action,
        "example": skill.example,
        "trigger": skill.trigger.kind,
        "pattern": skill.trigger.pattern,
        "version": str(skill.version),
        "position": str(position),
        **({"goal": skill.trigger.goal} if skill.trigger.goal else {}),
    }
    frontmatter = yaml.dump(
        {
            "name": skill.name,
            "description": skill.description,
            "metadata": {_PREFIX + key: value for key, value in fields.items()},
        },
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        width=1000,
    ).replace(_FENCE, r"\x2D\x2D\x2D")  # all are within double quotes
    example = f"\n## Example\n\n{skill.example}\n" if skill.example else ""
    return (
        f"---\n{frontmatter}---\n\n"
        f"<!-- This text is made from the {_PREFIX}* metadata above: edit that. -->\n\n"
        f"# {skill.name}\n\n## When to use\n\n{skill.when_to_use}\n\n"
        f"## What to do\n\n{skill.action}\n{example}"
    )


def from_markdown(text: str, path: Path) -> tuple[int, Skill]:
    """Parse one SKILL.md into (position, skill); `path` is for messages only.

    Raises:
        SkillFileError: naming the file, the key and the way out.
    """
    match = _FRONTMATTER.match(text.replace("\r\n", "\n").replace("\r", "\n"))
    if match is None:
        raise SkillFileError(
            path, "no frontmatter: begin with a line ---, name:, description:, ---"
        )
    try:
        head = yaml.load(match[1], Loader=_Loader)
    except (yaml.YAMLError, RecursionError, ValueError, OverflowError) as error:
        raise SkillFileError(
            path, f"frontmatter is not YAML ({error}): quote values that hold : or #"
        ) from error
    if not isinstance(head, dict):
        raise SkillFileError(path, "frontmatter must be `key: value` lines")
    metadata = head.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise SkillFileError(path, "metadata must be a map of strings to strings")
    _refuse_unknown(metadata, path)
    body = match[2].strip()
    description = _text(head, "description", None, path)
    skill = Skill(
        name=_text(head, "name", None, path),
        description=description,
        when_to_use=_text(metadata, _PREFIX + "when-to-use", description, path),
        action=_text(metadata, _PREFIX + "action", body, path),
        trigger=Trigger(
            _text(metadata, _PREFIX + "trigger", "general", path),  # type: ignore[arg-type]  # validated below
            _text(metadata, _PREFIX + "pattern", "", path),
            _text(metadata, _PREFIX + "goal", "", path),
        ),
        example=_text(metadata, _PREFIX + "example", "", path),
        version=_integer(metadata, _PREFIX + "version", 1, path),
    )
    try:
        validate(skill)
    except OperationError as error:
        raise SkillFileError(path, error.detail) from error
    return _integer(metadata, _PREFIX + "position", _LAST, path), skill


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" and others" if len(names) > 5 else "")


def _order(item: tuple[int, str, Skill]) -> tuple[int, str]:
    return item[0], item[1]


def _beside(directory: Path, suffix: str) -> Path:
    return directory.with_name(f".{directory.name}.{suffix}")


def _refuse_foreign(directory: Path) -> None:
    """Protect what is not ours: replacing a directory deletes all that it holds."""
    if not directory.exists():
        return
    for entry in directory.iterdir():
        if entry.name in _LITTER:
            continue
        if [item.name for item in entry.glob("*")] != [_FILE]:
            raise SkillFileError(
                entry, f"not written by save_bank: give a directory of {_FILE} only"
            )


def _load_skill(path: Path) -> tuple[int, Skill]:
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise SkillFileError(path, f"larger than {_MAX_BYTES} bytes: shorten it")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SkillFileError(path, f"not UTF-8 ({error}): save it as UTF-8") from error
    position, skill = from_markdown(text, path)
    if skill.name != path.parent.name:
        raise SkillFileError(
            path, f"name is {skill.name!r}: name the directory {skill.name!r} too"
        )
    return position, skill


def _refuse_unknown(metadata: dict[str, Any], path: Path) -> None:
    known = {"when-to-use", "action", "example", "trigger", "pattern"}
    known |= {"version", "position", "goal"}
    for key in metadata:
        if key.startswith(_PREFIX) and key.removeprefix(_PREFIX) not in known:
            raise SkillFileError(
                path,
                f"metadata.{key} is unknown: use {_PREFIX} with one of {sorted(known)}",
            )


def _text(fields: dict[str, Any], key: str, default: str | None, path: Path) -> str:
    value = fields.get(key, default)
    if value is None:
        raise SkillFileError(path, f"{key} is missing: add it to the frontmatter")
    if not isinstance(value, str):
        kind = type(value).__name__  # aliases can make the value exponentially long
        raise SkillFileError(path, f"{key} must be text, it is a {kind}: quote it")
    return value


def _integer(fields: dict[str, Any], key: str, default: int, path: Path) -> int:
    value = _text(fields, key, str(default), path)
    if not re.fullmatch(r"[0-9]{1,9}|" + str(default), value):
        raise SkillFileError(path, f"{key} must be a whole number, it is {value!r}")
    return int(value)
