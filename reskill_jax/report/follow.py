"""Tells of a live run, line by line, from the files that it writes."""

import fcntl
import json
import time
from collections.abc import Iterator
from pathlib import Path

from reskill_jax.codec import decode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.report.metrics import finished_lines, read_line, sampled_words
from reskill_jax.skills.operations import describe
from reskill_jax.terminal import one_line
from reskill_jax.workdir import Workdir

_PAUSE_S = 1.0


def follow(workdir: Workdir, pause_s: float = _PAUSE_S) -> Iterator[str]:
    """Return lines: one for every step, evaluation and decision from now on.

    It ends when no process writes the run any more.

    Args:
        workdir: of the run.
        pause_s: seconds between two looks at the files.

    Raises:
        ValueError: a line of a file is damaged; names file and line.
    """
    seen = {
        path: len(finished_lines(path)) for path in (workdir.metrics, workdir.trials)
    }
    return _news(workdir, seen, pause_s)


def _news(workdir: Workdir, seen: dict[Path, int], pause_s: float) -> Iterator[str]:
    """See `follow`; `seen` has the lines of each file that were there before."""
    files = {workdir.metrics: _metrics, workdir.trials: _trial}
    while True:
        # First: what is written before the end must still be told.
        running = is_running(workdir)
        for path, tell in files.items():
            lines = finished_lines(path)
            if len(lines) < seen[path]:  # a resumed run has dropped some
                yield f"resumed: {path.name} goes on after line {len(lines)}"
            for number, line in enumerate(lines[seen[path] :], seen[path] + 1):
                yield tell(line, f"{path}, line {number}")
            seen[path] = len(lines)
        if not running:
            yield "no process writes this run"
            return
        time.sleep(pause_s)


def is_running(workdir: Workdir) -> bool:
    """Tell whether a process holds the run."""
    path = workdir.root / "lock"
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _metrics(text: str, place: str) -> str:
    line = read_line(text, place)
    if line["phase"] == "eval":
        rates = []
        for key, value in sorted(line.items()):
            if key.endswith("/success") and isinstance(value, float):
                split = key.removesuffix("/success")
                rates.append(
                    f"{split} {value:.1%} {sampled_words(line, split)}".strip()
                )
        return one_line(f"evaluation after {line['step']} steps: {', '.join(rates)}")
    parts = [f"step {line['step']}"]
    for name, words in (
        ("rollout/success", "success {:.0%}"),
        ("skills/bank_size", "{:.0f} skills"),
        ("trial/probability", "trial: chance {:.0%}"),
        ("time/step", "{:.0f} s"),
    ):
        if isinstance(line.get(name), int | float):
            parts.append(words.format(line[name]))
    return " | ".join(parts)


def _trial(text: str, place: str) -> str:
    try:
        trial = decode(PastTrial, json.loads(text), fields="any")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: {error}") from error
    effect = "untested" if trial.effect is None else f"effect {trial.effect:+.1%}"
    what = ", ".join(map(describe, trial.proposal.operations))
    return one_line(f"step {trial.step}: {trial.verdict} ({effect}) {what}")
