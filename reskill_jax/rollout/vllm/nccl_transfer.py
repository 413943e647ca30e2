"""Brings weights to vLLM servers from device to device, by NCCL.

For trainers and servers on GPUs of their own, on one host or several: no weights pass
through the memory of a host. The servers run vLLM's own engine `nccl`; a tensor is
broadcast at a time, named and laid out as in a Hugging Face directory, and a server
slices it itself.

Every server is in a group of its own with us, so that one that is started again, or
fails, concerns no other. A round that fails on either side has ruined its group and the
server's model: we abort the group, the server stays paused until it is started again or
gets all weights, and then there is a new group.

This has been run against a stand-in for NCCL and for the servers, not on GPUs.
"""

import asyncio
import base64
import threading
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.weights import device_tensors, manifest
from reskill_jax.rollout.vllm.api import Api, ServerError, UnusableError
from reskill_jax.rollout.vllm.nccl import Group, Limit, Nccl, NcclError


class NcclTransfer:
    """Broadcasts parameters where they are; a `Transfer` of `vllm_engine`."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        mesh: Mesh | None,
        library: str,
        timeout: float,
        cuda: str = "libcuda.so.1",
    ):
        """Load the libraries; groups are made with the first weights.

        Args:
            config: the decoder's shape; its dtype is that of what is sent.
            mesh: the devices of the parameters, of which the first sends; None for one
                device.
            library: path of the libnccl that the servers use.
            timeout: seconds for a server to join, and for all weights to arrive.
            cuda: path of the CUDA driver's library.

        Raises:
            NcclError: a library cannot be used.
        """
        self._config = config
        self._timeout = timeout
        self._device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        self._nccl = Nccl(library, self._device.local_hardware_id, cuda)
        self._groups: dict[str, Group] = {}  # by the server's address
        # Programs of several devices have to start on all of them in one order.
        self._making = threading.Lock()

    def prepare(self, params: Params, version: int) -> Params:
        """Return the parameters, which are sent from where they are."""
        del version
        return params

    async def send(
        self, api: Api, weights: Params, version: str, *, fresh: bool
    ) -> None:
        """Have a server receive all tensors; see `Transfer.send`."""
        try:
            if fresh or api.url not in self._groups:
                await asyncio.to_thread(self._leave, api.url)
                await self._join(api, fresh)
            group = self._groups[api.url]
            async with api.update(version, atomic=False):
                act = partial(self._broadcast, group, weights)
                await self._with_server(api.receive(self._contents()), act)
        except BaseException:
            await asyncio.to_thread(self._leave, api.url)
            raise

    def discard(self, weights: Params) -> None:
        """Do nothing: they are the trainer's."""

    def close(self) -> None:
        """Leave all groups."""
        for url in list(self._groups):
            self._leave(url)

    async def _join(self, api: Api, fresh: bool) -> None:
        """Form a group with a server.

        Raises:
            ServerError: it refuses.
            UnusableError: it does not leave an older group, or does not come to ours.
        """
        if not fresh:
            try:
                await api.end_transfer()  # a group of ours that failed, or another's
            except ServerError as error:
                raise UnusableError(
                    f"{api.url} does not leave the group that it is in: {error}"
                ) from error
        size = 1 + await api.world_size()
        unique_id = await asyncio.to_thread(self._nccl.unique_id)
        info = {
            "nccl_unique_id_b64": base64.b64encode(unique_id).decode(),
            "rank_offset": 1,
            "world_size": size,
            "packed": False,
        }
        act = partial(self._enter, api.url, unique_id, size)
        try:
            await self._with_server(api.init_transfer(info), act)
        except NcclError as error:
            raise UnusableError(
                f"{api.url} and the trainer did not come together by NCCL "
                f"{self._nccl.version}: {error}. Both want the same version "
                "(config.engine.vllm.libnccl), GPUs of their own, and the same NCCL_* "
                "variables"
            ) from error

    def _enter(self, url: str, unique_id: bytes, size: int, limit: Limit) -> None:
        group = self._groups[url] = Group(self._nccl, unique_id, size, limit)
        # vLLM's workers do this next, and wait until all have.
        zero = jax.device_put(jnp.zeros(1, jnp.float32), self._device)
        zero.block_until_ready()
        group.all_reduce(zero.unsafe_buffer_pointer(), 1, "float32", limit)

    def _leave(self, url: str) -> None:
        if group := self._groups.pop(url, None):
            group.abort()

    def _contents(self) -> dict[str, list[Any]]:
        """Describe what is broadcast, in its order."""
        tensors = manifest(self._config)
        return {
            "names": list(tensors),
            "dtype_names": [self._config.dtype] * len(tensors),
            "shapes": [list(shape) for shape in tensors.values()],
        }

    def _broadcast(self, group: Group, params: Params, limit: Limit) -> None:
        """Send all tensors, one in memory at a time."""
        for tensor in device_tensors(self._config, params):
            limit.check()
            with self._making:
                x = _on(self._device, tensor.make())
                x.block_until_ready()
            group.broadcast(
                x.unsafe_buffer_pointer(), x.size, self._config.dtype, limit
            )

    async def _with_server(
        self, call: Coroutine[Any, Any, None], act: Callable[[Limit], None]
    ) -> None:
        """Do our part of what a server answers when it and we have done it.

        Ours runs in a thread. Whoever fails first stops the other, and is what is
        raised.
        """
        limit = Limit(self._timeout)
        theirs = asyncio.create_task(call)
        ours = asyncio.create_task(asyncio.to_thread(act, limit))
        try:
            done, _ = await asyncio.wait(
                (theirs, ours), return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            limit.stop()
            theirs.cancel()
            await asyncio.gather(theirs, ours, return_exceptions=True)
        for task in done:
            task.result()


def _on(device: jax.Device, x: jax.Array) -> jax.Array:
    """Return the copy of an array that a device has."""
    return next(s.data for s in x.addressable_shards if s.device == device)
