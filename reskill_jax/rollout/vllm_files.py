"""Brings weights to vLLM servers through files in a directory that all share.

The directory is best in memory (/dev/shm). Our plugin in the server checks the files
before it touches the model, so that a server that refuses them keeps what it had.
"""

import math
import shutil
from pathlib import Path

from reskill_jax.policy.config import DecoderConfig
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.weights import manifest, save
from reskill_jax.rollout.vllm_api import Api


class FilesTransfer:
    """Writes one directory per version; a `Transfer` of `vllm_engine`."""

    def __init__(self, config: DecoderConfig, root: Path):
        """Write nothing yet.

        Args:
            config: the decoder's shape; its dtype is that of the files.
            root: directory, made if missing, which all servers can read.
        """
        self._config = config
        self._manifest = manifest(config)
        self._root = root

    def prepare(self, params: Params, version: int) -> Path:
        """Write all weights; the directory appears whole or not at all.

        Every process writes a directory of its own, all at the same time: they make
        the tensors together.

        Raises:
            OSError: there is no room.
        """
        path = self._root / f"v{version}"
        partial = self._root / f"v{version}.partial"
        for old in (path, partial):
            shutil.rmtree(old, ignore_errors=True)
        size = sum(math.prod(shape) for shape in self._manifest.values())
        size *= 2 if self._config.dtype == "bfloat16" else 4
        self._root.mkdir(parents=True, exist_ok=True)
        if (free := shutil.disk_usage(self._root).free) < size:
            raise OSError(
                f"config.engine.vllm.root={str(self._root)!r} has {free:,} bytes free, "
                f"but weights take {size:,}: make room or name another directory"
            )
        try:
            save(partial, self._config, params, dtype=self._config.dtype)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"config.engine.vllm.root={str(self._root)!r} did not take all weights "
                f"({size:,} bytes): make room or name another directory: {error}"
            ) from error
        return partial.rename(path)

    async def send(self, api: Api, weights: Path, version: str, *, fresh: bool) -> None:
        """Let a server take a directory; see `Transfer.send`."""
        if fresh:
            await api.init_transfer({"manifest": self._manifest})
        async with api.update(version):
            await api.receive({"path": str(weights)})

    def discard(self, weights: Path) -> None:
        """Remove a directory."""
        shutil.rmtree(weights, ignore_errors=True)

    def close(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._root, ignore_errors=True)
