"""Which checkpoint of a run is the best, by a metric of its evaluations.

Evaluations are in ``metrics.jsonl``, so that nothing else has to be kept: the best step
is the one with the highest value among those that have a checkpoint.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reskill_jax.report.metrics import read_metrics
from reskill_jax.workdir import Workdir, flatten

AUTO = "auto"


def chosen_metric(best: str, splits: Container[str]) -> str:
    """Return the metric to choose by; empty: none is chosen.

    Args:
        best: its name, ``SPLIT/NAME``; empty; or ``auto``: success on the split `dev`,
            which is for choices, if that is evaluated. Other splits are reported, and
            what is reported is chosen on only where somebody asks for it.
        splits: those that are evaluated.
    """
    if best == AUTO:
        return "dev/success" if "dev" in splits else ""
    return best


@dataclass
class Best:
    """The best step so far.

    Attributes:
        metric: what it is chosen by, the more the better; empty: nothing is chosen.
        step: of equals the earliest; None: none yet.
        value: of the metric after that step.
    """

    metric: str
    step: int | None = None
    value: float = -math.inf

    def see(self, step: int, metrics: Mapping[str, float]) -> None:
        """Take an evaluation into account; of the state before step 1 is nothing kept.

        Raises:
            ValueError: it has no such metric, and its split is not void.
        """
        if not self.metric:
            return
        value = metrics.get(self.metric, math.nan)
        split = self.metric.partition("/")[0]
        if self.metric not in metrics and f"{split}/void" not in metrics:
            there = [name for name in metrics if name.startswith(f"{split}/")]
            raise ValueError(
                f"best={self.metric!r}: evaluations have no such metric: choose one of "
                f"{', '.join(sorted(there) or metrics)}"
            )
        if step and value > self.value and math.isfinite(value):
            self.step, self.value = step, value


def find_best(
    lines: Iterable[Mapping[str, Any]], metric: str, steps: Container[int]
) -> Best:
    """Return the best of the steps that have a checkpoint.

    Args:
        lines: of ``metrics.jsonl``.
        metric: see `Best`.
        steps: those with a checkpoint.
    """
    best = Best(metric)
    for line in lines:
        if line["phase"] == "eval" and line["step"] in steps and metric in line:
            best.see(line["step"], line)
    return best


def best_of_run(workdir: Workdir, best: str | None = None) -> Best:
    """Return the best checkpoint that a run has, by its directories.

    Args:
        workdir: of the run.
        best: see `chosen_metric`; None for what the run chooses by. The splits are
            those that the run itself evaluates.

    Raises:
        ValueError: a file is damaged.
    """
    config = flatten(workdir.read_config())
    wanted = config.get("checkpoint.best", "") if best is None else best
    metric = chosen_metric(str(wanted), config.get("eval.splits", ()))
    steps = saved_steps(workdir.checkpoints)
    return find_best(read_metrics(workdir.metrics), metric, steps)


def saved_steps(checkpoints: Path) -> list[int]:
    """Return the steps that have a checkpoint; others have no such directory yet."""
    found = checkpoints.glob("*") if checkpoints.is_dir() else ()
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def find_step(
    workdir: Workdir, best: str, step: int | str | None, saved: Sequence[int]
) -> int | None:
    """Return the step that is asked for; None: the newest.

    Args:
        workdir: of the run.
        best: see `chosen_metric`.
        step: a number, ``best``, or None.
        saved: steps that have a checkpoint.

    Raises:
        ValueError: the best one is asked for, and none is chosen.
    """
    if step != "best":
        return None if step is None else int(step)
    found = best_of_run(workdir, best)
    if found.step is None:
        reason = (
            f"no evaluation of {found.metric} belongs to a checkpoint"
            if found.metric
            else f"checkpoint.best={best!r} chooses none"
        )
        raise ValueError(
            f"step='best': {reason}: name a metric of evaluations, such as "
            "--config.checkpoint.best=dev/success, or choose a step of "
            f"{list(saved)}"
        )
    return found.step
