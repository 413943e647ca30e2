"""How this process uses its machine: memory, compiled programs."""

import ctypes
import importlib.util
import os
from pathlib import Path

import jax

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Keep what is freed for later allocations, in a process that computes on CPUs.

    XLA allocates a program's temporary arrays at each run and frees them after it. They
    are large, so glibc gives them back to the system at once, and the page faults of
    getting them again take a tenth of a small policy's update; more on some virtual
    machines. Kept, they cost memory only between the runs, not at the peak.

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
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", str(directory.absolute()))
    # By default JAX keeps only what took a second to compile; a small model on a CPU
    # has many programs below that.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
