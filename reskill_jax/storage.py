"""Files: JSON objects, what is written whole or not at all, and where caches are."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO


def cache_directory() -> Path:
    """Return the directory, $RESKILL_CACHE or ~/.cache/reskill_jax."""
    chosen = os.environ.get("RESKILL_CACHE") or "~/.cache/reskill_jax"
    return Path(chosen).expanduser()


def plain(value: Any, name: str) -> Any:
    """Copy a JSON document, refusing what would not come back as it went in.

    Args:
        value: dict with string keys, list, tuple, str, finite float, int, bool or None.
        name: where the value stands, for the error message.

    Returns:
        The copy; tuples have become lists.

    Raises:
        TypeError: a value or key of another type.
        ValueError: a float that is not finite.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: JSON has finite numbers only")
        return value
    if isinstance(value, list | tuple):
        return [plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{name} has the key {key!r}: use a string")
        return {key: plain(item, f"{name}.{key}") for key, item in value.items()}
    raise TypeError(
        f"{name} is of type {type(value).__name__}, which JSON cannot hold: convert it "
        "to dict, list, str, float, int, bool or None"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds something else; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} is not a JSON object: {value!r:.60}")
    return value


def read_json_lines(path: Path, *, growing: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield what the lines of a file hold, whoever wrote it; blank lines are skipped.

    Half an emoji (a lone surrogate) is read as U+FFFD, see `well_formed`.

    Args:
        path: the file.
        growing: leave out a last line without an end: its writer is at work, or was
            killed at it.

    Returns:
        Pairs of a line's place, for messages, and its JSON value.

    Raises:
        ValueError: a line is not UTF-8 or not JSON; names file and line.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if growing and not line.endswith(b"\n"):
                return
            place = f"{path}, line {number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                value = json.loads(text) if text.strip() else None
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{place}: not JSON: {error}") from error
            if text.strip():
                yield place, _well_formed(value) if "\\u" in text else value


def read_records(path: Path) -> Iterator[Any]:
    """Yield what the lines of one of a run's files hold so far.

    Nothing comes where the file is not there yet; an unfinished last line is left out.

    Raises:
        ValueError: as `read_json_lines`.
    """
    if path.is_file():
        for _, record in read_json_lines(path, growing=True):
            yield record


def well_formed(text: str) -> str:
    """Replace what is no Unicode text by U+FFFD: surrogates without their other half.

    JSON and Python strings may hold them (half an emoji, cut by a model); tokenizers,
    patterns and files refuse them.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _well_formed(value: Any) -> Any:
    if isinstance(value, str):
        return well_formed(value)
    if isinstance(value, list):
        return [_well_formed(item) for item in value]
    if isinstance(value, dict):
        return {well_formed(key): _well_formed(item) for key, item in value.items()}
    return value


def write_text(path: Path, text: str) -> None:
    """Replace a file by one rename: readers see the old or the new text, never a part.

    Raises:
        OSError: it cannot be written, e.g. the disk is full; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # The error of a full disk does not tell which file it was.
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yield where to write a file, which then takes the place of `path`.

    Several processes may do so at the same time: each has a place of its own, and
    readers see the file of one, whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=path.parent, prefix=".") as partial:
        whole = Path(partial, path.name)
        yield whole
        whole.replace(path)


def refuse_existing(output: Path) -> None:
    """Raise FileExistsError if `output` is there."""
    if output.exists():
        raise FileExistsError(
            f"{output} is there already: remove it or choose another --output"
        )


@contextmanager
def new_directory(output: Path) -> Iterator[Path]:
    """Yield where to write a directory; `output` appears whole or not at all.

    Raises:
        FileExistsError: `output` is there already.
    """
    refuse_existing(output)
    unfinished = output.with_name(f"{output.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)  # of a killed process
    unfinished.mkdir(parents=True)
    yield unfinished
    unfinished.rename(output)


def replace_directory(new: Path, directory: Path, old: Path) -> None:
    """Put a finished directory where another one may be.

    Args:
        new: what comes there.
        directory: where; it may not exist yet.
        old: beside it, where the other one waits until `new` is in its place; a killed
            process may leave it.
    """
    if directory.exists():
        shutil.rmtree(old, ignore_errors=True)
        directory.rename(old)
    new.rename(directory)
    shutil.rmtree(old, ignore_errors=True)


def other_holder(file: TextIO) -> str:
    """Lock a file and write into it who holds it, or return who does already.

    The kernel frees the lock when the process ends, also by kill -9.

    Args:
        file: open for reading and appending; closing it frees the lock.

    Returns:
        The process that holds it, for messages; empty: this one does now.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read().strip() or "unknown"
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}\n")
    file.flush()
    return ""


def append_line(path: Path, line: str) -> None:
    """Append a line to a file that several processes may append to.

    A last line without an end, as an editor or a power cut leaves it, gets one.

    Raises:
        OSError: it cannot be written, e.g. the disk is full; the file is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - 1, 0))
            text = b"" if file.read(1) in (b"", b"\n") else b"\n"
            text += line.encode() + b"\n"
            try:
                while text:
                    text = text[file.write(text) :]
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
