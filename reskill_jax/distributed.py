"""The processes of a run: each drives its own devices, one of them decides and writes.

Every process runs the same program. Programs on the mesh are entered by all of them;
what is not computed there is either the same everywhere, because it follows from the
seed, or it is shared by the two functions below, which are no-ops in a single process.
All processes must call them in the same order.

    distributed.initialize()                     # before anything else touches jax
    episodes = distributed.gather(mine)          # everybody's, by process
    plan = distributed.broadcast(plan)           # the leader's
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils

T = TypeVar("T")


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
) -> None:
    """Join the other processes; to be called before jax is used for anything.

    Without arguments jax asks the cluster: Cloud TPU, GKE and Kubernetes, SLURM,
    Open MPI.

    Args:
        coordinator: address of process 0, ``host:port``.
        processes: how many there are.
        process: the number of this one.

    Raises:
        ValueError: some arguments are missing, or there is no cluster to ask.
    """
    given = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(f"{', '.join(missing)} missing: give all three, or none")
    try:
        jax.distributed.initialize(coordinator, processes, process)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"cannot join the other processes: {error}. Where jax knows no cluster, "
            "give --coordinator=HOST:PORT --processes=N --process=I to each of them"
        ) from error


def is_leader() -> bool:
    """Tell whether this process decides and writes; a single one does."""
    return jax.process_index() == 0


def count() -> int:
    """Return how many processes there are."""
    return jax.process_count()


def is_alone() -> bool:
    """Tell whether there is one process only."""
    return count() == 1


def share(items: int) -> range:
    """Return which of so many items are this process's."""
    return range(jax.process_index(), items, count())


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, by process.

    Args:
        value: a JSON document; documents may differ in size.
    """
    if is_alone():
        return [value]
    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [
        json.loads(row[:size].tobytes())
        for row, size in zip(rows, sizes.tolist(), strict=True)
    ]


def broadcast(value: Any) -> Any:
    """Return the leader's value, a JSON document; that of the others is ignored."""
    if is_alone():
        return value
    # Gathered, since all others contribute next to nothing.
    return gather(value if is_leader() else None)[0]


def on_leader(action: Callable[[], T]) -> T:
    """Do something in the leader alone and return there what it returns.

    Returns:
        A JSON document, in all processes.

    Raises:
        Exception: what the leader's action raised; in the others, RuntimeError with its
            message, so that nobody waits for a process that has gone.
    """
    if is_alone():
        return action()
    result, failure = None, None
    if is_leader():
        try:
            result = action()
        except Exception as error:
            failure = error
    told = broadcast([result, failure and f"{type(failure).__name__}: {failure}"])
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise RuntimeError(f"process 0 failed: {told[1]}")
    return cast(T, told[0])


def agree(what: str, value: Any) -> None:
    """Check that all processes have the same JSON document.

    Raises:
        ValueError: they differ; the message tells which processes do.
    """
    values = gather(value)
    differing = [i for i, other in enumerate(values) if other != values[0]]
    if differing:
        raise ValueError(
            f"{what} of process {differing} is not that of process 0: start all "
            "processes with the same command, code and files"
        )
