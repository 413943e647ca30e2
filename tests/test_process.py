"""Memory of temporary arrays stays with the process where it computes on CPUs."""

import importlib.util
import os
import subprocess
import sys
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
