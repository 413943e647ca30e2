"""Reads a run's files for its report, whatever state the run is in.

A run may be at work, killed in the middle of a line, or have done nothing yet. What
cannot be read is left out and named in `problems`, which the page shows.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from reskill_jax.codec import decode
from reskill_jax.creator.proposal import Proposal
from reskill_jax.report.follow import is_running
from reskill_jax.report.metrics import RESERVED
from reskill_jax.skills.contrast import Contrast
from reskill_jax.skills.skill import Skill
from reskill_jax.storage import read_json
from reskill_jax.workdir import Workdir

_T = TypeVar("_T")
_PROBLEMS = 20  # told of one run
_LONGEST_SKILL = 20_000  # characters of a SKILL.md


@dataclass(frozen=True, kw_only=True)
class EpisodeLine:
    """What a run keeps of an episode; fields with a default may be missing.

    See `rollout.episode` for their meaning; lists have an entry per turn.
    """

    task: str
    success: bool
    actions: tuple[str, ...]
    kind: str = ""
    goal: str = ""
    bank: str = ""
    step: int = 0
    split: str = ""
    arm: int | None = None
    group: int | None = None
    index: int | None = None
    arm_effect: float = 0.0
    reward: float | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    lost: str = ""
    observations: tuple[str, ...] = ()
    active_skills: tuple[tuple[str, ...], ...] = ()
    valid: tuple[bool, ...] = ()
    responses: tuple[str, ...] = ()
    rewards: tuple[float, ...] = ()
    prompt_tokens: tuple[int, ...] = ()
    response_tokens: tuple[int, ...] = ()
    stopped: tuple[bool, ...] = ()
    versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class PathPoint:
    """What a trial had found out after a step."""

    step: int
    effect: float | None = None
    standard_error: float | None = None
    probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class MeterLine:
    """What the skill meter had found of a skill that a candidate changes.

    See `skills.effects`; `arm` 0 is the accepted bank.
    """

    name: str
    turns: int
    mean: float
    first: float
    verdict: str
    arm: int = 0


@dataclass(frozen=True, kw_only=True)
class TrialLine:
    """A decided trial of one candidate, see `strategies.reskill`."""

    step: int
    proposal: Proposal
    candidate: str
    accepted: bool
    contrast: Contrast | None = None
    not_chosen: bool = False
    start: int | None = None
    episodes: tuple[int, int] | None = None
    rates: tuple[float | None, float | None] | None = None
    stop_reason: str = ""
    path: tuple[PathPoint, ...] = ()
    meter: tuple[MeterLine, ...] = ()

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if self.not_chosen:
            return "not chosen"
        return "accepted" if self.accepted else "rejected"

    @property
    def steps(self) -> range:
        """Training steps of the trial; none where it is not told when it began.

        To be asked, not gone through: a damaged file may name any numbers.
        """
        first = self.step if self.start is None else self.start
        return range(first + 1, self.step + 1)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A candidate that is on trial, see `strategies.reskill`."""

    start: int
    proposal: Proposal
    candidate: str


@dataclass(frozen=True, kw_only=True)
class OnTrial:
    """The file of the candidates that were on trial after the newest step."""

    candidates: tuple[Candidate, ...]


@dataclass(frozen=True, kw_only=True)
class FirstBank:
    """The file of the bank that a run began with."""

    bank: str
    skills: tuple[Skill, ...]


