"""What people see of a run while it goes on: its files for people, and its terminal."""

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from reskill_jax.codec import encode
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.report.metrics import MetricWriter, cut, sampled_words
from reskill_jax.report.progress import Progress
from reskill_jax.report.trackers import (
    SHOWN_EPISODES,
    Trackers,
    as_code,
    as_markdown,
    describe,
    make_tracker,
)
from reskill_jax.rollout.context import BankContext, Context, Readable
from reskill_jax.rollout.episode import Episode, LostGroup
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.storage import append_line, write_text
from reskill_jax.strategies.base import Learned
from reskill_jax.terminal import notices_to
from reskill_jax.workdir import Workdir


class Logbook:
    """Writes metrics, episodes, trials and the accepted bank, and shows progress.

    Args:
        workdir: of the run.
        total: steps of the run.
        done: steps that were done before this process.
        evaluated: whether their state was evaluated, too; else it will be.
        logprob_diff_warning: nats by which sampler and trainer may differ on average
            without a warning.
        trackers: names of those that show the run as well.
        config: of the run, by key, for them.
        first: the context that a new run begins with; its bank, if it is one, is kept.

    As a context manager it tells the trackers at its end whether the run has failed.
    """

    def __init__(
        self,
        workdir: Workdir,
        total: int,
        done: int,
        evaluated: bool,
        logprob_diff_warning: float,
        trackers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        first: Context | None = None,
    ) -> None:
        self._workdir = workdir
        self._logprob_diff_warning = logprob_diff_warning
        start = done + 1 if done else 0
        evaluation = start if evaluated else done
        self._writer = MetricWriter(workdir.metrics, start, evaluation)
        self._progress = Progress(total, done)
        self._resources = ExitStack()
        self._resources.enter_context(notices_to(self._progress.note))
        self._saved = ""  # hash of the bank in the workdir
        self._told_of_cuts = False
        self._on_trial: Sequence[Any] | None = None  # in the workdir; None: not known
        cut(workdir.trials, start)
        if isinstance(first, BankContext):
            document = {"bank": first.hash, "skills": encode(first.bank.skills)}
            write_text(workdir.first_bank, json.dumps(document, indent=2) + "\n")
        made = {name: make_tracker(name) for name in trackers}
        self._trackers = Trackers(made, self._progress.note)
        self._trackers.start(describe(workdir.root, config or {}, start))

    def __enter__(self) -> "Logbook":
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close all files."""
        self.close("failed" if kind else "finished")

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        episodes: Sequence[Episode],
        learned: Learned,
        incumbent: Context,
    ) -> None:
        """Report a training step."""
        self._writer.write(step, metrics)
        self._trackers.scalars(step, "train", metrics)
        write_episodes(
            self._workdir.episodes / f"train-{step:05d}.jsonl", episodes, step
        )
        for event in learned.events:
            self._progress.note(event)
        for trial in learned.decisions:
            append_line(self._workdir.trials, json.dumps(trial))
            self._trackers.document(step, "trial", as_code(trial))
        self._keep_candidates(learned.on_trial)
        if incumbent.hash != self._saved:
            self._save(step, incumbent)
            self._saved = incumbent.hash
        share = metrics.get("rollout/opening_cut", 0.0)
        if share and not self._told_of_cuts:
            self._told_of_cuts = True
            self._progress.note(
                f"step {step}: WARNING: prompts had no room for all that opens an "
                f"episode in {share:.0%} of those (rollout/opening_cut): raise "
                "config.prompt.max_tokens, or have less shown"
            )
        difference = metrics.get("rollout/logprob_diff", 0.0)
        if difference > self._logprob_diff_warning:
            staleness = metrics["rollout/staleness"]
            changed = f" after {staleness:g} updates" if staleness else ""
            self._progress.note(
                f"step {step}: WARNING: log-probs of sampler and trainer differ by "
                f"{difference:.2g} nats on average{changed}, above "
                f"config.grpo.logprob_diff_warning={self._logprob_diff_warning:g}: "
                "compare their dtypes, or set "
                "config.grpo.old_logprobs='recompute' and config.grpo.importance_cap=2"
            )
        self._progress.update(
            step,
            int(metrics.get("batch/tokens", 0)),
            old=_success(e for e in episodes if e.arm == 0),
            new=_success(e for e in episodes if e.arm != 0),
            trial=learned.status,
            compared=isinstance(incumbent, BankContext) or any(e.arm for e in episodes),
        )

    def _keep_candidates(self, candidates: Sequence[Any]) -> None:
        """Write what is on trial where that has changed; methods without trials: no."""
        if candidates == self._on_trial:
            return
        if candidates or self._workdir.on_trial.exists():
            document = {"candidates": list(candidates)}
            write_text(self._workdir.on_trial, json.dumps(document, indent=2) + "\n")
        self._on_trial = candidates

    def _save(self, step: int, incumbent: Context) -> None:
        """Write what people can read of the accepted context."""
        if isinstance(incumbent, BankContext):
            save_bank(incumbent.bank, self._workdir.skills)
            self._trackers.document(step, "skills", as_markdown(incumbent.bank))
        elif isinstance(incumbent, Readable):
            incumbent.save(self._workdir.library)

    def lost(self, step: int, groups: Sequence[LostGroup]) -> None:
        """Name the groups that a step has dropped."""
        for group in groups:
            name = _dropped(group.task, group.reason)
            self._progress.note(f"step {step}: a group is dropped: {name}")

    def evaluation(
        self,
        step: int,
        metrics: Mapping[str, float],
        episodes: Sequence[Episode],
        panels: Mapping[str, TaskPanel],
        sampled: Sequence[Episode] = (),
    ) -> None:
        """Report an evaluation after so many steps, on these tasks by split."""
        labels = {split: panel.label for split, panel in panels.items()}
        lines = write_episodes(
            self._workdir.episodes / f"eval-{step:05d}.jsonl", episodes, step
        )
        if sampled:
            path = self._workdir.episodes / f"sampled-{step:05d}.jsonl"
            write_episodes(path, sampled, step)
        # Last: these say that the evaluation was made.
        self._writer.write(step, metrics, phase="eval", panels=labels)
        self._trackers.scalars(step, "eval", metrics)
        self._trackers.episodes(step, "eval", lines[:SHOWN_EPISODES])
        for episode in (*episodes, *sampled):
            if episode.lost:
                name = _dropped(episode.task.id, episode.lost)
                self._progress.note(f"evaluation after {step} steps: {name}")
        if panels:
            self._progress.note(summary(step, metrics, panels))

    def close(self, status: str = "finished") -> None:
        """Close all files; see `Tracker.finish` for the status."""
        self._trackers.finish(status)
        self._resources.close()
        self._progress.close()


def write_episodes(
    path: Path, episodes: Sequence[Episode], step: int
) -> list[dict[str, Any]]:
    """Write what was played, one JSON line per episode; return these documents."""
    lines = [episode_line(episode, step) for episode in episodes]
    write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))
    return lines


def episode_line(episode: Episode, step: int) -> dict[str, Any]:
    """Return all of an episode but its token ids, as a JSON document."""
    turns = episode.turns
    meter = [
        {"turn": k, "skill": turn.ablation.skill, "effect": turn.ablation.effect}
        for k, turn in enumerate(turns)
        if turn.ablation
    ]
    return (
        encode(episode.record(step))
        | {
            "split": episode.task.split,
            "arm": episode.arm,
            "arm_effect": episode.arm_effect,
            "group": episode.group,
            "index": episode.index,
            "reward": episode.reward,
            "scores": episode.scores,
            "lost": episode.lost,
            "responses": [turn.text for turn in turns],
            "rewards": [turn.reward for turn in turns],
            "prompt_tokens": [turn.trunk_length + len(turn.branch) for turn in turns],
            "response_tokens": [len(turn.response) for turn in turns],
            "stopped": [turn.stopped for turn in turns],
            "versions": [turn.version for turn in turns],
        }
        | ({"opening": episode.opening} if episode.opening else {})
        | ({"meter": meter} if meter else {})
    )


def write_evaluation(
    workdir: Workdir,
    step: int,
    metrics: Mapping[str, float],
    episodes: Sequence[Episode],
    panels: Mapping[str, TaskPanel],
    sampled: Sequence[Episode] = (),
) -> None:
    """Keep an evaluation that was made by itself, beside those of the run.

    It goes to ``evaluations/<time>/``: the figures with each panel's hash and size, and
    the episodes, greedy ones and samples apart.
    """
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-step-{step:05d}"
    folder = _new_folder(workdir.root / "evaluations", name)
    document = {
        "step": step,
        "metrics": dict(metrics),
        "panels": {
            split: {"hash": panel.hash, "tasks": len(panel)}
            for split, panel in panels.items()
        },
    }
    write_text(folder / "metrics.json", json.dumps(document, indent=2) + "\n")
    write_episodes(folder / "episodes.jsonl", episodes, step)
    if sampled:
        write_episodes(folder / "sampled.jsonl", sampled, step)


def _new_folder(parent: Path, name: str) -> Path:
    """Make a folder; another process may have made one in the same second."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def summary(
    step: int, metrics: Mapping[str, float], panels: Mapping[str, TaskPanel]
) -> str:
    """Say in one line how an evaluation went, and on which tasks.

    It is empty where nothing was evaluated.
    """
    if not panels:
        return ""
    rates = []
    for split, panel in panels.items():
        if f"{split}/void" in metrics:
            kind = "samples" if f"{split}/failed_samples" in metrics else "tasks"
            failed = metrics[f"{split}/failed_{kind}"]
            rate = f"void, {failed:g} {kind} failed for good"
        else:
            greedy = f"{metrics[f'{split}/success']:.1%}"
            rate = ", ".join(filter(None, (greedy, sampled_words(metrics, split))))
        rates.append(f"{split} {rate} ({panel.label})")
    varies = any(metrics.get(f"{split}/batch_invariant") == 0 for split in panels)
    note = "; the engine is not batch-invariant, so that a repeat may differ"
    return f"evaluation after {step} steps: {', '.join(rates)}{note if varies else ''}"


def _dropped(task: str, reason: str) -> str:
    first, _, _ = reason.partition("\n")
    return f"task {task} failed for good: {first}"


def _success(episodes: Iterable[Episode]) -> float | None:
    won = [episode.success for episode in episodes]
    return float(np.mean(won)) if won else None
