"""What a process keeps: freed memory where it computes on CPUs, compiled programs."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reskill_jax.process import keep_freed_memory

PROGRAM = """
import resource, sys
from reskill_jax.process import keep_freed_memory
if not keep_freed_memory():
    sys.exit("not kept")
import jax, jax.numpy as jnp
x = jnp.ones((4096, 32))
f = jax.jit(lambda x: (x @ x.T) @ x)  # 64 MiB between the products, 16,384 pages
def faults():
    for _ in range(24):
        f(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


COMPILE = """
import pathlib, sys
import jax
from reskill_jax.process import compilation_cache
compilation_cache(pathlib.Path(sys.argv[1]))
print(jax.jit(lambda x: x * 2 + 1)(3.0))
"""


SPAWN = """
import multiprocessing, time
from reskill_jax.process import end_with_parent
if __name__ == "__main__":
    pool = multiprocessing.get_context("spawn").Pool(2, end_with_parent)
    pool.map_async(time.sleep, [600, 600], chunksize=1)
    print(*(worker.pid for worker in pool._pool), flush=True)
    time.sleep(600)
"""


def ended(pid, patience_s=60.0):
    """Wait until a process has ended; whoever adopted it may not have noticed yet."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.05)
    return False


def test_workers_of_a_killed_program_end(tmp_path):
    """Busy ones, too, that would never look whether anybody wants their results."""
    script = tmp_path / "spawn.py"
    script.write_text(SPAWN)
    program = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    workers = [int(pid) for pid in program.stdout.readline().split()]
    assert len(workers) == 2
    program.kill()
    program.communicate()
    assert all(map(ended, workers))


def test_runs_of_a_program_get_the_same_memory_again():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.stderr.strip() == "not kept":
        pytest.skip("there is no glibc")
    # Not 24 times; a few, since one may begin before the memory of the last is free.
    assert int(done.stdout) < 8 * 16384, done.stderr


@pytest.mark.parametrize("package", ["jax_plugins", "libtpu"])
def test_nothing_changes_where_there_are_accelerators(package, monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", package.__eq__)
    assert not keep_freed_memory()


def test_compiled_programs_are_found_by_the_next_process(tmp_path):
    cache, unused = tmp_path / "cache", tmp_path / "unused"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    for name in (
        "JAX_COMPILATION_CACHE_DIR",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS",
    ):
        environment.pop(name, None)

    def compile_in(directory: Path, **extra: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", COMPILE, str(directory)],
            env={**environment, **extra},
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout == "7.0\n"
        return {p.name for p in cache.iterdir() if p.name.endswith("-cache")}

    programs = compile_in(cache)
    assert programs
    # The variable takes precedence; the same program is not stored a second time.
    assert compile_in(unused, JAX_COMPILATION_CACHE_DIR=str(cache)) == programs
    assert not unused.exists()
