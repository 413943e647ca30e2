"""Task sets as TensorFlow Datasets, in array_record files and without TensorFlow.

`reskill_jax.write_task_set` writes them, and ``env.source`` names one to play: the same
tasks in the same order with the same hash as the files that they came from, which need
not be there any more. A row is a `Task` whose source needs no file. Needs the extra
`tfds`.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.modules import missing

VERSION = "1.0.0"
_FIELDS = ("id", "kind", "split", "source", "digest")
_SOURCE = re.compile(r"tfds:([a-z][a-z0-9_]*)/(\d+\.\d+\.\d+)")


def data_directory() -> Path:
    """Return where datasets lie: TFDS_DATA_DIR, or TFDS's own default."""
    default = Path.home() / "tensorflow_datasets"
    return Path(os.environ.get("TFDS_DATA_DIR") or default)


def parse_source(source: str) -> tuple[str, str]:
    """Return name and version of ``tfds:<name>/<version>``.

    Raises:
        ValueError: `source` is not of that form.
    """
    found = _SOURCE.fullmatch(source)
    if not found:
        raise ValueError(f"source={source!r}: must be tfds:<name>/<version>, or empty")
    return found[1], found[2]


def write(name: str, panels: Mapping[str, TaskPanel], data_dir: Path) -> Path:
    """Write the panels of an environment as the splits of a dataset.

    Args:
        name: of the dataset, e.g. ``reskill_search``.
        panels: by split, with sources that need no file; those without tasks are
            left out.
        data_dir: where datasets lie.

    Returns:
        The dataset's folder.

    Raises:
        FileExistsError: this version is there already.
        ValueError: the extra is not installed.
    """
    tfds = _library()
    folder = data_dir / name / VERSION
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: remove it to write it anew")
    panels = {split: panel for split, panel in panels.items() if panel.tasks}
    builder = _builder_class(name, panels)(
        data_dir=data_dir, file_format="array_record"
    )
    settings = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=settings)
    return folder


def read(source: str, split: str, data_dir: Path | None = None) -> list[Task]:
    """Return the tasks of a split, in order.

    Args:
        source: ``tfds:<name>/<version>``.
        split: the split.
        data_dir: where datasets lie; None for `data_directory()`.

    Raises:
        ValueError: `source` is not of that form, the dataset lacks the split, or the
            extra is not installed.
        FileNotFoundError: there is no such dataset.
    """
    builder = _open(source, data_dir)
    if split not in builder.info.splits:
        raise ValueError(
            f"split={split!r}: {source} has {', '.join(builder.info.splits)}"
        )
    rows = builder.as_data_source(split)
    return [Task(*(row[field].decode() for field in _FIELDS)) for row in rows]


def splits(source: str, data_dir: Path | None = None) -> list[str]:
    """Return the names of a dataset's splits; see `read`."""
    return list(_open(source, data_dir).info.splits)


def _open(source: str, data_dir: Path | None) -> Any:
    name, version = parse_source(source)
    folder = (data_dir or data_directory()) / name / version
    if not (folder / "dataset_info.json").is_file():
        raise FileNotFoundError(
            f"source={source!r}: {folder} holds no dataset; set TFDS_DATA_DIR, or "
            "write it with python -m reskill_jax.write_task_set"
        )
    return _library().builder_from_directory(folder)


def _library() -> Any:
    packages = ("tensorflow_datasets", "array_record", "importlib_resources")
    if needs := missing("tfds", *packages):
        raise ValueError(f"source: a task set of TFDS {needs}")
    import tensorflow_datasets as tfds  # noqa: PLC0415 (an extra)

    return tfds


def _builder_class(name: str, panels: Mapping[str, TaskPanel]) -> type:
    """Return the builder of an environment's dataset."""
    tfds = _library()
    base: Any = tfds.core.GeneratorBasedBuilder

    class TaskSetBuilder(base, skip_registration=True):  # type: ignore
        """Rows are tasks, in the panel's order."""

        VERSION = tfds.core.Version(VERSION)
        name = ""

        def _info(self) -> Any:
            text = tfds.features.Text()
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(dict.fromkeys(_FIELDS, text)),
                disable_shuffling=True,  # the order is part of a panel's hash
            )

        def _split_generators(self, _: Any) -> dict[str, Any]:
            return {s: self._generate_examples(p) for s, p in panels.items()}

        def _generate_examples(
            self, tasks: Iterable[Task]
        ) -> Iterator[tuple[int, dict[str, str]]]:
            for number, task in enumerate(tasks):
                yield number, {field: getattr(task, field) for field in _FIELDS}

    TaskSetBuilder.name = name
    return TaskSetBuilder
