"""Builds ALFWorld games where the download is missing; each is checked by playing it.

    python -m reskill_jax.environments.alfworld.games --root=games --preset=small

writes ``games/json_2.1.1/{train,valid_seen,valid_unseen}/<task>/<trial>/game.tw-pddl``
in the published layout, so that ``ALFWORLD_DATA=games`` works wherever the download
does. valid_seen has other games in train's floor plans; valid_unseen has floor plans
and (object, receptacle) goals that are not in train. The files are a function of the
settings, byte by byte.
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

from reskill_jax.environments.alfworld.environment import SPLITS
from reskill_jax.environments.alfworld.house_settings import PRESETS, HouseSettings
from reskill_jax.process import end_with_parent
from reskill_jax.storage import cache_directory
from reskill_jax.terminal import activity

MANIFEST = "manifest.json"
_FORMAT = 1  # to be raised when the same settings give other games


def cached_houses(
    preset: str,
    *,
    train: int,
    held_out: int,
    seed: int,
    workers: int,
) -> pathlib.Path:
    """Return a cached folder of built games, building it first if it is missing.

    Args:
        preset: size, a key of `house_settings.PRESETS`.
        train: number of games of the train split.
        held_out: number of games of each of valid_seen and valid_unseen.
        seed: of all random choices.
        workers: processes that build.
    """
    settings = dataclasses.replace(
        PRESETS[preset],
        train=train,
        valid_seen=held_out,
        valid_unseen=held_out,
        seed=seed,
    )
    digest = hashlib.sha256(repr(settings).encode()).hexdigest()[:12]
    root = cache_directory() / "alfworld_games" / digest
    generate(root, settings, workers=workers)
    return root


def generate(root: pathlib.Path, settings: HouseSettings, *, workers: int = 1) -> None:
    """Build games below `root`, or return at once if they are there.

    Everything is written beside `root` and renamed at the end, so that `root` never
    holds a part of the games.

    Args:
        root: folder to make; it may exist if it is empty or holds the same games.
        settings: what to build.
        workers: processes; above 1 they are spawned, so that the caller's main module
            must be importable. The games do not depend on it.

    Raises:
        ValueError: `root` holds games of other settings, or anything else.
        RuntimeError: a game could not be drawn; the message names it.
    """
    root = pathlib.Path(root).absolute()
    if _has_games(root, settings):
        return
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as part:
        partial = pathlib.Path(part, "games")
        _write_games(partial, settings, workers)
        try:
            partial.rename(root)
        except OSError:
            if not _has_games(root, settings):  # another process may have been faster
                raise


def _write_games(root: pathlib.Path, settings: HouseSettings, workers: int) -> None:
    # Importing the engine takes a second, and is not needed where games exist already.
    from reskill_jax.environments.alfworld.houses import make_game  # noqa: PLC0415

    jobs = [(split, i) for split in SPLITS for i in range(getattr(settings, split))]
    splits, indices = zip(*jobs, strict=True) if jobs else ((), ())
    make = functools.partial(make_game, settings)
    digest = hashlib.sha256()
    redrawn = 0
    with concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=end_with_parent,
    ) as pool:
        games = (pool.map if workers > 1 else map)(make, splits, indices)
        written = 0
        with activity("building games", lambda: f"{written} of {len(jobs)}"):
            for split, game in zip(splits, games, strict=True):
                folder = root / "json_2.1.1" / split / game.path
                folder.mkdir(parents=True)
                for name, text in game.files.items():
                    (folder / name).write_text(text, encoding="utf-8")
                    digest.update(f"{split}/{game.path}/{name}\n{text}\n".encode())
                redrawn += game.redrawn
                written += 1
    manifest = _identity(settings) | {"redrawn": redrawn, "sha256": digest.hexdigest()}
    root.mkdir(exist_ok=True)
    text = json.dumps(manifest, indent=2) + "\n"
    (root / MANIFEST).write_text(text, encoding="utf-8")


def _identity(settings: HouseSettings) -> dict[str, Any]:
    """Return what the games are a function of, as a JSON document."""
    identity = {
        "format": _FORMAT,
        **dataclasses.asdict(settings),
    }
    return json.loads(json.dumps(identity))


def _has_games(root: pathlib.Path, settings: HouseSettings) -> bool:
    """Tell whether `root` holds these games; raise if it holds anything else."""
    if not root.exists() or (root.is_dir() and not os.listdir(root)):
        return False
    if not (root / MANIFEST).is_file():
        raise ValueError(
            f"root={root} exists and has no {MANIFEST}, so it was not built here: "
            "name an empty or a new folder"
        )
    found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    asked = _identity(settings)
    differences = [
        f"{key}={found.get(key)!r}, not {value!r}"
        for key, value in asked.items()
        if found.get(key) != value
    ]
    if differences:
        raise ValueError(
            f"root={root} holds games of other settings ({'; '.join(differences)}): "
            "name another folder, remove this one, or use its settings"
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
    settings = dataclasses.replace(PRESETS[flags.preset], **changes)
    generate(flags.root, settings, workers=flags.workers)
    print((flags.root / MANIFEST).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
