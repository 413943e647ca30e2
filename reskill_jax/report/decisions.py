"""Reads the trials that a run has decided."""

from pathlib import Path

from reskill_jax.codec import decode
from reskill_jax.creator.proposal import PastTrial
from reskill_jax.storage import read_json_lines


def read_trials(path: Path) -> list[PastTrial]:
    """Read a run's file of trials, see `Workdir.trials`; none if it is not there.

    An unfinished last line is left out.

    Raises:
        ValueError: a line is damaged; names file and line.
    """
    if not path.exists():
        return []
    return [
        decode(PastTrial, line, name=place, fields="any")
        for place, line in read_json_lines(path, growing=True)
    ]
