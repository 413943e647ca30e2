"""Weights & Biases; with WANDB_MODE=offline into files, for `wandb sync` later."""

from typing import Any

import wandb

from reskill_jax.report.trackers import Lines, Scalars, Start

_COLUMNS = ("task", "kind", "split", "arm", "group", "index", "reward", "success")
_PROJECT = "reskill_jax"  # WANDB_PROJECT wins


class WandB:
    """Logs to a wandb run whose id is that of ours, so that a resumed run goes on.

    No list of packages, no code, console or load of this machine is sent.
    """

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, run: Start) -> None:
        """Begin, or go on."""
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        self._run = wandb.init(
            project=None if _named() else _PROJECT,
            id=run.run_id,
            name=run.directory.name,
            resume="allow",
            config=dict(run.config),
            dir=run.directory,
            settings=settings,
        )
        # Steps are a metric of ours: wandb's own counter refuses any that falls, as
        # those of an evaluation before a resume may.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, phase: str, values: Scalars) -> None:
        """Log metrics as phase/name."""
        named = {f"{phase}/{key}": value for key, value in values.items()}
        self._run.log(named | {"step": step})

    def document(self, step: int, name: str, markdown: str) -> None:
        """Log a text, as text: never as HTML."""
        table = wandb.Table(columns=["step", "text"], data=[[step, markdown]])
        self._run.log({f"documents/{name}": table, "step": step})

    def episodes(self, step: int, phase: str, lines: Lines) -> None:
        """Log a table of episodes."""
        rows = [[str(line.get(key)) for key in _COLUMNS] for line in lines]
        table = wandb.Table(columns=list(_COLUMNS), data=rows)
        self._run.log({f"episodes/{phase}": table, "step": step})

    def finish(self, status: str) -> None:
        """End the run."""
        self._run.finish(exit_code=0 if status == "finished" else 1)


def _named() -> bool:
    return bool(wandb.setup().settings.project)
