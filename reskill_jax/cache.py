"""What is made once per machine and kept between runs: built houses, warm starts."""

import dataclasses
import hashlib
import os
from pathlib import Path


def cache_directory() -> Path:
    """Return the directory, $RESKILL_CACHE or ~/.cache/reskill_jax."""
    default = Path.home() / ".cache" / "reskill_jax"
    return Path(os.environ.get("RESKILL_CACHE", default))


def houses(preset: str, *, workers: int, **changes: int) -> Path:
    """Return a folder of built ALFWorld houses, building them if there is none.

    Args:
        preset: size, a key of `alfworld_houses.PRESETS`.
        workers: processes that build.
        changes: fields of the preset's recipe: train, valid_seen, valid_unseen, seed.
    """
    # The extra `alfworld` is needed only where houses are.
    from reskill_jax.environments import alfworld_games  # noqa: PLC0415

    recipe = dataclasses.replace(alfworld_games.PRESETS[preset], **changes)
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    root = cache_directory() / "alfworld_games" / digest
    alfworld_games.generate(root, recipe, workers=workers)
    return root
