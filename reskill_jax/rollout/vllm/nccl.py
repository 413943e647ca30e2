"""NCCL by ctypes: a group of processes, of which this one is the first.

    nccl = Nccl("/opt/vllm/lib/.../libnccl.so.2", device=0)
    group = Group(nccl, unique_id, size, limit)     # returns when all have entered
    group.broadcast(pointer, count, "bfloat16", limit)
    group.abort()

Communicators are of NCCL's non-blocking kind: calls return at once, and are polled
until they are done, until their time is up, or until somebody has them stop. Nothing
but that can be left while it waits for a process that does not come.

This has been run against a stand-in for both libraries, not on GPUs.
"""

import ctypes
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_void_p
from pathlib import Path
from typing import Any

_SUCCESS, _IN_PROGRESS = 0, 7  # ncclResult_t
_NOT_READY = 600  # CUresult
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING
_SUM = 0  # ncclRedOp_t
_DTYPES = {"float32": 7, "bfloat16": 9}  # ncclDataType_t
_POLL_SECONDS = 1e-4


class NcclError(RuntimeError):
    """A library cannot be used, a call failed, or the group did not come together."""


class UniqueId(ctypes.Structure):
    """What the processes of a group know each other by; passed by value."""

    _fields_ = (("internal", ctypes.c_ubyte * 128),)


class _Config(ctypes.Structure):
    """`ncclConfig_t` as of NCCL 2.14, which all later ones accept by its version."""

    _fields_ = (
        ("size", c_size_t),
        ("magic", c_uint),
        ("version", c_uint),
        ("blocking", c_int),
    )


_NCCL: Mapping[str, Sequence[Any]] = {
    "ncclGetVersion": (POINTER(c_int),),
    "ncclGetErrorString": (c_int,),
    "ncclGetUniqueId": (POINTER(UniqueId),),
    "ncclCommInitRankConfig": (
        POINTER(c_void_p),
        c_int,
        UniqueId,
        c_int,
        POINTER(_Config),
    ),
    "ncclCommGetAsyncError": (c_void_p, POINTER(c_int)),
    "ncclCommAbort": (c_void_p,),
    # (from, to, count, type, reduction or root, communicator, stream)
    "ncclAllReduce": (c_void_p, c_void_p, c_size_t, c_int, c_int, c_void_p, c_void_p),
    "ncclBroadcast": (c_void_p, c_void_p, c_size_t, c_int, c_int, c_void_p, c_void_p),
}
# The driver, since there is one on a machine, whatever toolkits there are.
_CUDA: Mapping[str, Sequence[Any]] = {
    "cuInit": (c_uint,),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDevicePrimaryCtxRetain": (POINTER(c_void_p), c_int),
    "cuCtxSetCurrent": (c_void_p,),
    "cuStreamCreate": (POINTER(c_void_p), c_uint),
    "cuStreamQuery": (c_void_p,),
    "cuStreamDestroy_v2": (c_void_p,),
}


def find_library(executable: str) -> str:
    """Return the libnccl of the environment of `vllm`; without one, the loader's.

    Both ends of a group want the same version.
    """
    if path := shutil.which(executable):
        environment = Path(path).resolve().parents[1]
        pattern = "lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2"
        for found in sorted(environment.glob(pattern)):
            return str(found)
    return "libnccl.so.2"


class Limit:
    """Ends a wait, when its time is up or when another thread says so."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let whoever waits give up."""
        self._stopped.set()

    def check(self) -> None:
        """Raise NcclError if the wait is over."""
        if self._stopped.is_set():
            raise NcclError("stopped")
        if time.monotonic() > self._end:
            raise NcclError(
                f"the others did not take part within {self._seconds:g} s "
                "(config.engine.vllm.timeout_s)"
            )


