"""Brings weights to vLLM servers from device to device, by NCCL.

For trainers and servers on GPUs of their own, on one host or several: no weights pass
through the memory of a host. The servers run vLLM's own engine `nccl`; a tensor is
broadcast at a time, named and laid out as in a Hugging Face directory, and a server
slices it itself.

Every server forms a group of its own with the trainer, so that the failure or restart
of one does not affect the others. An update that fails on either side leaves the group
unusable and the server's model incomplete: the group is aborted, the server stays
paused until it is restarted or gets all weights, and then a new group is formed.

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
from reskill_jax.rollout.vllm.nccl import Deadline, Group, Nccl, NcclError


class NcclTransfer:
    """Broadcasts parameters from device memory; an `engine.Transfer`."""

    def __init__(
        self,
        config: DecoderConfig,
        *,
        mesh: Mesh | None,
        libnccl: str,
        timeout_s: float,
        libcuda: str = "libcuda.so.1",
    ):
        """Load the libraries; groups are formed when weights are first sent.

        Args:
            config: the decoder's shape; tensors are sent in its dtype.
            mesh: the devices of the parameters, of which the first sends; None for one
                device.
            libnccl: path of the library that the servers use.
            timeout_s: seconds for a server to join, and for all weights to arrive.
            libcuda: path of the CUDA driver's library.

        Raises:
            NcclError: a library cannot be used.
        """
        self._config = config
        self._timeout_s = timeout_s
        self._device = jax.devices()[0] if mesh is None else mesh.devices.flat[0]
        self._nccl = Nccl(libnccl, self._device.local_hardware_id, libcuda)
        self._groups: dict[str, Group] = {}  # by the server's address
        # Programs of several devices must start on all of them in the same order, and
        # servers get their weights at the same time.
        self._computing = threading.Lock()

    def prepare(self, params: Params, version: int) -> Params:
        """Return the parameters themselves."""
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
                broadcast = partial(self._broadcast, group, weights)
                await self._together(api.receive(self._update_info()), broadcast)
        except BaseException:
            await asyncio.to_thread(self._leave, api.url)
            raise

    def discard(self, weights: Params) -> None:
        """Do nothing: the parameters belong to the trainer."""

    def close(self) -> None:
        """Leave all groups."""
        for url in list(self._groups):
            self._leave(url)

    async def _join(self, api: Api, fresh: bool) -> None:
        """Form a group with a server.

        Raises:
            ServerError: the server refuses.
            UnusableError: it does not leave its present group, or does not join ours.
        """
        if not fresh:
            try:
                # It may be in a failed group of ours, or in another trainer's.
                await api.end_transfer()
            except ServerError as error:
                raise UnusableError(
                    f"{api.url} does not leave its present NCCL group: {error}"
                ) from error
        size = 1 + await api.world_size()
        unique_id = await asyncio.to_thread(self._nccl.unique_id)
        info = {
            "nccl_unique_id_b64": base64.b64encode(unique_id).decode(),
            "rank_offset": 1,
            "world_size": size,
            "packed": False,
        }
        join = partial(self._join_as_first, api.url, unique_id, size)
        try:
            await self._together(api.init_transfer(info), join)
        except NcclError as error:
            raise UnusableError(
                f"{api.url} and the trainer did not form a group with NCCL "
                f"{self._nccl.version}: {error}. Both need the same version (libnccl), "
                "GPUs of their own, and the same NCCL_* variables"
            ) from error

    def _join_as_first(
        self, url: str, unique_id: bytes, size: int, deadline: Deadline
    ) -> None:
        group = self._groups[url] = Group(self._nccl, unique_id, size, deadline)
        # vLLM's workers warm the group up by an all-reduce, which every rank takes
        # part in.
        zero = jax.device_put(jnp.zeros(1, jnp.float32), self._device)
        zero.block_until_ready()
        group.all_reduce(zero.unsafe_buffer_pointer(), 1, "float32", deadline)

    def _leave(self, url: str) -> None:
        if group := self._groups.pop(url, None):
            group.abort()

    def _update_info(self) -> dict[str, list[Any]]:
        """Describe the tensors in the order in which they are broadcast."""
        tensors = manifest(self._config)
        return {
            "names": list(tensors),
            "dtype_names": [self._config.dtype] * len(tensors),
            "shapes": [list(shape) for shape in tensors.values()],
        }

    def _broadcast(self, group: Group, params: Params, deadline: Deadline) -> None:
        """Send all tensors; one at a time is gathered on the sending device."""
        for tensor in device_tensors(self._config, params):
            deadline.check()
            with self._computing:
                x = _copy_on(self._device, tensor.make())
                x.block_until_ready()
            group.broadcast(
                x.unsafe_buffer_pointer(), x.size, self._config.dtype, deadline
            )

    async def _together(
        self, request: Coroutine[Any, Any, None], act: Callable[[Deadline], None]
    ) -> None:
        """Send a request that the server answers only after we have done our part.

        Our part runs in a thread. The side that fails first cancels the other, and its
        error is raised.
        """
        deadline = Deadline(self._timeout_s)
        theirs = asyncio.create_task(request)
        ours = asyncio.create_task(asyncio.to_thread(act, deadline))
        try:
            done, _ = await asyncio.wait(
                (theirs, ours), return_when=asyncio.FIRST_EXCEPTION
            )
        finally:
            deadline.cancel()
            theirs.cancel()
            await asyncio.gather(theirs, ours, return_exceptions=True)
        for task in done:
            task.result()


def _copy_on(device: jax.Device, x: jax.Array) -> jax.Array:
    """Return the copy of a replicated array that is on a device."""
    return next(s.data for s in x.addressable_shards if s.device == device)
