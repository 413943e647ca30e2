"""How this process uses the memory of its machine."""

import ctypes
import importlib.util
import os

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
