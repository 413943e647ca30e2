"""NCCL by ctypes: a group of processes, of which this one is rank 0.

    nccl = Nccl("/opt/vllm/lib/.../libnccl.so.2", device=0)
    deadline = Deadline(timeout_s=60.0)
    group = Group(nccl, unique_id, size, deadline)  # returns when all ranks have joined
    group.broadcast(pointer, count, "bfloat16", deadline)
    group.abort()

Communicators are non-blocking: calls return at once and are polled until they are
done, until the deadline, or until another thread cancels the wait. A blocking call that
waits for a missing rank could not be interrupted.

Why not NVIDIA's bindings, nccl4py (looked at: 0.6.0)? They have non-blocking
initialisation, `get_async_error`, `finalize` and `abort`, but the library cannot be
chosen: cuda-pathfinder gives them whichever libnccl.so.2 the process has loaded, and in
a trainer that is the copy that JAX's CUDA plugin loads at its start, not the servers'.
And their public interface takes devices and streams of cuda-core, which needs
cuda-bindings and a real driver, so that nothing of it could be tested without a GPU.

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
    """A library cannot be used, a call failed, or the group was not formed in time."""


class UniqueId(ctypes.Structure):
    """`ncclUniqueId`, the same in all processes of a group; passed by value."""

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
# The driver's API: a machine has one driver, but any number of toolkits.
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
    """Find the libnccl that servers use; all ranks of a group need the same version.

    Args:
        executable: `vllm`, by name or path.

    Returns:
        The path of the library in the environment of `vllm`; without one, a name for
        the dynamic loader.
    """
    if path := shutil.which(executable):
        environment = Path(path).resolve().parents[1]
        pattern = "lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2"
        for found in sorted(environment.glob(pattern)):
            return str(found)
    return "libnccl.so.2"


class Deadline:
    """Ends waits after `timeout_s` seconds, or when another thread cancels them."""

    def __init__(self, timeout_s: float):
        self._timeout_s = timeout_s
        self._end = time.monotonic() + timeout_s
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End all waits; any thread may call this."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise NcclError if the deadline has passed or was cancelled."""
        if self._cancelled.is_set():
            raise NcclError("cancelled")
        if time.monotonic() > self._end:
            raise NcclError(
                f"timeout_s={self._timeout_s:g}: the other ranks did not take part in "
                "time; look for the reason in the servers' logs, or raise it"
            )