class Nccl:
    """The libraries, for one device of this process.

    Attributes:
        version: of NCCL, e.g. "2.29.7".
    """

    def __init__(self, path: str, device: int, cuda: str = "libcuda.so.1"):
        """Load them.

        Args:
            path: of libnccl, or a name for the loader.
            device: CUDA's number of the device in this process.
            cuda: of the CUDA driver, likewise.

        Raises:
            NcclError: that is not possible; the message says what to do.
        """
        self._nccl = _load(path, _NCCL)
        self._nccl.ncclGetErrorString.restype = c_char_p
        self._cuda = _load(cuda, _CUDA)
        number = c_int()
        self.call("ncclGetVersion", ctypes.byref(number))
        major, rest = divmod(number.value, 10_000)
        self.version = f"{major}.{rest // 100}.{rest % 100}"
        self._context = c_void_p()
        self._drive("cuInit", 0)
        self._drive("cuDeviceGet", ctypes.byref(number), device)
        # The one that jax computes in, which it keeps until the process ends, and so do
        # we.
        self._drive("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), number)

    def enter(self) -> None:
        """Make the device that of this thread."""
        self._drive("cuCtxSetCurrent", self._context)

    def unique_id(self) -> bytes:
        """Return an id for one new group, 128 bytes."""
        self.enter()
        unique_id = UniqueId()
        self.call("ncclGetUniqueId", ctypes.byref(unique_id))
        return bytes(unique_id)

    def call(self, name: str, *arguments: Any) -> int:
        """Call NCCL and return its result: done, or in progress.

        Raises:
            NcclError: any other.
        """
        result = getattr(self._nccl, name)(*arguments)
        self.check(result, name)
        return result

    def check(self, result: int, name: str) -> None:
        """Raise NcclError if a call failed."""
        if result not in (_SUCCESS, _IN_PROGRESS):
            text = self._nccl.ncclGetErrorString(result).decode(errors="replace")
            raise NcclError(
                f"{name} of NCCL {self.version}: {text} (NCCL_DEBUG=INFO tells more)"
            )

    def open_stream(self) -> c_void_p:
        """Return a new stream."""
        stream = c_void_p()
        self._drive("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return stream

    def is_idle(self, stream: c_void_p) -> bool:
        """Tell whether all work of a stream is done."""
        return self._drive("cuStreamQuery", stream) != _NOT_READY

    def close_stream(self, stream: c_void_p) -> None:
        """Free a stream."""
        self._drive("cuStreamDestroy_v2", stream)

    def _drive(self, name: str, *arguments: Any) -> int:
        result = getattr(self._cuda, name)(*arguments)
        if result not in (_SUCCESS, _NOT_READY):
            raise NcclError(f"{name} of the CUDA driver failed: CUresult {result}")
        return result


class Group:
    """A communicator, as rank 0; one thread at a time may use it.

    A call that fails aborts the group, before its caller can free what NCCL reads.
    """

    def __init__(self, nccl: Nccl, unique_id: bytes, size: int, limit: Limit):
        """Enter, and return when all have.

        Args:
            nccl: the libraries.
            unique_id: of `Nccl.unique_id`, new for every group.
            size: number of processes.
            limit: of the wait.

        Raises:
            NcclError: they did not come together.
        """
        self._nccl = nccl
        self._comm = c_void_p()
        nccl.enter()
        # A stream of its own: groups do not wait for each other. jax computes on
        # others, and neither waits for the other there: an array has to be ready
        # before it is given to us, and to be kept until we are done.
        self._stream = nccl.open_stream()
        config = _Config(ctypes.sizeof(_Config), 0xCAFEBEEF, 21400, 0)
        self._run(
            limit,
            "ncclCommInitRankConfig",
            ctypes.byref(self._comm),
            size,
            UniqueId.from_buffer_copy(unique_id),
            0,
            ctypes.byref(config),
        )

    def all_reduce(self, pointer: int, count: int, dtype: str, limit: Limit) -> None:
        """Sum an array over all ranks, in place.

        Args:
            pointer: to `count` numbers in the device's memory.
            count: the same in all ranks.
            dtype: float32 or bfloat16.
            limit: of the wait.

        Raises:
            NcclError: the group is aborted then.
        """
        self._collect("ncclAllReduce", pointer, count, dtype, _SUM, limit)

    def broadcast(self, pointer: int, count: int, dtype: str, limit: Limit) -> None:
        """Send an array to all other ranks; see `all_reduce`."""
        self._collect("ncclBroadcast", pointer, count, dtype, 0, limit)

    def abort(self) -> None:
        """Leave, whatever is under way; to destroy would be to wait for the others."""
        if not self._stream:
            return
        self._nccl.enter()
        comm, self._comm = self._comm, c_void_p()
        stream, self._stream = self._stream, c_void_p()
        if comm:
            self._nccl.call("ncclCommAbort", comm)
        self._nccl.close_stream(stream)

    def _collect(
        self, name: str, pointer: int, count: int, dtype: str, how: int, limit: Limit
    ) -> None:
        if not self._comm:
            raise NcclError("the group is aborted")
        self._nccl.enter()
        kind = _DTYPES[dtype]
        self._run(
            limit, name, pointer, pointer, count, kind, how, self._comm, self._stream
        )

    def _run(self, limit: Limit, name: str, *arguments: Any) -> None:
        """Call, and wait until it is done: first on the host, then on the device."""
        state = c_int()
        try:
            state.value = self._nccl.call(name, *arguments)
            while state.value == _IN_PROGRESS or not self._nccl.is_idle(self._stream):
                limit.check()
                time.sleep(_POLL_SECONDS)
                self._nccl.call(
                    "ncclCommGetAsyncError", self._comm, ctypes.byref(state)
                )
                self._nccl.check(state.value, name)
        except BaseException:
            self.abort()
            raise


def _load(path: str, functions: Mapping[str, Sequence[Any]]) -> ctypes.CDLL:
    """Load a library and declare what we call."""
    try:
        library = ctypes.CDLL(path)
        for name, arguments in functions.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = c_int
    except (OSError, AttributeError) as error:
        raise NcclError(
            f"{path!r} cannot be used: {error}. Name the libnccl.so.2 of vLLM's "
            "environment in config.engine.vllm.libnccl, on a machine with NVIDIA's "
            "driver, or set config.engine.vllm.transfer='files'"
        ) from error
    return library
