"""SkillRL's skills as files: its own JSON, and directories of SKILL.md.

library/skills.json
library/general/check-places-once-3f2a10c4b7d9/SKILL.md
library/mistakes/...
library/<type of task>/...
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from reskill_jax.memories.skill_entries import (
    GENERAL,
    MISTAKES,
    Entry,
    from_document,
    to_document,
)
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.skills.skill_md import SkillFileError, load_bank, save_bank
from reskill_jax.storage import write_text

JSON_FILE = "skills.json"
_MAX_BYTES = 16 << 20


def read_entries(path: Path) -> tuple[Entry, ...]:
    """Read a library: a JSON file, or a directory of SKILL.md by category.

    Raises:
        ValueError: there is none, or it cannot be read; names the file.
    """
    if path.is_dir():
        try:
            return _read_directory(path)
        except SkillFileError:
            raise  # it names the file
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    if not path.is_file():
        raise ValueError(f"{path}: no such file or directory: name a library")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{path}: larger than {_MAX_BYTES} bytes: shorten it")
    try:
        return from_document(json.loads(path.read_bytes()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {error}") from error


def save_entries(entries: Sequence[Entry], directory: Path) -> None:
    """Write a library in both forms; categories that are gone are emptied.

    Raises:
        OSError: the disk is full or not writable.
    """
    banks = {category: SkillBank() for category in _categories(directory)}
    for category in dict.fromkeys(entry.category for entry in entries):
        own = [entry for entry in entries if entry.category == category]
        banks[category] = SkillBank(tuple(map(to_skill, own)))
    for category, bank in banks.items():
        save_bank(bank, directory / _folder(category))
    text = json.dumps(to_document(tuple(entries)), indent=2, ensure_ascii=False)
    write_text(directory / JSON_FILE, text + "\n")


def to_skill(entry: Entry) -> Skill:
    """Return an entry as a skill that other agents can read."""
    words = re.findall(r"[a-z0-9]+", entry.title.casefold())
    name = "-".join(["-".join(words)[:50].strip("-") or "skill", entry.id])
    return Skill(
        name=name,
        description=entry.title,
        when_to_use=entry.when or entry.title,
        action=entry.principle,
    )


def _read_directory(path: Path) -> tuple[Entry, ...]:
    found = [
        Entry(category, skill.description, skill.action, skill.when_to_use)
        for category in _categories(path)
        for skill in load_bank(path / _folder(category)).skills
    ]
    return from_document(to_document(tuple(found)))  # by the rules for both forms


def _categories(path: Path) -> list[str]:
    """Return the categories of a library: general, types of tasks, mistakes."""
    if not path.is_dir():
        return []
    names = [
        unquote(entry.name)
        for entry in path.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    ]
    return sorted(names, key=lambda n: (n == MISTAKES, n != GENERAL, n))


def _folder(category: str) -> str:
    """Return a name of a directory for any category; types of tasks keep theirs."""
    taken = category == JSON_FILE
    return "".join(
        "".join(f"%{byte:02X}" for byte in c.encode())
        if c in "/%" or not c.isprintable() or (c == "." and (taken or not k))
        else c
        for k, c in enumerate(category)
    )
