"""What people see of a run while it goes on: its files for people, and its terminal."""

import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from reskill_jax.codec import encode
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.report.progress import Progress
from reskill_jax.rollout.episode import Episode
from reskill_jax.skills.skill_md import save_bank
from reskill_jax.storage import write_text
from reskill_jax.strategies.base import Strategy
from reskill_jax.workdir import Workdir


class Logbook:
    """Writes metrics, episodes, trials and the accepted bank, and shows progress.

    Args:
        workdir: of the run.
        total: steps of the run.
        done: steps that were done before this process.
        logprob_diff_warning: nats by which sampler and trainer may differ on average
            without a warning.
    """

    def __init__(
        self, workdir: Workdir, total: int, done: int, logprob_diff_warning: float
    ) -> None:
        self._workdir = workdir
        self._logprob_diff_warning = logprob_diff_warning
        self._writer = MetricWriter(
            workdir.metrics, workdir.tensorboard, done + 1 if done else 0
        )
        self._progress = Progress(total, done)

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        episodes: Sequence[Episode],
        strategy: Strategy,
    ) -> None:
        """Report a training step."""
        self._writer.write(step, metrics)
        self._record(f"train-{step:05d}", episodes, step)
        if events := strategy.take_events():
            for event in events:
                self._progress.note(event)
            save_bank(strategy.banks[0], self._workdir.skills)
            text = "".join(json.dumps(trial) + "\n" for trial in strategy.history())
            write_text(self._workdir.root / "trials.jsonl", text)
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
            trial=strategy.status(),
        )

    def evaluation(
        self, step: int, metrics: Mapping[str, float], episodes: Sequence[Episode]
    ) -> None:
        """Tell of an evaluation after so many steps."""
        self._writer.write(step, metrics, phase="eval")
        self._record(f"eval-{step:05d}", episodes, step)
        self._progress.note(summary(step, metrics))

    def close(self) -> None:
        """Close all files."""
        self._progress.close()
        self._writer.close()

    def _record(self, name: str, episodes: Sequence[Episode], step: int) -> None:
        """Write what was played, one JSON line per episode."""
        lines = (json.dumps(encode(e.record(step))) for e in episodes)
        path = self._workdir.episodes / f"{name}.jsonl"
        write_text(path, "".join(f"{line}\n" for line in lines))


def summary(step: int, metrics: Mapping[str, float]) -> str:
    """Say how an evaluation went, in one line."""
    rates = [
        f"{split} {value:.1%}"
        for key, value in metrics.items()
        for split, _, name in [key.partition("/")]
        if name == "success"
    ]
    return f"evaluation after {step} steps: {', '.join(rates)}"


def _success(episodes: Iterable[Episode]) -> float | None:
    won = [episode.success for episode in episodes]
    return float(np.mean(won)) if won else None
