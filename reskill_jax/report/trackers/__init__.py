"""Experiment trackers: where a run's measurements are shown beside its own files.

The files of a run are what counts (`report.metrics`); trackers show them elsewhere. So
one that fails is left out, by name, and the run goes on; what it missed can be sent
again from the files with ``python -m reskill_jax.report.track``.
"""

import hashlib
import importlib
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from reskill_jax.scrub import environment_secrets, scrub_all
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import to_markdown
from reskill_jax.terminal import say
from reskill_jax.workdir import EXTENDABLE, PLACES

Scalars = Mapping[str, float]
Lines = Sequence[Mapping[str, Any]]

SHOWN_EPISODES = 20  # of an evaluation: trackers are no archives
_WAITING = 1000  # calls that a tracker may be behind
_LAST_WAIT_S = 60.0  # for what is left when a run ends


class Start(NamedTuple):
    """What a tracker is told when a process begins to write a run.

    Attributes:
        run_id: the same for every process that ever writes this run.
        config: its whole configuration, by key.
        step: the first one that will be written; a resumed run may repeat steps that a
            killed process has written.
        directory: of the run, for trackers that write files.
    """

    run_id: str
    config: Mapping[str, Any]
    step: int
    directory: Path


class Tracker(Protocol):
    """Shows a run. Calls come from one thread, in this order, steps not falling."""

    def start(self, run: Start) -> None:
        """Begin, or go on."""

    def scalars(self, step: int, phase: str, values: Scalars) -> None:
        """Show the metrics of a step; phase is train or eval. Values may be NaN."""

    def document(self, step: int, name: str, markdown: str) -> None:
        """Show a text, in place of an earlier one of that name."""

    def episodes(self, step: int, phase: str, lines: Lines) -> None:
        """Show episodes, as their files hold them (`report.logbook.episode_line`)."""

    def finish(self, status: str) -> None:
        """End: finished, or failed."""


# Name -> what makes it, by module and class: extras are imported where they are asked.
TRACKERS = {
    "tensorboard": "reskill_jax.report.trackers.tensorboard:TensorBoard",
    "wandb": "reskill_jax.report.trackers.wandb:WandB",
    "trackio": "reskill_jax.report.trackers.trackio:Trackio",
}


def make_tracker(name: str) -> Tracker:
    """Make a tracker.

    Args:
        name: one of `TRACKERS`.

    Raises:
        ValueError: there is none of that name.
        ModuleNotFoundError: the extra that it needs is not installed.
    """
    if name not in TRACKERS:
        raise ValueError(f"trackers={name!r}: choose from {', '.join(TRACKERS)}")
    module, _, class_name = TRACKERS[name].partition(":")
    try:
        tracker: Tracker = getattr(importlib.import_module(module), class_name)()
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"trackers={name!r} needs {error.name}: pip install '.[{name}]'"
        ) from error
    return tracker


def describe(root: Path, config: Mapping[str, Any], step: int) -> Start:
    """Describe a run to its trackers.

    Its id follows from its name and from what its configuration computes, so that it is
    the same after a resume, also with other devices or more steps.

    Args:
        root: directory of the run.
        config: the whole configuration, by key.
        step: the first one that will be written.
    """
    lasting = {
        key: value
        for key, value in config.items()
        if key != EXTENDABLE and not key.startswith(PLACES)
    }
    text = json.dumps([root.resolve().name, lasting], sort_keys=True, default=str)
    run_id = hashlib.sha256(text.encode()).hexdigest()[:16]
    shown = scrub_all(dict(config), environment_secrets(os.environ))
    return Start(run_id, shown, step, root)


def as_markdown(bank: SkillBank) -> str:
    """Write a bank as one text."""
    skills = (to_markdown(skill, n) for n, skill in enumerate(bank.skills))
    return "\n\n".join(f"```\n{skill}\n```" for skill in skills) or "no skills"


def as_code(document: Mapping[str, Any]) -> str:
    """Write a JSON document as a text."""
    return f"```json\n{json.dumps(document, indent=2)}\n```"


class Trackers:
    """Several trackers, each of which may fail, or be slow, by itself.

    Every tracker has a thread and a queue of calls, so that none is waited for in
    training. One that raises, or falls too far behind, is left out from then on.

    Args:
        trackers: by name.
        notice: told of each that is left out.
    """

    def __init__(
        self, trackers: Mapping[str, Tracker], notice: Callable[[str], None] = say
    ) -> None:
        self._notice = notice
        self._workers = [_Worker(*item, notice) for item in trackers.items()]

    def start(self, run: Start) -> None:
        """See `Tracker`; so are the others."""
        self._tell(lambda tracker: tracker.start(run))

    def scalars(self, step: int, phase: str, values: Scalars) -> None:
        """Metrics of a step."""
        self._tell(lambda tracker: tracker.scalars(step, phase, values))

    def document(self, step: int, name: str, markdown: str) -> None:
        """A text."""
        self._tell(lambda tracker: tracker.document(step, name, markdown))

    def episodes(self, step: int, phase: str, lines: Lines) -> None:
        """Played episodes."""
        self._tell(lambda tracker: tracker.episodes(step, phase, lines))

    def finish(self, status: str) -> None:
        """End, after at most a minute for what is still on its way."""
        self._tell(lambda tracker: tracker.finish(status))
        for worker in self._workers:
            worker.join()

    def _tell(self, call: Callable[[Tracker], None]) -> None:
        for worker in self._workers:
            worker.put(call)


class _Worker:
    """Calls one tracker, in a thread."""

    def __init__(
        self, name: str, tracker: Tracker, notice: Callable[[str], None]
    ) -> None:
        self._name = name
        self._tracker = tracker
        self._notice = notice
        self._calls: queue.Queue[Callable[[Tracker], None] | None]
        self._calls = queue.Queue(_WAITING)
        self._lost = False
        self._thread = threading.Thread(
            target=self._work, name=f"tracker {name}", daemon=True
        )
        self._thread.start()

    def put(self, call: Callable[[Tracker], None]) -> None:
        if self._lost:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._leave_out(f"it is {_WAITING} calls behind")

    def join(self) -> None:
        if not self._lost:
            self._calls.put(None)
            self._thread.join(_LAST_WAIT_S)
            if self._thread.is_alive():
                self._leave_out(f"it did not end within {_LAST_WAIT_S:g} s")

    def _work(self) -> None:
        while call := self._calls.get():
            try:
                call(self._tracker)
            except Exception as error:  # whatever it is: the run goes on
                self._leave_out(f"{type(error).__name__}: {error}")
                return

    def _leave_out(self, why: str) -> None:
        self._lost = True
        self._notice(
            f"WARNING: tracker {self._name} is left out from here on ({why}); the run "
            "goes on, its files are whole: python -m reskill_jax.report.track sends "
            "them again"
        )
