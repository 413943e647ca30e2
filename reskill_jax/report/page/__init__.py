"""The report of a run: one page that opens from disk, without network or server.

`write_report` reads a workdir, whatever state the run is in, and writes `report.html`.

    reading.py    files, damaged or unfinished ones too, as typed lines
    played.py     episodes, as many as have room
    trials.py library.py creator.py compare.py   the parts of the page's data
    data.py       all of it as one JSON document
    html.py       the document and the assets as one file
    assets/       a template, a stylesheet, scripts that draw and filter
"""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from reskill_jax.report.page.data import Complete, run_document
from reskill_jax.report.page.html import page
from reskill_jax.scrub import environment_secrets, scrub_all
from reskill_jax.storage import write_text
from reskill_jax.terminal import activity
from reskill_jax.workdir import Workdir


def write_report(
    workdir: Workdir,
    others: Sequence[Workdir] = (),
    output: Path | None = None,
    complete: Complete = dict,
) -> Path:
    """Write the report of a run, by one rename, and return its path.

    Args:
        workdir: of the run.
        others: of the runs that it is compared with.
        output: the file; None: ``report.html`` of the run.
        complete: see `run_document`.

    Raises:
        FileNotFoundError: a directory holds no run.
        ValueError: a run's configuration cannot be read.
    """
    clean = partial(scrub_all, secrets=environment_secrets(os.environ))
    with activity("making the report"):
        made = time.strftime("%Y-%m-%d %H:%M")
        text = page(run_document(workdir, others, clean, made, complete))
        path = output or workdir.root / "report.html"
        write_text(path, text)
    return path