@dataclass(frozen=True, kw_only=True)
class CallLine:
    """A call to a language model; an `error` has no response."""

    cycle: int
    stage: str
    model: str = ""
    seconds: float = 0.0
    recorded: bool = False
    system: str = ""
    prompt: str = ""
    response: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class SplitPanel:
    """A split's panel: its label, and the task types of each column."""

    panel: str
    columns: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class PanelsFile:
    """What `report.panels` has written."""

    version: int
    splits: Mapping[str, SplitPanel]

    @property
    def kinds(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """The task types of each column, by split."""
        return {split: dict(found.columns) for split, found in self.splits.items()}


@dataclass
class Reader:
    """Reads one run.

    Attributes:
        workdir: of the run.
        problems: what could not be read, a line each.
    """

    workdir: Workdir
    problems: list[str] = field(default_factory=list)

    def tell(self, problem: str) -> None:
        """Note what is wrong with the run's files, once; of many only the first."""
        if problem in self.problems:
            return
        if len(self.problems) < _PROBLEMS:
            self.problems.append(problem)
        elif len(self.problems) == _PROBLEMS:
            self.problems.append("there are more problems of this kind")

    def metrics(self) -> list[dict[str, Any]]:
        """Return lines with phase, step and figures, all finite."""
        lines = []
        for place, line in self._objects(self.workdir.metrics):
            if isinstance(line.get("step"), int) and isinstance(line.get("phase"), str):
                lines.append({k: v for k, v in line.items() if _is_figure(k, v)})
            else:
                self.tell(f"{place}: no step and phase")
        return lines

    def trials(self) -> list[TrialLine]:
        """Return the decided trials, in order."""
        return list(self._typed(self.workdir.trials, TrialLine))

    def first_bank(self) -> tuple[Skill, ...] | None:
        """Return the skills of the first bank; None: there is none, or not known."""
        found = self._document(self.workdir.first_bank, FirstBank)
        return None if found is None else found.skills

    def on_trial(self, trials: Sequence[TrialLine]) -> list[Candidate]:
        """Return the candidates on trial.

        Args:
            trials: decided ones; a killed run may have written a decision last.
        """
        found = self._document(self.workdir.on_trial, OnTrial)
        decided = max((trial.step for trial in trials), default=0)
        every = () if found is None else found.candidates
        return [candidate for candidate in every if candidate.start >= decided]

    def calls(self) -> list[CallLine]:
        """Return the creator's calls, in order."""
        return list(self._typed(self.workdir.creator_calls, CallLine))

    def expectations(self) -> dict[str, Any]:
        """Return how trials run and what is expected of them; empty without trials."""
        if not self.workdir.trial.exists():
            return {}
        try:
            return read_json(self.workdir.trial)
        except (ValueError, OSError) as error:
            self.tell(str(error))
            return {}

    def columns(self) -> dict[str, dict[str, tuple[str, ...]]]:
        """Return, by split, the task types of each column; empty where not recorded."""
        found = self._document(self.workdir.panels, PanelsFile)
        return {} if found is None else found.kinds

    def skills(self) -> list[tuple[str, str]]:
        """Return the accepted bank: names and the text of SKILL.md files, in order."""
        found = []
        for path in self.workdir.skills.glob("*/SKILL.md"):
            text = self._text(path)
            place = next(
                (
                    int(digits)
                    for line in text.splitlines()
                    if line.strip().startswith("reskill-position:")
                    and (digits := line.partition(":")[2].strip(" '\"")).isdecimal()
                ),
                10**9,
            )
            found.append((place, path.parent.name, text[:_LONGEST_SKILL]))
        return [(name, text) for _, name, text in sorted(found)]

    def episode_files(self) -> list[tuple[str, int, Path]]:
        """Return (phase, step, path) of the files of episodes, in order of steps."""
        found = []
        for path in self.workdir.episodes.glob("*-*.jsonl"):
            phase, _, step = path.stem.partition("-")
            if step.isdecimal():
                found.append((int(step), phase, path))
        return [(phase, step, path) for step, phase, path in sorted(found)]

    def episodes(self, path: Path) -> Iterator[EpisodeLine]:
        """Yield the episodes of a file."""
        return self._typed(path, EpisodeLine)

    def crash(self) -> str:
        """Return the last line of the newest traceback; empty where there is none."""
        paths = sorted(self.workdir.root.glob("traceback*.txt"), key=_modified)
        if not paths:
            return ""
        text = self._text(paths[-1]).strip()
        return text.splitlines()[-1] if text else ""

    def is_running(self) -> bool:
        """Tell whether a process writes this run."""
        return is_running(self.workdir)

    def _text(self, path: Path) -> str:
        """Return a text file; what cannot be read is empty."""
        try:
            return path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            self.tell(str(error))
            return ""

    def _document(self, path: Path, kind: type[_T]) -> _T | None:
        """Return what a file holds; None: it is not there, or damaged."""
        if not path.exists():
            return None
        try:
            return decode(kind, read_json(path), name=path.name, fields="any")
        except (ValueError, OSError) as error:
            self.tell(str(error))
            return None

    def _typed(self, path: Path, kind: Callable[..., _T]) -> Iterator[_T]:
        for place, line in self._objects(path):
            try:
                yield decode(kind, line, name=place, fields="any")
            except ValueError as error:
                self.tell(str(error))

    def _objects(self, path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield places and objects; an unfinished last line is no problem."""
        for number, line in enumerate(self._lines(path), 1):
            if not line.endswith(b"\n") or not line.strip():
                continue
            place = f"{path.name}, line {number}"
            try:
                value = json.loads(line.decode("utf-8", "replace"))
            except (ValueError, RecursionError) as error:
                self.tell(f"{place}: not JSON: {error}")
                continue
            if isinstance(value, dict):
                yield place, value
            else:
                self.tell(f"{place}: no JSON object")

    def _lines(self, path: Path) -> Iterator[bytes]:
        """Yield a file's lines, as far as it can be read; an absent one has none."""
        if not path.exists():
            return
        try:
            with path.open("rb") as file:
                yield from file
        except OSError as error:
            self.tell(str(error))


def _is_figure(key: str, value: Any) -> bool:
    if key in RESERVED:
        return True
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= sys.float_info.max  # JSON's integers have no limit


def _modified(path: Path) -> float:
    return path.stat().st_mtime
