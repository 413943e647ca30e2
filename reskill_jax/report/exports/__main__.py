"""Writes a run's records in formats that other programs read.

    python -m reskill_jax.report.exports --workdir=runs/a --to=atif --output=out

--to is one of

    atif       episodes as trajectories (ATIF 1.7), one JSON file each
    benchmark  each decided trial as a benchmark.json of the public skill creator
    history    the lineage of the library as its history.json
    cards      a card for each accepted skill
    dataset    episodes as a folder that the `datasets` library loads

Episodes are those of the newest evaluation, or of the files that --episodes names, such
as eval-00060,train-00001, or all of them. Secrets are replaced by ***, see `scrub`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from absl import flags

from reskill_jax.codec import decode
from reskill_jax.command_line import start
from reskill_jax.report.exports.atif import trajectory
from reskill_jax.report.exports.cards import skill_card
from reskill_jax.report.exports.dataset import write_dataset
from reskill_jax.report.exports.skill_creator import benchmark, history
from reskill_jax.report.page.reading import EpisodeLine, Reader, TrialLine
from reskill_jax.scrub import environment_secrets, scrub_all
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.storage import (
    new_directory,
    read_json_lines,
    refuse_existing,
    write_text,
)
from reskill_jax.terminal import activity, fail, say
from reskill_jax.workdir import Workdir, flatten

FORMATS = ("atif", "benchmark", "history", "cards", "dataset")
_UNUSED = ("arm_effect", "stopped")  # fields that no format has
_PER_TURN = (
    "active_skills",
    "valid",
    "responses",
    "rewards",
    "prompt_tokens",
    "response_tokens",
    "versions",
)


def export(workdir: Workdir, to: str, output: Path, episodes: str = "") -> int:
    """Write records of a run.

    Args:
        workdir: of the run.
        to: one of `FORMATS`.
        output: the new directory.
        episodes: names of files in ``episodes/``, without ending, separated by commas;
            ``all``; or empty for the newest evaluation.

    Returns:
        How many files were written.

    Raises:
        FileExistsError: `output` is there already.
        FileNotFoundError: there is no run, or no such episodes.
        ValueError: a file of the run is damaged, or holds nothing to write.
    """
    config = flatten(workdir.read_config())
    refuse_existing(output)
    model = _setting(config, "policy.path") or _setting(config, "warm_start.recipe")
    files: dict[str, Any]
    if to == "atif":
        files = dict(_trajectories(workdir, _chosen(workdir, episodes), model))
    elif to == "dataset":
        chosen = _chosen(workdir, episodes)
        lines = {path.stem: list(_episodes(path)) for path in chosen}
        files = write_dataset(lines, environment=_setting(config, "env.name"))
    elif to == "cards":
        measured = f"policy {model!r} on {_setting(config, 'env.name')}"
        trials = _trials(workdir)
        files = {
            f"{skill.name}.md": skill_card(skill, trials, measured_with=measured)
            for skill in load_bank(workdir.skills).skills
        }
    else:
        files = dict(_trial_files(workdir, to, model))
    if not files:
        raise ValueError(f"{workdir.root} has nothing for to={to!r} yet")
    secrets = environment_secrets(os.environ)
    with new_directory(output) as unfinished:
        for name, content in files.items():
            # Before it is JSON, in which a pattern might take a part of an escape.
            text = _text(scrub_all(content, secrets), name)
            write_text(unfinished / name, f"{text.rstrip()}\n")
    return len(files)


def _text(content: Any, name: str) -> str:
    """Return the text of a file: as it is, lines of JSON, or a JSON document."""
    if isinstance(content, str):
        return content
    try:
        if isinstance(content, list):
            rows = (json.dumps(x, ensure_ascii=False, allow_nan=False) for x in content)
            return "\n".join(rows)
        return json.dumps(content, indent=2, allow_nan=False)
    except ValueError as error:
        raise ValueError(
            f"{name}: the run's files hold NaN or infinity, JSON cannot ({error})"
        ) from error


def _setting(config: Mapping[str, Any], key: str) -> str:
    """Return a value of a run's flat configuration.

    Raises:
        ValueError: it has no such text.
    """
    value = config.get(key)
    if not isinstance(value, str):
        raise ValueError(f"the run's config.json has {key}={value!r}: it must be text")
    return value


def _trajectories(
    workdir: Workdir, paths: list[Path], model: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        phase = path.stem.partition("-")[0]
        for number, line in enumerate(_episodes(path)):
            document = trajectory(
                line, session=workdir.root.resolve().name, phase=phase, model=model
            )
            # Evaluations number their groups by split: the place in the file is unique.
            document["trajectory_id"] += f"-{number}"
            yield f"{path.stem}/{number:05d}.json", document


def _trial_files(
    workdir: Workdir, to: str, model: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    trials = _trials(workdir)
    if not trials:
        return
    if to == "history":
        began = workdir.config.stat().st_mtime
        yield "history.json", history(trials, started=_iso(began))
        return
    now = _iso(datetime.now(UTC).timestamp())
    files = Reader(workdir).episode_files()
    played = [(step, path) for phase, step, path in files if phase == "train"]
    for trial in trials:
        paths = [path for step, path in played if step in trial.steps]
        lines = (line for path in paths for line in _episodes(path))
        document = benchmark(trial, lines, model=model, created=now)
        if not re.fullmatch(r"\w+", trial.candidate):  # it names a directory
            raise ValueError(
                f"{workdir.trials}: the trial of step {trial.step} has "
                f"candidate={trial.candidate!r}, which is no hash of a library"
            )
        if document["runs"]:
            name = f"trial-{trial.step:05d}-{trial.candidate}"
            yield f"{name}/benchmark.json", document


def _episodes(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the episodes of a file, each whole and of the right types.

    Raises:
        ValueError: one is damaged, or of a version that kept less; names file and line.
    """
    for place, line in read_json_lines(path, growing=True):
        episode = decode(EpisodeLine, line, name=place, fields="any")
        for name in (field.name for field in fields(EpisodeLine)):
            if name not in _UNUSED and line.get(name) is None:
                raise ValueError(f"{place}.{name}: this field is missing")
        for name in _PER_TURN:
            found, turns = len(getattr(episode, name)), len(episode.actions)
            if found < turns:
                raise ValueError(f"{place}.{name}: {found} entries for {turns} turns")
        yield line


