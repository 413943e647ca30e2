"""Makes the report of a real run, and looks whether anything of it is missing."""

from reskill_jax.report.page import write_report
from reskill_jax.report.page.data import run_document
from reskill_jax.workdir import Workdir


def reported(root, *, whole=True):
    """Return the data of a run's report, which is written, and names no problem.

    Args:
        root: directory of the run.
        whole: whether it has ended, with trained steps, evaluations and episodes.
    """
    workdir = Workdir(root)
    assert write_report(workdir).stat().st_size < 30_000_000
    found = run_document(workdir, (), lambda document: document, "today")
    assert found["run"]["problems"] == []
    if whole:
        assert found["run"]["state"] == "finished"
        assert found["episodes"]
        assert found["training"]
        for split in found["evals"][-1]["splits"].values():
            assert split["kinds"]
            assert all(column["n"] for column in split["columns"].values())
    return found
