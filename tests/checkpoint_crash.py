"""Runs `Checkpointer` in child processes and kills them at random moments.

    python checkpoint_crash.py DIRECTORY KILLS

Imports once and forks, before JAX has started any thread, so that a life is short. The
last line of the output is a JSON object; the exit status is 1 where a child found a
state that is broken or older than what its predecessor had been told is written.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jax.numpy as jnp

from reskill_jax.checkpoint import Checkpointer


def live(directory: Path, acknowledged: Path, saves: int) -> None:
    """Resume, check what was restored, then save until killed; a byte for each save."""
    checkpointer = Checkpointer(directory / "checkpoints", keep=2)
    restored = checkpointer.restore({"x": jnp.zeros(300_000, jnp.int32)})
    step = 0
    promised = int(acknowledged.read_text()) if acknowledged.exists() else 0
    if restored is not None:
        step = restored.step
        assert (restored.arrays["x"] == step).all(), step
        assert restored.host == {"step": step, "history": list(range(step))}
    assert step >= promised, (step, promised)
    while True:
        step += 1
        host = {"step": step, "history": list(range(step))}
        checkpointer.save(step, {"x": jnp.full(300_000, step, jnp.int32)}, host)
        os.write(saves, b".")  # the write goes on in the background
        if step % 3 == 0:
            checkpointer.wait()
            partial = acknowledged.with_suffix(".new")
            partial.write_text(str(step))
            partial.replace(acknowledged)


def main() -> None:
    directory, kills = Path(sys.argv[1]), int(sys.argv[2])
    acknowledged = directory / "acknowledged"
    moments = random.Random(0)
    in_write = 0
    for _ in range(kills):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                live(directory, acknowledged, writing)
            finally:
                sys.stderr.flush()
                os._exit(1)  # only an error gets here
        os.close(writing)
        for _ in range(moments.randint(2, 5)):
            os.read(reading, 1)
        time.sleep(moments.uniform(0.0, 0.1))
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit("a child ended by itself")
        in_write += any((directory / "checkpoints").glob("*-tmp*"))
    report = {
        "kills": kills,
        "killed_in_a_write": in_write,
        "last_step": int(acknowledged.read_text()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
