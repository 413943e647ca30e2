"""Recorded episodes as evidence: those of a run, or of any other system.

One JSON object per line:

    {"task": "t1", "success": false, "goal": "buy a red shirt in size M",
     "actions": ["search red shirt", ...], "observations": ["A search box.", ...]}

`task` (text), `success` (true or false) and `actions` (a list of texts) are needed.
Episodes of one `task` are compared with each other. `observations` are what was seen
before each action and, if there is one more, after the last. Also read are `goal`,
`kind` (task type), `step` (when it was played; newer ones count more), `bank` (content
hash of the skills in use), `active_skills` (per action, the names of the skills shown)
and `valid` (per action). A run's own files in ``episodes/`` have all of these.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reskill_jax.creator.proposal import Evidence
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import SkillBank


def read_episodes(path: Path) -> list[EpisodeRecord]:
    """Read a file, or all ``*.jsonl`` of a directory, by falling age.

    A run's evaluations (``eval-*``) are left out: held-out tasks teach nothing.

    Raises:
        ValueError: there is no episode, or a line cannot be used; names line and key.
    """
    files = [path]
    if path.is_dir():
        found = sorted(path.glob("*.jsonl"))
        files = [file for file in found if not file.name.startswith("eval-")]
    records = [record for file in files for record in _read(file)]
    if not records:
        raise ValueError(f"{path} holds no episodes: name a .jsonl file or a directory")
    return sorted(records, key=lambda record: record.step)


def as_evidence(
    records: Sequence[EpisodeRecord],
    bank: SkillBank,
    *,
    max_skills: int,
    most: int = 200,
) -> Evidence:
    """Select records as a run's reservoir would: the newest of each kind.

    Args:
        records: oldest first.
        bank: the skills to improve.
        max_skills: most skills that the bank may hold.
        most: records kept.
    """
    last = records[-1].step
    reservoir = Reservoir(most, window=last - records[0].step + 1)
    reservoir.add(records)
    return Evidence(
        bank=bank,
        records=reservoir.records(last),
        tallies=reservoir.tallies(last),
        max_skills=max_skills,
        step=last,
    )


def _read(path: Path) -> Iterator[EpisodeRecord]:
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                try:
                    yield _record(json.loads(text))
                except ValueError as error:  # a JSON error too
                    raise ValueError(f"{path}, line {number}: {error}") from error


def _record(data: Any) -> EpisodeRecord:
    if not isinstance(data, Mapping):
        raise ValueError("an episode must be a JSON object")
    actions = _get(data, "actions", list, None)
    for key in ("actions", "observations"):
        if not all(isinstance(text, str) for text in data.get(key, ())):
            raise ValueError(f"{key!r} must be a list of texts")
    active_skills = [
        tuple(map(str, names)) for names in _get(data, "active_skills", list, [])
    ]
    return EpisodeRecord(
        task=_get(data, "task", str, None),
        kind=_get(data, "kind", str, ""),
        goal=_get(data, "goal", str, ""),
        bank=_get(data, "bank", str, ""),
        step=_get(data, "step", int, 0),
        success=_get(data, "success", bool, None),
        actions=tuple(actions),
        observations=tuple(_get(data, "observations", list, [])),
        active_skills=tuple(active_skills),
        valid=tuple(map(bool, _get(data, "valid", list, []))),
    )


def _get(data: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = data.get(key, default)
    if value is None:
        raise ValueError(f"{key!r} is missing")
    if not isinstance(value, kind):
        raise ValueError(
            f"{key!r} is {str(value)[:80]!r}, it must be a {kind.__name__}"
        )
    return value
