"""Starts the retriever of a run: `serve` as a child that ends with its parent."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


class RetrieverError(RuntimeError):
    """The retriever of the run has not started."""


@contextlib.contextmanager
def running(
    retriever: str, passages: str, encoder: str = "", *, latency_s: float = 0.0
) -> Iterator[str]:
    """Serve passages while the context lasts; yields the address.

    The server listens on a Unix socket in a private directory. What it says goes to
    our standard error. It ends with this process, also by SIGKILL.

    Args:
        retriever: bm25 or dense.
        passages: file of passages, or sample.
        encoder: directory of the model for dense; empty: that of the package.
        latency_s: seconds that every answer waits, to measure who asks.

    Raises:
        RetrieverError: it did not start; it has said why.
    """
    with tempfile.TemporaryDirectory(prefix="reskill-") as directory:
        command = [
            sys.executable,
            "-c",
            f"import sys; sys.path[:] = {sys.path!r}; "
            "from reskill_jax.environments.search.serve import main; main()",
            f"--retriever={retriever}",
            f"--passages={passages}",
            f"--encoder={encoder}",
            f"--latency_s={latency_s}",
            f"--socket={Path(directory, 'socket')}",
            "--with_parent",
        ]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for us, and we end it
        ) as process:
            try:
                assert process.stdout is not None
                ready = process.stdout.readline()  # once it listens, or has ended
                if not ready:
                    raise RetrieverError(
                        f"retriever={retriever!r} did not start, status "
                        f"{process.wait()}: see above for why"
                    )
                yield json.loads(ready)["url"]
            finally:
                process.terminate()
