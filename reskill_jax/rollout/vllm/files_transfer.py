"""Brings weights to vLLM servers through files in a directory that all share.

The directory is best in memory (/dev/shm). Our plugin in the server checks the files
before it touches the model, so that a server that refuses them keeps its old weights. A
server that was started elsewhere without the plugin uses vLLM's own reload, after we
have checked the files; if the reload fails nevertheless, the server must be restarted.
"""

import fcntl
import math
import platform
import shutil
from pathlib import Path
from typing import IO

from absl import logging

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.weights import manifest, save
from reskill_jax.rollout.vllm.api import Api, ServerError
from reskill_jax.rollout.vllm.plugin.weight_files import check

_LOCK = "reskill.lock"
# vLLM's error if it was started without `--weight-transfer-config`.
_NOT_CONFIGURED = "Weight transfer not configured"


class FilesTransfer:
    """Writes one directory per version; an `engine.Transfer`."""

    def __init__(self, config: DecoderConfig, weights_dir: Path):
        """Nothing is written before `prepare`.

        Args:
            config: the decoder's shape; files are written in its dtype.
            weights_dir: directory that all servers can read, made if missing.
        """
        self._config = config
        self._manifest = manifest(config)
        # Servers have other working directories.
        self._weights_dir = weights_dir.absolute()
        self._lock: IO[str] | None = None
        self._has_plugin: dict[str, bool] = {}  # by the server's address

    def prepare(self, params: Params, version: int) -> Path:
        """Write all weights; the directory appears whole or not at all.

        All processes call this at the same time, since they gather the tensors
        together; each writes a directory of its own.

        Raises:
            OSError: there is not enough space.
        """
        path = self._weights_dir / f"v{version}"
        partial = self._weights_dir / f"v{version}.partial"
        for old in (path, partial):
            shutil.rmtree(old, ignore_errors=True)
        size = sum(math.prod(shape) for shape in self._manifest.values())
        size *= 2 if self._config.dtype == "bfloat16" else 4
        if self._lock is None:
            self._lock = _claim(self._weights_dir)
            _sweep(self._weights_dir.parent)
        if (free := shutil.disk_usage(self._weights_dir).free) < size:
            raise OSError(
                f"weights_dir={str(self._weights_dir)!r} has {free:,} bytes free, but "
                f"the weights take {size:,}: free some space or use another directory"
            )
        try:
            save(partial, self._config, params, dtype=self._config.dtype)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"weights_dir={str(self._weights_dir)!r}: the weights ({size:,} "
                f"bytes) could not be written: {error}: free some space or use another "
                "directory"
            ) from error
        return partial.rename(path)

    async def send(self, api: Api, weights: Path, version: str, *, fresh: bool) -> None:
        """Have a server load a directory; see `Transfer.send`."""
        if fresh or api.url not in self._has_plugin:
            self._has_plugin[api.url] = await self._init(api)
        if self._has_plugin[api.url]:
            async with api.update(version):
                await api.receive({"path": str(weights), "manifest": self._manifest})
            return
        try:
            check(weights, self._manifest)
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"version {version} of the weights is not sent to {api.url}, whose "
                f"reload would fail and leave it without weights: {error}"
            ) from error
        await api.reload(str(weights), version)

    async def _init(self, api: Api) -> bool:
        """Have a server expect weights; return whether it has our plugin."""
        try:
            await api.init_transfer({})
        except ServerError as error:
            if _NOT_CONFIGURED not in str(error):
                raise
            logging.warning(
                "%s runs without our plugin (rollout/vllm/plugin): it reloads weights "
                "without checking them first, and must be restarted if that fails",
                api.url,
            )
            return False
        return True

    def discard(self, weights: Path) -> None:
        """Remove a directory."""
        shutil.rmtree(weights, ignore_errors=True)

    def close(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._weights_dir, ignore_errors=True)
        if self._lock is not None:
            self._lock.close()


def _claim(directory: Path) -> IO[str]:
    """Make a directory that is this process's for as long as the file is open."""
    directory.mkdir(parents=True, exist_ok=True)
    file = (directory / f"{_LOCK}.partial").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(platform.node())
    file.flush()
    Path(file.name).rename(directory / _LOCK)  # who finds it finds it locked
    return file


def _sweep(parent: Path) -> None:
    """Remove directories of processes of this host that were killed.

    Each may hold a whole copy of a policy, in memory.
    """
    for lock in parent.glob(f"*/{_LOCK}"):
        try:
            with lock.open() as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if file.read() == platform.node():
                    logging.info("%s is of a process that was killed", lock.parent)
                    shutil.rmtree(lock.parent, ignore_errors=True)
        except OSError:  # it is in use, of somebody else, or gone
            continue
