"""Brings weights to vLLM servers through files in a directory that all share.

The directory is best in memory (/dev/shm). Our plugin in the server checks the files
before it touches the model, so that a server that refuses them keeps what it had. A
server that somebody else started without the plugin reloads by itself, after we have
checked the files; if that fails nevertheless it has to be started again.
"""

import math
import shutil
from pathlib import Path

from absl import logging

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.weights import manifest, save
from reskill_jax.rollout.vllm.api import Api, ServerError
from reskill_jax.rollout.vllm.plugin.weight_files import check

# What vLLM says if it was started without `--weight-transfer-config`.
_NO_RECEIVER = "Weight transfer not configured"


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
        self._root = root.absolute()  # servers have working directories of theirs
        self._has_plugin: dict[str, bool] = {}  # by the server's address

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
                f"config.engine.vllm.weights_dir={str(self._root)!r} has {free:,} "
                f"bytes free, but weights take {size:,}: make room or name another "
                "directory"
            )
        try:
            save(partial, self._config, params, dtype=self._config.dtype)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise OSError(
                f"config.engine.vllm.weights_dir={str(self._root)!r} did not take "
                f"all weights ({size:,} bytes): make room or name another "
                f"directory: {error}"
            ) from error
        return partial.rename(path)

    async def send(self, api: Api, weights: Path, version: str, *, fresh: bool) -> None:
        """Let a server take a directory; see `Transfer.send`."""
        if fresh or api.url not in self._has_plugin:
            self._has_plugin[api.url] = await self._introduce(api)
        if self._has_plugin[api.url]:
            async with api.update(version):
                await api.receive({"path": str(weights)})
            return
        try:
            check(weights, self._manifest)
        except (OSError, ValueError) as error:
            raise RuntimeError(
                f"version {version} of the weights is not sent to {api.url}, which "
                f"would not survive it: {error}"
            ) from error
        await api.reload(str(weights), version)

    async def _introduce(self, api: Api) -> bool:
        """Tell a server what it will get; return whether it has our plugin."""
        try:
            await api.init_transfer({"manifest": self._manifest})
        except ServerError as error:
            if _NO_RECEIVER not in str(error):
                raise
            logging.warning(
                "%s runs without our plugin (rollout/vllm/plugin): it reloads "
                "weights without a check of its own, and has to be started again if "
                "that fails",
                api.url,
            )
            return False
        return True

    def discard(self, weights: Path) -> None:
        """Remove a directory."""
        shutil.rmtree(weights, ignore_errors=True)

    def close(self) -> None:
        """Remove all of them."""
        shutil.rmtree(self._root, ignore_errors=True)
