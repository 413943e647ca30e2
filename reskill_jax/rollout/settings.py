"""Checks what rollouts need of the trainer's processes."""

from collections.abc import Iterator


def problems(*, overlap: int, processes: int) -> Iterator[str]:
    """Yield what does not fit; each problem begins with the argument's name.

    Args:
        overlap: how many batches are collected ahead.
        processes: of the trainer.
    """
    if overlap and processes > 1:
        yield (
            f"overlap={overlap} works with one trainer process: in {processes}, two "
            "threads would enter collectives in different orders; use 0"
        )