def _trials(workdir: Workdir) -> list[TrialLine]:
    """Return the decided trials.

    Raises:
        ValueError: a line is damaged.
    """
    reader = Reader(workdir)
    trials = reader.trials()
    if reader.problems:
        raise ValueError(reader.problems[0])
    return trials


def _chosen(workdir: Workdir, episodes: str) -> list[Path]:
    found = {path.stem: path for path in sorted(workdir.episodes.glob("*.jsonl"))}
    if episodes == "all":
        return list(found.values())
    if not episodes:
        files = Reader(workdir).episode_files()
        evaluations = [path for phase, _, path in files if phase == "eval"]
        if not evaluations:
            raise FileNotFoundError(
                f"{workdir.episodes} holds no evaluation: name files with --episodes"
            )
        return evaluations[-1:]
    names = episodes.split(",")
    for name in names:
        if name not in found:
            raise FileNotFoundError(
                f"episodes={name!r}: {workdir.episodes} has no such file, but "
                f"{', '.join(list(found)[:5])}..."
            )
    return [found[name] for name in names]


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def main() -> None:
    """Write records of a run."""
    values = flags.FLAGS
    workdir, output = Workdir(Path(values.workdir)), Path(values.output)
    try:
        with activity(f"writing {values.to} files"):
            count = export(workdir, values.to, output, values.episodes)
    except (OSError, ValueError) as error:
        fail(error)
    say(f"{count} files are in {output}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_enum("to", None, FORMATS, "What to write.", required=True)
    flags.DEFINE_string("output", None, "New directory.", required=True)
    flags.DEFINE_string("episodes", "", "Files of episodes; empty: newest evaluation.")
    start(main)
