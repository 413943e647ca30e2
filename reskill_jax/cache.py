"""What is made once per machine and kept between runs: built houses, warm starts."""

import dataclasses
import hashlib
import os
from pathlib import Path

from reskill_jax.environments.alfworld_recipe import PRESETS


def cache_directory() -> Path:
    """Return the directory, $RESKILL_CACHE or ~/.cache/reskill_jax."""
    default = Path.home() / ".cache" / "reskill_jax"
    return Path(os.environ.get("RESKILL_CACHE", default))


def houses(
    preset: str,
    *,
    train: int,
    held_out: int,
    seed: int,
    workers: int,
) -> Path:
    """Return a folder of built ALFWorld houses, building them if there is none.

    Args:
        preset: size, a key of `alfworld_recipe.PRESETS`.
        train: number of games of the train split.
        held_out: number of games of each of valid_seen and valid_unseen.
        seed: everything drawn depends on it.
        workers: processes that build.
    """
    # The extra `alfworld` is needed only where houses are.
    from reskill_jax.environments import alfworld_games  # noqa: PLC0415

    recipe = dataclasses.replace(
        PRESETS[preset],
        train=train,
        valid_seen=held_out,
        valid_unseen=held_out,
        seed=seed,
    )
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    root = cache_directory() / "alfworld_games" / digest
    alfworld_games.generate(root, recipe, workers=workers)
    return root
