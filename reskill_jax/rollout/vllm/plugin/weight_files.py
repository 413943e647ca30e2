"""Checks a directory of safetensors files by their headers alone.

It runs inside vLLM's workers, in vLLM's environment, so it imports nothing of
reskill_jax; and in the trainer, for servers without the plugin.
"""

import json
from collections.abc import Mapping
from pathlib import Path

_MAX_SHOWN = 5  # problems that a message lists
_MAX_HEADER = 1 << 28  # bytes; a longer header is not that of a safetensors file


def check(directory: Path, manifest: Mapping[str, tuple[int, ...]]) -> list[Path]:
    """Check that a directory holds exactly the tensors of a model.

    Args:
        directory: with safetensors files.
        manifest: the shape of every tensor, by name.

    Returns:
        The files, in order.

    Raises:
        ValueError: a file is damaged, or tensors are missing, unexpected, duplicate or
            of another shape.
    """
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"{directory} holds no safetensors files")
    problems = []
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        for name, shape in read_shapes(path).items():
            if name in found:
                problems.append(f"{name} is in two files")
            found[name] = shape
    problems += [f"{name} is missing" for name in sorted(manifest.keys() - found)]
    problems += [f"{name} is unexpected" for name in sorted(found.keys() - manifest)]
    problems += [
        f"{name} is {list(found[name])}, not {list(shape)}"
        for name, shape in manifest.items()
        if name in found and found[name] != tuple(shape)
    ]
    if problems:
        more = (
            f"; and {len(problems) - _MAX_SHOWN} more"
            if len(problems) > _MAX_SHOWN
            else ""
        )
        raise ValueError(f"{directory}: {'; '.join(problems[:_MAX_SHOWN])}{more}")
    return files


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a file's tensors, from its header.

    Raises:
        ValueError: the header is damaged, or does not fit the file's length.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(size, _MAX_HEADER):
            raise ValueError(f"{path} is damaged: a header of {length} bytes")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            shapes = {name: tuple(x["shape"]) for name, x in header.items()}
            ends = [x["data_offsets"][1] for x in header.values()]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{path} is damaged: {size} bytes, not {expected}")
    return shapes
