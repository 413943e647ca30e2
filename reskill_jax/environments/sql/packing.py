"""Tasks that carry their database, for task sets that travel without files."""

import base64
import hashlib
import json
import zlib
from collections.abc import Mapping
from pathlib import Path

from reskill_jax.environments.task import Task
from reskill_jax.storage import cache_directory, replaced

_checked: set[Path] = set()  # files that this process has found whole
_MOST = 64 * 2**20  # bytes of a database; the largest of InterCode has 200 thousand


def packed(task: Task) -> str:
    """Return the source of a task with the database's content in the path's place."""
    source = json.loads(task.source)
    content = zlib.compress(Path(source.pop("path")).read_bytes(), 9)
    return json.dumps(source | {"file": base64.b64encode(content).decode()})


def database_file(source: Mapping[str, str]) -> Path:
    """Return the file of a task's database; a packed one is unpacked in the cache.

    Args:
        source: of the task, as a dict.

    Raises:
        ValueError: the content is damaged.
    """
    if "path" in source:
        return Path(source["path"])
    try:
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(base64.b64decode(source["file"]), _MOST)
        if not unpacking.eof:
            raise ValueError(f"it is cut, or has more than {_MOST} bytes")
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the database of the task is damaged: {error}") from error
    digest = hashlib.sha256(content).hexdigest()[:16]
    path = cache_directory() / "intercode_sql" / "unpacked" / f"{digest}.sqlite"
    if path not in _checked:
        if not path.is_file() or path.read_bytes() != content:
            with replaced(path) as whole:
                whole.write_bytes(content)
        _checked.add(path)
    return path
