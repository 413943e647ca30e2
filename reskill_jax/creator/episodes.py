"""Recorded episodes as evidence: those of a run, or of any other system.

One JSON object per line:

    {"task": "t1", "success": false, "goal": "buy a red shirt in size M",
     "actions": ["search red shirt", ...], "observations": ["A search box.", ...]}

`task` (text), `success` (true or false) and `actions` (a list of texts) are needed.
Episodes of one `task` are compared with each other. `observations` are what was seen
before each action and, if there is one more, after the last. Also read are `goal`,
`kind` (task type), `step` (when it was played; newer ones count more), `bank` (content
hash of the skills in use), `active_skills` (per action, the names of the skills shown)
and `valid` (per action). A run's own files in ``episodes/`` have all of these. What is
not needed may be null, further keys are ignored.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reskill_jax.codec import decode
from reskill_jax.creator.proposal import Evidence
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.skills.skill import SkillBank
from reskill_jax.storage import read_json_lines


def read_episodes(path: Path) -> list[EpisodeRecord]:
    """Read a file, or all ``*.jsonl`` of a directory; oldest first.

    A run's evaluations (``eval-*``, ``sampled-*``) are left out: nothing may be learnt
    from them.

    Raises:
        ValueError: there is no episode, or a line cannot be used; names line and key.
    """
    files = [path]
    if path.is_dir():
        found = sorted(path.glob("*.jsonl"))
        held_out = ("eval-", "sampled-")
        files = [file for file in found if not file.name.startswith(held_out)]
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
    for place, document in read_json_lines(path):
        try:
            yield decode(
                EpisodeRecord, _without_nulls(document), name="episode", fields="any"
            )
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error


_OPTIONAL = {
    field.name
    for field in dataclasses.fields(EpisodeRecord)
    if field.default is not dataclasses.MISSING
}


def _without_nulls(document: Any) -> Any:
    """Leave out what is optional and null: exporters write that for what they lack."""
    if not isinstance(document, dict):
        return document
    return {
        key: value
        for key, value in document.items()
        if value is not None or key not in _OPTIONAL
    }
