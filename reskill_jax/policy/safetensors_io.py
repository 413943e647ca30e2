"""Safetensors directories, one tensor in memory at a time.

A directory holds `model.safetensors`, or several files and an index that says which
file holds which tensor. Both are checked whole before the first tensor is read.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from reskill_jax.storage import read_json

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

# Those that float32 holds exactly.
_DTYPES = {
    "float32": ("F32", np.dtype(np.float32)),
    "float16": ("F16", np.dtype(np.float16)),
    "bfloat16": ("BF16", np.dtype(jnp.bfloat16)),
}


class Stored(NamedTuple):
    """A tensor in a file, not read yet.

    Attributes:
        shape: in the file.
        read: returns it as an array of the file's dtype.
    """

    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


class Tensor(NamedTuple):
    """A tensor to write or to send, made when it is needed.

    Attributes:
        name: in the file.
        shape: in the file.
        make: returns it, an array of numpy or jax.
    """

    name: str
    shape: tuple[int, ...]
    make: Callable[[], Any]


@contextmanager
def open_tensors(directory: Path | str) -> Iterator[dict[str, Stored]]:
    """Open the tensors of a directory by name; nothing but headers is read yet.

    Raises:
        FileNotFoundError: there are no weights, or a file of the index is not there.
        ValueError: a file or the index is corrupt, they contradict each other, or a
            tensor is of a type that float32 does not hold exactly. It names them all.
    """
    directory = Path(directory)
    index = _read_index(directory)
    problems = []
    tensors: dict[str, Stored] = {}
    with ExitStack() as stack:
        for path in sorted({directory / file for file in index.values()}) or [
            directory / SINGLE
        ]:
            with _corruption(path):
                file = stack.enter_context(safe_open(path, framework="numpy"))
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    if index and index.get(name) != path.name:
                        problems.append(f"{name} in {path.name} is not in the index")
                        continue
                    header = file.get_slice(name)
                    if header.get_dtype() not in [code for code, _ in _DTYPES.values()]:
                        problems.append(
                            f"{name} is {header.get_dtype()}, not F32, F16 or BF16"
                        )
                    tensors[name] = Stored(
                        tuple(header.get_shape()), _reader(path, file, name)
                    )
        problems += [
            f"{name} is missing in {file}, where the index says it is"
            for name, file in index.items()
            if name not in tensors
        ]
        if problems:
            raise ValueError(f"{directory}: {'; '.join(problems)}")
        yield tensors


def write_tensors(
    directory: Path, tensors: Iterable[Tensor], *, dtype: str, shard_bytes: int
) -> None:
    """Write tensors in their order; each file appears whole or not.

    Args:
        directory: exists, and holds no other weights.
        tensors: what to write.
        dtype: type in the files: float32, float16 or bfloat16.
        shard_bytes: size above which several files and an index are written.

    Raises:
        ValueError: `directory` holds files of other weights.
    """
    code, stored = _DTYPES[dtype]
    shards = _split(tensors, stored.itemsize, shard_bytes)
    count = len(shards)
    files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    files = [SINGLE] if count == 1 else files
    written = {*files, INDEX} if count > 1 else {SINGLE}
    others = {path.name for path in directory.glob("model*.safetensors*")}
    if others := {name for name in others if not name.endswith(".partial")} - written:
        raise ValueError(
            f"{directory} holds other weights ({', '.join(sorted(others))}): remove "
            "them or choose an empty directory"
        )
    for file, shard in zip(files, shards, strict=True):
        partial = directory / f"{file}.partial"
        _write_file(partial, shard, code, stored)
        partial.replace(directory / file)
    if count > 1:
        sizes = [math.prod(t.shape) * stored.itemsize for s in shards for t in s]
        where = {t.name: file for file, s in zip(files, shards, strict=True) for t in s}
        document = {"metadata": {"total_size": sum(sizes)}, "weight_map": where}
        (directory / INDEX).write_text(json.dumps(document, indent=2) + "\n")


def _read_index(directory: Path) -> Mapping[str, str]:
    """Return which file holds which tensor; empty if there is a single file."""
    path, single = directory / INDEX, directory / SINGLE
    if not path.is_file():
        if not single.is_file():
            raise FileNotFoundError(
                f"{directory} has neither {SINGLE} nor {INDEX}: weights of other "
                "formats are not read, save_pretrained of transformers writes these"
            )
        return {}
    if single.is_file():
        raise ValueError(
            f"{directory} has both {SINGLE} and {INDEX}: remove the one that is not "
            "the model"
        )
    try:
        index = read_json(path)["weight_map"]
        pairs = [(str(name), str(Path(file).name)) for name, file in index.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is corrupt: {error!r}") from error
    if not pairs:
        raise ValueError(f"{path} is corrupt: it lists no tensors")
    absent = {
        file: name for name, file in pairs[::-1] if not (directory / file).is_file()
    }
    if absent:
        shown = "; ".join(f"{file} (of {name})" for file, name in absent.items())
        raise FileNotFoundError(f"{path} names files that are not there: {shown}")
    return dict(pairs)


@contextmanager
def _corruption(path: Path) -> Iterator[None]:
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} is corrupt: {error}") from error


def _reader(path: Path, file: Any, name: str) -> Callable[[], np.ndarray]:
    def read() -> np.ndarray:
        with _corruption(path):
            return file.get_tensor(name)

    return read


def _split(
    tensors: Iterable[Tensor], itemsize: int, shard_bytes: int
) -> list[list[Tensor]]:
    """Fill files in order, none above the limit unless one tensor alone is."""
    shards: list[list[Tensor]] = [[]]
    used = 0
    for tensor in tensors:
        size = math.prod(tensor.shape) * itemsize
        if shards[-1] and used + size > shard_bytes:
            shards.append([])
            used = 0
        shards[-1].append(tensor)
        used += size
    return shards


def _write_file(
    path: Path, tensors: Sequence[Tensor], code: str, stored: np.dtype
) -> None:
    """Write one file: the length of the header, the header as JSON, the tensors.

    The library's own writer wants all tensors of a file in memory.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + math.prod(tensor.shape) * stored.itemsize
        header[tensor.name] = {
            "dtype": code,
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            x = np.ascontiguousarray(tensor.make(), dtype=stored)
            if x.shape != tensor.shape:
                raise ValueError(f"{tensor.name} is {x.shape}, not {tensor.shape}")
            file.write(x.view(np.uint8).data)
