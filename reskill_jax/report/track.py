"""Sends the files of a run to a tracker, from the beginning.

    python -m reskill_jax.report.track --workdir=runs/a --to=wandb

A tracker that was not there while a run went on, or that missed a part, gets all of it:
metrics, trials, skills and the first episodes of each evaluation. Where it already
holds a run of this id, it goes on in that; with --name it is another run. wandb stays
offline with WANDB_MODE=offline, trackio writes under TRACKIO_DIR.
"""

from itertools import islice
from pathlib import Path
from typing import Any

from absl import flags

from reskill_jax.command_line import start
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.trackers import (
    SHOWN_EPISODES,
    TRACKERS,
    Tracker,
    as_code,
    as_markdown,
    describe,
    make_tracker,
)
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.storage import read_json, read_records
from reskill_jax.terminal import activity, fail, say
from reskill_jax.workdir import Workdir, flatten


def replay(workdir: Workdir, tracker: Tracker, name: str = "") -> int:
    """Send everything that a run has written so far.

    Args:
        workdir: of the run.
        tracker: that gets it.
        name: of the run there; empty: as a live tracker calls it.

    Returns:
        How many lines of metrics were sent.

    Raises:
        FileNotFoundError: there is no run in the directory.
        ValueError: a file of the run is damaged.
    """
    config = flatten(read_json(workdir.config))
    start = describe(workdir.root, config, 0)
    tracker.start(start._replace(run_id=name) if name else start)
    trials = _by_step(workdir.trials)
    lines = read_metrics(workdir.metrics)
    for line in lines:
        step, phase = int(line["step"]), str(line["phase"])
        values = {k: v for k, v in line.items() if isinstance(v, float)}
        tracker.scalars(step, phase, values)
        if phase == "train":
            for trial in trials.pop(step, []):
                tracker.document(step, "trial", as_code(trial))
        played = workdir.episodes / f"{phase}-{step:05d}.jsonl"
        if phase == "eval" and played.is_file():
            first = islice(read_records(played), SHOWN_EPISODES)
            tracker.episodes(step, phase, list(first))
    if workdir.skills.is_dir():
        last = int(lines[-1]["step"]) if lines else 0
        tracker.document(last, "skills", as_markdown(load_bank(workdir.skills)))
    tracker.finish("finished")
    return len(lines)


def _by_step(path: Path) -> dict[int, list[dict[str, Any]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for trial in read_records(path):
        found.setdefault(int(trial["step"]), []).append(trial)
    return found


def main() -> None:
    """Send a run."""
    workdir = Workdir(Path(flags.FLAGS.workdir))
    if not workdir.config.is_file():
        fail(f"--workdir={flags.FLAGS.workdir} is no run: it has no config.json")
    to = flags.FLAGS.to
    if flags.FLAGS.name and to == "tensorboard":
        fail("--name: its files are those of the run's directory: leave it out")
    try:
        with activity(f"sending {workdir.root} to {to}"):
            lines = replay(workdir, make_tracker(to), flags.FLAGS.name)
    except Exception as error:  # every service has its own
        fail(f"{to}: {type(error).__name__}: {error}")
    say(f"{lines} lines of metrics of {workdir.root} are in {to}")


if __name__ == "__main__":
    flags.DEFINE_string("workdir", None, "Directory of the run.", required=True)
    flags.DEFINE_enum("to", None, sorted(TRACKERS), "Tracker.", required=True)
    flags.DEFINE_string("name", "", "Id of the run there; empty: its own.")
    start(main)
