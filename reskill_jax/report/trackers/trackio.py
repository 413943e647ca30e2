"""trackio: a local tracker; its files are under TRACKIO_DIR."""

from typing import Any

import trackio

from reskill_jax.report.trackers import Lines, Scalars, Start

_PROJECT = "reskill_jax"


class Trackio:
    """Logs to a trackio run named by our run's id; a resumed run goes on in it."""

    def __init__(self) -> None:
        self._run: Any = None

    def start(self, run: Start) -> None:
        """Begin, or go on."""
        self._run = trackio.init(
            project=_PROJECT,
            name=f"{run.directory.name}-{run.run_id}",
            config=dict(run.config),
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def scalars(self, step: int, phase: str, values: Scalars) -> None:
        """Log metrics as phase/name."""
        named = {f"{phase}/{key}": value for key, value in values.items()}
        self._run.log(named, step=step)

    def document(self, step: int, name: str, markdown: str) -> None:
        """Log a text."""
        self._run.log({f"documents/{name}": trackio.Markdown(markdown)}, step=step)

    def episodes(self, step: int, phase: str, lines: Lines) -> None:
        """Log episodes as traces: one pair of messages for each turn."""
        for number, line in enumerate(lines):
            trace = trackio.Trace(messages=_messages(line), metadata=_about(line))
            self._run.log({f"episodes/{phase}/{number}": trace}, step=step)

    def finish(self, status: str) -> None:
        """End the run."""
        self._run.finish()


def _messages(line: Any) -> list[dict[str, Any]]:
    observations, responses = line["observations"], line["responses"]
    messages = []
    for observation, response in zip(observations, responses, strict=False):
        messages.append({"role": "user", "content": observation})
        messages.append({"role": "assistant", "content": response})
    return messages


def _about(line: Any) -> dict[str, Any]:
    keys = ("task", "kind", "arm", "group", "index", "reward", "success")
    return {key: line.get(key) for key in keys}