class Nccl:
    """The libraries, for one device of this process.

    Attributes:
        version: of NCCL, e.g. "2.29.7".
    """

    def __init__(self, libnccl: str, device: int, libcuda: str = "libcuda.so.1"):
        """Load them.

        Args:
            libnccl: path of NCCL's library, or a name for the dynamic loader.
            device: CUDA's number of the device in this process.
            libcuda: the CUDA driver's library, likewise.

        Raises:
            NcclError: a library cannot be used; the message says what to do.
        """
        self._nccl = _load("libnccl", libnccl, _NCCL)
        self._nccl.ncclGetErrorString.restype = c_char_p
        self._cuda = _load("libcuda", libcuda, _CUDA)
        number = c_int()
        self.call("ncclGetVersion", ctypes.byref(number))
        major, rest = divmod(number.value, 10_000)
        self.version = f"{major}.{rest // 100}.{rest % 100}"
        self._context = c_void_p()
        self._call_cuda("cuInit", 0)
        self._call_cuda("cuDeviceGet", ctypes.byref(number), device)
        # The context that JAX computes in; like JAX, we keep it until the process ends.
        self._call_cuda("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), number)

    def enter(self) -> None:
        """Make the device the current one of this thread."""
        self._call_cuda("cuCtxSetCurrent", self._context)

    def unique_id(self) -> bytes:
        """Return an id for one new group, 128 bytes."""
        self.enter()
        unique_id = UniqueId()
        self.call("ncclGetUniqueId", ctypes.byref(unique_id))
        return bytes(unique_id)

    def call(self, name: str, *arguments: Any) -> int:
        """Call NCCL and return its result: success, or in progress.

        Raises:
            NcclError: any other result.
        """
        result = getattr(self._nccl, name)(*arguments)
        self.check(result, name)
        return result

    def check(self, result: int, name: str) -> None:
        """Raise NcclError if a call failed."""
        if result not in (_SUCCESS, _IN_PROGRESS):
            text = self._nccl.ncclGetErrorString(result).decode(errors="replace")
            raise NcclError(
                f"{name} of NCCL {self.version}: {text} (NCCL_DEBUG=INFO shows more)"
            )

    def open_stream(self) -> c_void_p:
        """Return a new stream."""
        stream = c_void_p()
        self._call_cuda("cuStreamCreate", ctypes.byref(stream), _NON_BLOCKING)
        return stream

    def is_idle(self, stream: c_void_p) -> bool:
        """Tell whether all work of a stream is done."""
        return self._call_cuda("cuStreamQuery", stream) != _NOT_READY

    def close_stream(self, stream: c_void_p) -> None:
        """Free a stream."""
        self._call_cuda("cuStreamDestroy_v2", stream)

    def _call_cuda(self, name: str, *arguments: Any) -> int:
        result = getattr(self._cuda, name)(*arguments)
        if result not in (_SUCCESS, _NOT_READY):
            raise NcclError(f"{name} of the CUDA driver failed: CUresult {result}")
        return result


class Group:
    """A communicator, as rank 0; one thread at a time may use it.

    A call that fails aborts the group, before its caller can free memory that NCCL
    still reads.
    """

    def __init__(self, nccl: Nccl, unique_id: bytes, size: int, deadline: Deadline):
        """Join, and return when all ranks have joined.

        Args:
            nccl: the libraries.
            unique_id: from `Nccl.unique_id`, new for every group.
            size: number of ranks.
            deadline: ends the wait.

        Raises:
            NcclError: not all ranks joined.
        """
        self._nccl = nccl
        self._comm = c_void_p()
        nccl.enter()
        # Groups do not wait for each other, so each has a stream of its own. Nor do
        # they wait for JAX, which computes on other streams: an array must be ready
        # before it is sent, and must be kept until it is sent.
        self._stream = nccl.open_stream()
        config = _Config(ctypes.sizeof(_Config), 0xCAFEBEEF, 21400, 0)
        self._run(
            deadline,
            "ncclCommInitRankConfig",
            ctypes.byref(self._comm),
            size,
            UniqueId.from_buffer_copy(unique_id),
            0,
            ctypes.byref(config),
        )

    def all_reduce(
        self, pointer: int, count: int, dtype: str, deadline: Deadline
    ) -> None:
        """Sum an array over all ranks, in place.

        Args:
            pointer: to `count` numbers in the device's memory.
            count: the same in all ranks.
            dtype: float32 or bfloat16.
            deadline: ends the wait.

        Raises:
            NcclError: the call failed, and the group is aborted.
        """
        self._collect("ncclAllReduce", pointer, count, dtype, _SUM, deadline)

    def broadcast(
        self, pointer: int, count: int, dtype: str, deadline: Deadline
    ) -> None:
        """Send an array to all other ranks; see `all_reduce`."""
        self._collect("ncclBroadcast", pointer, count, dtype, 0, deadline)

    def abort(self) -> None:
        """Leave at once; `ncclCommDestroy` would wait for the other ranks."""
        if not self._stream:
            return
        self._nccl.enter()
        comm, self._comm = self._comm, c_void_p()
        stream, self._stream = self._stream, c_void_p()
        if comm:
            self._nccl.call("ncclCommAbort", comm)
        self._nccl.close_stream(stream)

    def _collect(
        self,
        name: str,
        pointer: int,
        count: int,
        dtype: str,
        reduction_or_root: int,
        deadline: Deadline,
    ) -> None:
        if not self._comm:
            raise NcclError("the group is aborted")
        self._nccl.enter()
        arguments = pointer, pointer, count, _DTYPES[dtype], reduction_or_root
        self._run(deadline, name, *arguments, self._comm, self._stream)

    def _run(self, deadline: Deadline, name: str, *arguments: Any) -> None:
        """Call, and wait until it is done: first on the host, then on the device."""
        state = c_int()
        try:
            state.value = self._nccl.call(name, *arguments)
            while state.value == _IN_PROGRESS or not self._nccl.is_idle(self._stream):
                deadline.check()
                time.sleep(_POLL_SECONDS)
                self._nccl.call(
                    "ncclCommGetAsyncError", self._comm, ctypes.byref(state)
                )
                self._nccl.check(state.value, name)
        except BaseException:
            self.abort()
            raise


def _load(
    argument: str, path: str, functions: Mapping[str, Sequence[Any]]
) -> ctypes.CDLL:
    """Load a library and declare the functions that we call."""
    try:
        library = ctypes.CDLL(path)
        for name, arguments in functions.items():
            function = getattr(library, name)
            function.argtypes = arguments
            function.restype = c_int
    except (OSError, AttributeError) as error:
        raise NcclError(
            f"{argument}={path!r} cannot be used: {error}. On a machine with NVIDIA's "
            "driver, set libnccl to the libnccl.so.2 of vLLM's environment; elsewhere, "
            "use transfer='files'"
        ) from error
    return library
