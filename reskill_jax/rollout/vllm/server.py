"""Starts and stops `vllm serve`, in an environment of its own.

The server listens on a Unix socket in a private directory, since its control routes
have no authentication. It ends with this process, also by SIGKILL.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from reskill_jax.process import exec_with_guard

_PLUGIN = Path(__file__).parent / "plugin"
_STOP_SECONDS = 10.0
_LONGEST_SOCKET = 107  # bytes of the path of a Unix socket
# `transfer` -> vLLM's name of the receiving engine: our plugin's, or its own.
_BACKENDS = {"files": "reskill_files", "nccl": "nccl"}


@dataclass(frozen=True)
class ServerOptions:
    """How to start a server.

    Attributes:
        executable: `vllm` of an environment with vLLM.
        model: Hugging Face directory with config and tokenizer; its weights are served
            until the first push.
        dtype: of weights and computation.
        max_length: tokens of the longest prompt and response together.
        max_sequences: sequences that it works on at the same time, at most.
        tensor_parallel_size: devices that the server splits the model over.
        transfer: how weights reach it: files or nccl.
        gpu_memory_utilization: share of each device's memory; 0: left to `arguments`.
        sleep_mode: whether it can give that memory back for a while.
        arguments: further arguments of `vllm serve`.
        environment: further environment variables.
    """

    executable: str
    model: Path
    dtype: str
    max_length: int
    max_sequences: int = 128
    tensor_parallel_size: int = 1
    transfer: str = "files"
    gpu_memory_utilization: float = 0.9
    sleep_mode: bool = False
    arguments: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


class Server:
    """One `vllm serve` process."""

    def __init__(self, options: ServerOptions, directory: Path):
        """Start it, without waiting until it is ready.

        Args:
            options: how to start it.
            directory: a private one, for its socket and its log.

        Raises:
            FileNotFoundError: there is no such executable.
            ValueError: the path of the socket would be too long.
        """
        self._options = options
        self._socket = directory / "socket"
        self.log = directory / "log"
        if shutil.which(options.executable) is None:
            raise FileNotFoundError(
                f"executable={options.executable!r} was not found: install vLLM into "
                "an environment of its own and name its bin/vllm"
            )
        if (size := len(os.fsencode(self._socket))) > _LONGEST_SOCKET:
            raise ValueError(
                f"the path of the server's socket, {self._socket}, has {size} bytes, "
                f"and Linux takes {_LONGEST_SOCKET}: set TMPDIR to a shorter path"
            )
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        # Our end of a pipe; when it is closed, the guard ends the server.
        self._guard: int | None = None
        self._process = self._start()

    @property
    def url(self) -> str:
        """Its address, ``unix:`` and the path of its socket."""
        return f"unix:{self._socket}"

    @property
    def pid(self) -> int:
        """Process id; the server leads a process group of the same number."""
        return self._process.pid

    def ended(self) -> bool:
        """Tell whether its process has ended."""
        return self._process.poll() is not None

    def restart(self) -> None:
        """Start it again, after ending what is left of its process group."""
        self.stop()
        self._process = self._start()

    def stop(self) -> None:
        """End it and its children: first by SIGINT, after some seconds by SIGKILL."""
        if self._guard is not None:
            os.close(self._guard)  # as if we had ended
            self._guard = None
        deadline = time.monotonic() + _STOP_SECONDS + 1.0
        while _alive(self._process):
            if time.monotonic() > deadline:  # the guard was stopped or killed
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
            time.sleep(0.05)
        self._socket.unlink(missing_ok=True)

    def tail(self, lines: int = 20) -> str:
        """Return the end of its log, or what an empty one may mean."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        shown = "\n".join(text.splitlines()[-lines:])
        name = self._options.executable
        return shown or f"(it wrote nothing: is executable={name!r} that of vLLM?)"

    def _start(self) -> subprocess.Popen[bytes]:
        self._socket.unlink(missing_ok=True)
        theirs, self._guard = os.pipe()
        words = command(self._options, self._socket)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    f"import sys; sys.path[:] = {sys.path!r}; "
                    f"from {exec_with_guard.__module__} import exec_with_guard; "
                    f"exec_with_guard({theirs}, {_STOP_SECONDS}, {words!r})",
                ],
                env=environment(self._options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs],
                start_new_session=True,  # Ctrl-C is for the trainer, which stops it
            )
        os.close(theirs)
        return process


def command(options: ServerOptions, socket: Path) -> list[str]:
    """Return the command line of a server."""
    arguments = {
        "served-model-name": "policy",
        "uds": socket,
        "dtype": options.dtype,
        "max-model-len": options.max_length,
        "max-num-seqs": options.max_sequences,
        "tensor-parallel-size": options.tensor_parallel_size,
        # Otherwise the model's own defaults apply where a request gives no value.
        "generation-config": "vllm",
        "logprobs-mode": "processed_logprobs",
        "worker-extension-cls": "reskill_vllm.Extension",
        # The creator asks for JSON: small models would write blanks for ever.
        "structured-outputs-config": json.dumps(
            {"backend": "xgrammar", "disable_any_whitespace": True}
        ),
        "weight-transfer-config": json.dumps({"backend": _BACKENDS[options.transfer]}),
    }
    if options.gpu_memory_utilization:
        arguments["gpu-memory-utilization"] = options.gpu_memory_utilization
    return [
        shutil.which(options.executable) or options.executable,
        "serve",
        str(options.model),
        *(
            word
            for name, value in arguments.items()
            for word in (f"--{name}", f"{value}")
        ),
        "--enable-scale-out",
        *(("--enable-sleep-mode",) if options.sleep_mode else ()),
        "--disable-uvicorn-access-log",
        *options.arguments,
    ]


def environment(options: ServerOptions) -> dict[str, str]:
    """Return a server's environment variables: ours, without those of our Python."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONHOME", "VIRTUAL_ENV")
    }
    return inherited | {
        "PYTHONPATH": str(_PLUGIN),
        "VLLM_SERVER_DEV_MODE": "1",  # enables the routes for weights
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        **options.environment,
    }


def _alive(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether any process of its group is running.

    One that has ended but was not reaped does not count: in a container whose first
    process is the trainer, or another that reaps nothing but its own children, what the
    server leaves behind stays a zombie, and in its group, for good.
    """
    process.poll()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # After the name, which may hold anything: state, parent, group.
            text = path.read_text(errors="replace")
            state, _, group = text.rpartition(")")[2].split()[:3]
            if int(group) == process.pid and state not in "ZX":
                return True
    return False
