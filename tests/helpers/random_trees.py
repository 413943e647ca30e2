"""Random trees of tokens in depth-first order, and who comes before whom in them."""

import numpy as np


def plant(depths):
    """Make a tree: token i is at depth `depths[i]` or less, below the one before it.

    Returns:
        The path from a root to each token, itself included; `visible_end`, int32 [T].
    """
    paths: list[list[int]] = []
    stack: list[int] = []
    for token, depth in enumerate(depths):
        stack = [*stack[:depth], token]
        paths.append(list(stack))
    last = {j: i for i, path in enumerate(paths) for j in path}
    visible_end = np.array([last[j] + 1 for j in range(len(paths))], np.int32)
    return paths, visible_end


def random_until(rng, rows, length, padding=0):
    """Rows of several trees with branches, the last slots padding: int32 [B, T]."""
    visible_end = np.zeros((rows, length), np.int32)
    for row in visible_end:
        # Mostly one below the other, as in texts; at times up, to another branch.
        depths = np.where(
            rng.random(length - padding) < 0.8,
            length,
            rng.integers(0, 5, length - padding),
        )
        row[: length - padding] = plant(depths)[1]
    return visible_end
