"""How a process uses its machine: memory, compiled programs, processes that it starts.

Programs that must not load JAX import this module, too.
"""

import contextlib
import ctypes
import gc
import importlib.util
import multiprocessing
import os
import select
import signal
import threading
from pathlib import Path

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def tune_memory() -> None:
    """Set how this process, which trains or evaluates, frees memory."""
    keep_freed_memory()
    collect_garbage_rarely()


def collect_garbage_rarely() -> None:
    """Look for cycles of dead objects every 50,000 new objects, not every 700.

    Nearly all new objects here are parts of episodes, which stay: with hundreds of
    episodes in flight, looking through them took a fifth of the collector's CPU time.
    """
    gc.set_threshold(50_000, 20, 100)


def keep_freed_memory() -> bool:
    """Keep what is freed for later allocations, in a process that computes on CPUs.

    XLA allocates a program's temporary arrays at each run and frees them after it. They
    are large, so glibc gives them back to the system at once, and the page faults of
    getting them again take a tenth of a small policy's update; more on some virtual
    machines. Kept, they cost memory, also at the peak where rows of several lengths do
    not fit into each other's places: adapters on 135M parameters took 6.9 GB instead of
    3.2 with rows of 512, 768 and 1,024 tokens, and a quarter less CPU time.

    To be called before JAX has started its backend, whose threads get their ways of
    allocating then. Where JAX has accelerators, or where there is no glibc, nothing
    changes: the host's large allocations are rare there.

    Returns:
        Whether it is kept.
    """
    others = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    if others and os.environ.get("JAX_PLATFORMS") != "cpu":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # All arrays from one heap that never shrinks, instead of a mapping for each.
    settings = ((_ARENA_MAX, 1), (_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
    return all([mallopt(name, value) for name, value in settings])


def compilation_cache(directory: Path) -> None:
    """Keep compiled programs on disk, so that a second start does not compile again.

    To be called before the first compilation. The environment variable
    JAX_COMPILATION_CACHE_DIR takes precedence over `directory`.
    """
    import jax  # noqa: PLC0415

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
    # By default JAX keeps only what took a second to compile; a small model on a CPU
    # has many programs below that.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def end_with_parent() -> None:
    """End this process as soon as the one that spawned it has ended, also by SIGKILL.

    The initializer of pools, whose workers would wait for work forever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "not a process that multiprocessing has started"

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def end_group_with_parent(connection: int, *, grace_s: float = 0.0) -> None:
    """Wait until the parent has ended, then end this process group and this process.

    The kernel closes the parent's end of the connection however the parent ends, also
    by SIGKILL. A parent that closes it itself ends the group, too.

    Args:
        connection: descriptor of our end of a pipe or socket; only the parent has the
            other end.
        grace_s: seconds that the leader of the group gets to end by itself after a
            SIGINT; 0: the whole group is killed at once.
    """
    hang_up = select.poll()
    hang_up.register(connection, 0)  # hang-ups are reported without being asked for
    hang_up.poll()
    if grace_s:
        with contextlib.suppress(ProcessLookupError):
            leader = os.pidfd_open(os.getpgrp())
            os.kill(os.getpgrp(), signal.SIGINT)
            ended = select.poll()
            ended.register(leader, select.POLLIN)
            ended.poll(1000 * grace_s)
    os.killpg(0, signal.SIGKILL)


def exec_with_guard(connection: int, grace_s: float, command: list[str]) -> None:
    """Become another program, guarded by a process that ends it with the parent.

    The caller must lead its process group.

    Args:
        connection: see `end_group_with_parent`.
        grace_s: likewise.
        command: path of the program, and its arguments.
    """
    if os.fork():
        os.close(connection)
        os.execv(command[0], command)
    end_group_with_parent(connection, grace_s=grace_s)
