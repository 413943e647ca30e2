"""Makes ALFWorld games where there is no download: houses of our own, checked by play.

    python -m reskill_jax.environments.alfworld.games --root=games --preset=small

writes ``games/json_2.1.1/{train,valid_seen,valid_unseen}/<task>/<trial>/game.tw-pddl``
in the published layout, so that ``ALFWORLD_DATA=games`` works wherever the download
does. valid_seen are other games in train's floor plans; valid_unseen has floor plans
and (object, receptacle) goals that train never shows. Same recipe, same bytes.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import tempfile
from typing import Any

import tqdm

from reskill_jax.environments.alfworld.environment import SPLITS
from reskill_jax.environments.alfworld.house_settings import PRESETS, HouseSettings
from reskill_jax.storage import cache_directory

MANIFEST = "manifest.json"
_FORMAT = 1  # raise it when the same recipe would make other games


def cached_houses(
    preset: str,
    *,
    train: int,
    held_out: int,
    seed: int,
    workers: int,
) -> pathlib.Path:
    """Return a folder of built ALFWorld houses, building them if there is none.

    Args:
        preset: size, a key of `house_settings.PRESETS`.
        train: number of games of the train split.
        held_out: number of games of each of valid_seen and valid_unseen.
        seed: everything drawn depends on it.
        workers: processes that build.
    """
    # The extra `alfworld` is needed only where houses are.

    recipe = dataclasses.replace(
        PRESETS[preset],
        train=train,
        valid_seen=held_out,
        valid_unseen=held_out,
        seed=seed,
    )
    digest = hashlib.sha256(repr(recipe).encode()).hexdigest()[:12]
    root = cache_directory() / "alfworld_games" / digest
    generate(root, recipe, workers=workers)
    return root


def generate(root: pathlib.Path, recipe: HouseSettings, *, workers: int = 1) -> None:
    """Make a recipe's games below `root`, or return at once if they are there.

    Everything is written beside `root` and renamed at the end: there is never a `root`
    with a part of the games.

    Args:
        root: folder to make; it may exist if it is empty or holds this recipe's games.
        recipe: what to make.
        workers: processes; above 1 they are spawned, so that the caller's main module
            must be importable. The games do not depend on it.

    Raises:
        ValueError: `root` holds another recipe's games or anything else.
        RuntimeError: a game could not be drawn; the message names it.
    """
    root = pathlib.Path(root).absolute()
    if _has_games(root, recipe):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as part:
        partial = pathlib.Path(part, "games")
        _write_games(partial, recipe, workers)
        try:
            partial.rename(root)
        except OSError:
            if not _has_games(root, recipe):  # else another process was faster
                raise


def _write_games(root: pathlib.Path, recipe: HouseSettings, workers: int) -> None:
    # Importing the engine takes a second: not needed where the games are made already.
    from reskill_jax.environments.alfworld.houses import make_game  # noqa: PLC0415

    jobs = [(split, i) for split in SPLITS for i in range(getattr(recipe, split))]
    splits, indices = zip(*jobs, strict=True) if jobs else ((), ())
    make = functools.partial(make_game, recipe)
    digest = hashlib.sha256()
    redrawn = 0
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn")
    ) as pool:
        made = (pool.map if workers > 1 else map)(make, splits, indices)
        bar = tqdm.tqdm(made, "making games", total=len(jobs), disable=None)
        for split, one in zip(splits, bar, strict=True):
            folder = root / "json_2.1.1" / split / one.path
            folder.mkdir(parents=True)
            for name, text in one.files.items():
                (folder / name).write_text(text, encoding="utf-8")
                digest.update(f"{split}/{one.path}/{name}\n{text}\n".encode())
            redrawn += one.redrawn
    facts = _identity(recipe) | {"redrawn": redrawn, "sha256": digest.hexdigest()}
    root.mkdir(exist_ok=True)
    (root / MANIFEST).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def _identity(recipe: HouseSettings) -> dict[str, Any]:
    """Return all that the games are a function of, as JSON reads it back."""
    identity = {
        "format": _FORMAT,
        **dataclasses.asdict(recipe),
    }
    return json.loads(json.dumps(identity))


def _has_games(root: pathlib.Path, recipe: HouseSettings) -> bool:
    """Whether `root` holds this recipe's games; raises if it holds anything else."""
    if not root.exists() or (root.is_dir() and not os.listdir(root)):
        return False
    if not (root / MANIFEST).is_file():
        raise ValueError(
            f"root={root} exists and was not made here (no {MANIFEST} in it); "
            "name an empty or a new folder"
        )
    found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    asked = _identity(recipe)
    differences = [
        f"{key}={found.get(key)!r} there, {value!r} asked"
        for key, value in asked.items()
        if found.get(key) != value
    ]
    if differences:
        raise ValueError(
            f"root={root} holds games of another recipe ({'; '.join(differences)}); "
            "name another folder, remove this one, or ask for its recipe"
        )
    return True


def main() -> None:
    """Parse flags and generate."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--root", type=pathlib.Path, required=True)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="small")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    for name in (*SPLITS, "seed"):
        parser.add_argument(f"--{name}", type=int, help="default: the preset's")
    flags = parser.parse_args()
    named = {name: getattr(flags, name) for name in (*SPLITS, "seed")}
    changes = {name: value for name, value in named.items() if value is not None}
    recipe = dataclasses.replace(PRESETS[flags.preset], **changes)
    generate(flags.root, recipe, workers=flags.workers)
    print((flags.root / MANIFEST).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
