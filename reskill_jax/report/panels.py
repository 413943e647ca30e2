"""What a run's figures are of: the panels of its splits, kept when the run starts."""

import json
from collections.abc import Mapping
from typing import Any

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.storage import write_text
from reskill_jax.workdir import Workdir

VERSION = 1  # of the file


def write_panels(panels: Mapping[str, TaskPanel], workdir: Workdir) -> None:
    """Write to `panels.json` which task types every column of a split is the mean of.

    Args:
        panels: by split, those that are evaluated on.
        workdir: of the run.
    """
    splits: dict[str, Any] = {
        split: {
            "panel": panel.label,
            "columns": {name: list(kinds) for name, kinds in panel.columns.items()},
        }
        for split, panel in panels.items()
    }
    document = {"version": VERSION, "splits": splits}
    write_text(workdir.panels, json.dumps(document, indent=2) + "\n")
