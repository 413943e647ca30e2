"""Checks what rollouts need of the engine and of the trainer's processes."""

from collections.abc import Iterator


def problems(
    *, overlap: int, processes: int, top_p: float, engine: str
) -> Iterator[str]:
    """Yield what does not fit; each problem begins with the argument's name.

    Args:
        overlap: how many batches are collected ahead.
        processes: of the trainer.
        top_p: share of the probability that is drawn from.
        engine: jax or vllm.
    """
    if engine == "vllm" and top_p < 1:
        yield (
            f"top_p={top_p}: the log-probs of engine {engine!r} would be of the tokens "
            "that are kept, not of the vocabulary, so that ratios would not start at "
            "1; use 1.0, or the engine 'jax'"
        )
    if overlap and processes > 1:
        yield (
            f"overlap={overlap} works with one trainer process: in {processes}, two "
            "threads would enter collectives in different orders; use 0"
        )
