"""Event files for TensorBoard, without TensorFlow."""

from tensorboardX import SummaryWriter

from reskill_jax.report.trackers import Lines, Scalars, Start


class TensorBoard:
    """Writes event files under ``tensorboard/`` of the run.

    Each phase has a directory of its own, so that TensorBoard shows the phases of one
    metric in one chart.
    """

    def __init__(self) -> None:
        self._run: Start
        self._writers: dict[str, SummaryWriter] = {}

    def start(self, run: Start) -> None:
        """Begin, or go on."""
        self._run = run

    def scalars(self, step: int, phase: str, values: Scalars) -> None:
        """Write metrics; they are in the files when this returns."""
        writer = self._writer(phase)
        for key, value in values.items():
            # Its names have no @.
            writer.add_scalar(key.replace("@", "_"), value, step)
        writer.flush()

    def document(self, step: int, name: str, markdown: str) -> None:
        """Write a text."""
        writer = self._writer("texts")
        writer.add_text(name, markdown, step)
        writer.flush()

    def episodes(self, step: int, phase: str, lines: Lines) -> None:
        """Nothing: event files have no place for them."""

    def finish(self, status: str) -> None:
        """Close the files."""
        for writer in self._writers.values():
            writer.close()

    def _writer(self, phase: str) -> SummaryWriter:
        if phase not in self._writers:
            self._writers[phase] = SummaryWriter(
                str(self._run.directory / "tensorboard" / phase),
                # TensorBoard hides what a former process wrote from this step on.
                purge_step=self._run.step,
                # Files are named by the second: two starts in one would share a file.
                filename_suffix=f".{self._run.step}",
            )
        return self._writers[phase]
