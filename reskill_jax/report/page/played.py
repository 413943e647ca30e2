"""Episodes for the page: small rows of all, and whole ones as far as there is room."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from json import dumps
from typing import Any

import numpy as np

from reskill_jax.grpo.advantages import advantages
from reskill_jax.grpo.estimators import Estimator
from reskill_jax.grpo.outcomes import Outcomes, tabulate
from reskill_jax.report.page.figures import short
from reskill_jax.report.page.reading import EpisodeLine, Reader

BUDGET = 22_000_000  # bytes of JSON for whole episodes
# Of what has no room whole, so much is kept for a sample: the first group of a step.
_SAMPLED = 0.2
_LONGEST = 6_000  # characters of one text: observation, response


@dataclass(frozen=True)
class Row:
    """What statistics need of an episode."""

    phase: str
    step: int
    split: str
    task: str
    kind: str
    group: int | None
    bank: str
    success: bool
    actions: tuple[str, ...] = ()
    goal: str = ""


@dataclass
class Played:
    """The episodes of a run.

    Attributes:
        rows: of all that was played, in order.
        shown: whole episodes as JSON documents, in order.
        left_out: how many are missing in `shown`.
        note: in words, what is shown.
        advantage_note: why there are no advantages; empty if there are.
    """

    rows: list[Row] = field(default_factory=list)
    shown: list[dict[str, Any]] = field(default_factory=list)
    left_out: int = 0
    note: str = ""
    advantage_note: str = ""


def read_played(
    reader: Reader,
    settings: Mapping[str, Any],
    trained: Callable[[int], bool],
    clean: Callable[[Any], Any],
    budget: int = BUDGET,
) -> Played:
    """Read all episodes of a run.

    Evaluations come first, then training steps from the newest on, then samples of
    evaluations. Of older steps that have no room, the first groups are kept, as far as
    there is room for these.

    Args:
        reader: of the run.
        settings: `grpo` of the configuration, for advantages.
        trained: tells whether the policy was updated at a step.
        clean: scrubs a document.
        budget: bytes of JSON that whole episodes may take.
    """
    played = Played()
    files = reader.episode_files()
    evals = [file for file in files if file[0] == "eval"]
    train = [file for file in files if file[0] not in ("eval", "sampled")]
    sampled = [file for file in files if file[0] == "sampled"]
    documents: dict[tuple[str, int], list[dict[str, Any]]] = {}
    room, sample = budget * (1 - _SAMPLED), budget * _SAMPLED
    whole = 0
    in_order = [*reversed(evals), *reversed(train), *reversed(sampled)]
    for phase, step, path in in_order:
        lines = list(reader.episodes(path))
        played.rows += [_row(phase, step, line) for line in lines]
        turns = None
        if phase == "train" and trained(step) and lines:
            turns, played.advantage_note = _advantages(lines, settings)
        found = [
            clean(_document(phase, step, line, turns[i] if turns else None))
            for i, line in enumerate(lines)
        ]
        size = sum(len(dumps(document)) for document in found)
        if size <= room:
            room -= size
            whole += 1
        else:
            room = room if phase == "eval" else 0
            found = [d for d in found if d["group"] in (None, 0)][:16]
            size = sum(len(dumps(document)) for document in found)
            played.left_out += len(lines)
            if size > sample:
                continue
            sample -= size
            played.left_out -= len(found)
        documents[phase, step] = found
    played.rows.sort(key=lambda row: (row.phase, row.step))
    for phase, step, _ in files:
        played.shown += documents.get((phase, step), [])
    played.note = _note(len(played.rows), played.left_out, whole, len(files))
    return played


def _note(total: int, left_out: int, whole: int, files: int) -> str:
    if not left_out:
        return f"All {total:,} episodes that the run has kept."
    return (
        f"{total - left_out:,} of {total:,} episodes, so that this page stays small: "
        f"{whole} of {files} evaluations and steps are whole, evaluations and the "
        "newest steps first; of others the first group, as far as there is room. "
        "Figures elsewhere on this page count all episodes."
    )


def _row(phase: str, step: int, line: EpisodeLine) -> Row:
    return Row(
        phase=phase,
        step=step,
        split=line.split,
        task=line.task,
        kind=line.kind,
        group=line.group,
        bank=line.bank,
        success=line.success,
        actions=line.actions if phase == "train" else (),
        goal=line.goal,
    )


def _document(
    phase: str, step: int, line: EpisodeLine, advantage: Sequence[float] | None
) -> dict[str, Any]:
    """Return an episode as the page reads it; empty parts are left out."""
    turns = [
        _turn(line, i, advantage[i] if advantage else None)
        for i in range(len(line.actions))
    ]
    last = line.observations[len(line.actions) :]
    document = {
        "phase": phase,
        "step": step,
        "split": line.split,
        "task": line.task,
        "kind": line.kind,
        "goal": line.goal,
        "bank": line.bank,
        "arm": line.arm,
        "group": line.group,
        "index": line.index,
        "success": line.success,
        "reward": line.reward,
        "scores": dict(line.scores),
        "lost": line.lost,
        "end": _cut(last[0]) if last else "",
        "turns": turns,
    }
    return short(document)


def _turn(line: EpisodeLine, i: int, advantage: float | None) -> dict[str, Any]:
    """Return a turn; what is as usual is left out, to save room."""

    def at(column: Sequence[Any], usual: Any = None) -> Any:
        return column[i] if i < len(column) else usual

    turn: dict[str, Any] = {"a": _cut(line.actions[i])}
    if observation := at(line.observations, ""):
        turn["o"] = _cut(observation)
    if response := at(line.responses, ""):
        turn["r"] = _cut(response)
    if not at(line.valid, True):
        turn["bad"] = True
    if skills := at(line.active_skills, ()):
        turn["s"] = list(skills)
    if reward := at(line.rewards):
        turn["w"] = reward
    if (tokens := at(line.response_tokens)) is not None:
        turn["n"] = [at(line.prompt_tokens), tokens]
    if not at(line.stopped, True):
        turn["cut"] = True
    if (version := at(line.versions)) is not None:
        turn["v"] = version
    if advantage is not None:
        turn["adv"] = advantage
    return turn


def _cut(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]} [{len(text) - _LONGEST:,} more characters]"


def _advantages(
    lines: Sequence[EpisodeLine], settings: Mapping[str, Any]
) -> tuple[list[list[float]] | None, str]:
    """Compute again what the update learnt from, of recorded rewards.

    Returns:
        Advantages of each episode's turns, or None and why.
    """
    if any(line.reward is None or line.group is None for line in lines):
        return None, "these files of episodes have no reward or group"
    try:
        table = _outcomes(lines)
    except OverflowError as error:
        return None, f"these files of episodes have a number out of range: {error}"
    try:
        values, _, _ = advantages(
            table,
            rule=settings.get("rule", "corrected"),
            estimator=Estimator(
                settings.get("estimator", "grpo"),
                pass_k=settings.get("pass_k", 4),
                **settings.get("gigpo", {}),
            ),
            penalty=float(settings.get("invalid_penalty", 0.1)),
            reward_scale=float(settings.get("reward_scale", 1.0)),
        )
    except (ValueError, TypeError) as error:
        return None, f"the settings of config.grpo: {error}"
    return [
        row[: len(line.actions)].astype(float).tolist()
        for row, line in zip(values, lines, strict=True)
    ], ""


def _outcomes(lines: Sequence[EpisodeLine]) -> Outcomes:
    """Tabulate what an update learnt from.

    Raises:
        OverflowError: a number does not fit.
    """
    return tabulate(
        max(len(line.actions) for line in lines),
        reward=np.array([line.reward for line in lines], np.float64),
        group=np.array([line.group for line in lines], np.int64),
        valid=[line.valid for line in lines],
        tokens=[line.response_tokens for line in lines],
        rewards=[line.rewards for line in lines],
        seen=[line.observations[: len(line.actions)] for line in lines],
        arm_effect=np.array([line.arm_effect for line in lines]),
    )
