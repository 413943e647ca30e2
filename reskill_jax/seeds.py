"""Independent seeds for the uses of one run."""

import numpy as np


def derive_seed(seed: int, *path: int | str) -> int:
    """Derive an independent seed, 31 bits, for one use at one place of a run."""
    words = [seed, *(_number(part) for part in path)]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def _number(part: int | str) -> int:
    return part if isinstance(part, int) else int.from_bytes(part.encode(), "little")
