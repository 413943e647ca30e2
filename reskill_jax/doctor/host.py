"""Looks at the host: packages, drivers, places on disks."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
from packaging.requirements import Requirement

from reskill_jax import distributed
from reskill_jax.build_strategy import settle_trial
from reskill_jax.doctor.checks import Finding, Session, ok, part, several, slow, wrong
from reskill_jax.policy.decoder import abstract_params
from reskill_jax.report.best import chosen_metric
from reskill_jax.storage import cache_directory, write_text
from reskill_jax.validate import validate

_SHOWN = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
# The oldest driver for the libraries of a major version of CUDA (NVIDIA's release
# notes), and the plugin that brings them.
_DRIVERS = {"jax-cuda12-plugin": 525, "jax-cuda13-plugin": 580}
_QUERY = "name,driver_version,memory.total,memory.used"
_IN_USE = 0.05  # of a card's memory, by others
_GIB = 2**30


def versions(session: Session) -> Finding:
    """Compare what is installed with what this package asks for."""
    del session
    found = {name: importlib.metadata.version(name) for name in _SHOWN}
    text = f"Python {platform.python_version()}, " + ", ".join(
        f"{name} {version}" for name, version in found.items()
    )
    problems = [*_unmet("reskill_jax")]
    for name in ("jaxlib", *_plugins()):
        version = importlib.metadata.version(name)
        if version != found["jax"]:
            problems.append(f"{name} {version} beside jax {found['jax']}")
    if problems:
        return wrong(
            "; ".join(problems),
            "install this package with its extras again, into an environment of its "
            "own: pip install '.[cuda]' or '.[tpu]'",
        )
    return ok(text)


def _unmet(package: str) -> Iterator[str]:
    """Yield which requirements are not met, those of extras not included."""
    for line in importlib.metadata.requires(package) or ():
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{requirement.name} is not installed"
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            yield f"{requirement.name} {version}, which must be {requirement.specifier}"


def _plugins() -> list[str]:
    names = {d.metadata["Name"] for d in importlib.metadata.distributions()}
    return [name for name in _DRIVERS if name in names]


def drivers(session: Session) -> Finding:
    """Ask the driver for GPUs, and whether JAX can use them."""
    del session
    command = shutil.which("nvidia-smi")
    if command is None and (not (plugins := _plugins()) or _wants_cpu()):
        return ok("no NVIDIA driver, and no use of one")
    if command is None:
        return wrong(
            f"{plugins[0]} is installed, but there is no nvidia-smi",
            "install NVIDIA's driver (in a container: start it with --gpus=all), or "
            "set JAX_PLATFORMS=cpu",
        )
    asked = [command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    answer = subprocess.run(
        asked, capture_output=True, text=True, timeout=30, check=False
    )
    cards = [line.split(", ") for line in answer.stdout.splitlines() if line.strip()]
    if answer.returncode or not cards:
        return wrong(
            f"nvidia-smi finds no GPU: {(answer.stderr or answer.stdout).strip()}",
            "load the driver's module, or give the container the GPUs (--gpus=all)",
        )
    return _judge_cards(cards)


def memory_in_use() -> int | None:
    """Return the bytes of all GPUs that are in use, by whomever; None if not known."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    asked = [command, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    answer = subprocess.run(
        asked, capture_output=True, text=True, timeout=30, check=False
    )
    figures = answer.stdout.split()
    if answer.returncode or not all(figure.isdigit() for figure in figures):
        return None
    return sum(map(int, figures)) * 2**20


def _wants_cpu() -> bool:
    return os.environ.get("JAX_PLATFORMS") == "cpu"


def _judge_cards(cards: list[list[str]]) -> Finding:
    """Compare what the driver tells (`_QUERY`) with JAX's plugin."""
    plugins = _plugins()
    text = f"{len(cards)} x {cards[0][0]}, driver {cards[0][1]}"
    if _wants_cpu():
        return slow(f"{text}, not used", "unset JAX_PLATFORMS, which is cpu")
    if not plugins:
        return wrong(f"{text}, but JAX has no plugin for them", "pip install '.[cuda]'")
    if int(cards[0][1].partition(".")[0]) < (least := _DRIVERS[plugins[-1]]):
        return wrong(
            f"{text}, too old for {plugins[-1]}",
            f"install a driver of {least} or later, or a jax[cuda12] that fits yours",
        )
    if used := [card for card in cards if _busy(card[2], card[3])]:
        return slow(
            f"{text}; {len(used)} of them hold memory of other processes",
            "end those (nvidia-smi lists them), or choose GPUs: CUDA_VISIBLE_DEVICES",
        )
    return ok(text)


def _busy(total: str, taken: str) -> bool:
    """Tell whether a card is in use; some cards do not say how much memory is."""
    figures = total.strip(), taken.strip()
    if not all(figure.isdigit() for figure in figures):
        return False
    return int(figures[1]) > _IN_USE * int(figures[0])


def configuration(session: Session) -> Finding:
    """Check the configuration as a run's start does."""
    config = session.config
    validate(config)
    session.workdir.check(settle_trial(config).to_dict())
    model = config.policy.path or config.warm_start.recipe
    return ok(f"{config.env.name}, {config.strategy.name}, {model}")


def workdir(session: Session) -> Finding:
    """Write in the workdir as a run does: a lock, and a file that is replaced.

    What was not there before is removed again.
    """
    root = session.workdir.root
    leads = not several() or distributed.is_leader()
    made = [path for path in (root, *root.parents) if not path.exists()]
    trial = root / f".doctor-{uuid.uuid4().hex[:8]}"
    held = not (root / "lock").exists()
    try:
        if leads:
            with session.workdir.lock():
                write_text(trial, "old")
                write_text(trial, "new")
                if trial.read_text() != "new":
                    return wrong(
                        f"{root}: a file that was replaced reads as before",
                        "choose another --workdir: this file system renames late",
                    )
                if not _locks(root / "lock"):
                    return wrong(
                        f"{root}: locks do not hold",
                        "choose another --workdir, or mount it with locks (NFS: "
                        "without nolock): two runs would write it at once",
                    )
        return _seen_by_all(root)
    finally:
        if leads and root.is_dir():
            trial.unlink(missing_ok=True)
            if held:
                (root / "lock").unlink(missing_ok=True)
            for path in made:
                if path.is_dir() and not any(path.iterdir()):
                    path.rmdir()


def _locks(path: Path) -> bool:
    """Tell whether a second opening of a locked file is kept out."""
    import fcntl  # noqa: PLC0415

    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _seen_by_all(root: Path) -> Finding:
    """Let every process read what the leader writes."""
    text = f"{root}: writable, replaces files whole, locks"
    if not several():
        return ok(text)
    name = distributed.broadcast(f".doctor-{uuid.uuid4().hex[:8]}")
    distributed.on_leader(lambda: (root / name).write_text(name) and None)
    seen = distributed.gather((root / name).exists())
    distributed.on_leader(lambda: (root / name).unlink(missing_ok=True))
    if blind := [i for i, found in enumerate(seen) if not found]:
        return wrong(
            f"{root}: processes {blind} do not see what process 0 writes",
            "choose a --workdir on a file system that all hosts share",
        )
    return ok(f"{text}; shared by {distributed.count()} processes")


def space(session: Session) -> Finding:
    """Compare what is free with what checkpoints and weights will take."""
    config = session.config
    size = _bytes(part(session.state))
    root = session.workdir.root.absolute()
    free = _free(root)
    kept = session.workdir.checkpoints
    there = len([*kept.iterdir()]) if kept.is_dir() else 0
    best = chosen_metric(config.checkpoint.best, config.eval.splits)
    keep = config.checkpoint.keep + bool(best)
    needed = size * max(keep + 1 - there, 1)
    text = f"{_gib(free)} free for checkpoints of {_gib(size)}"
    if free < needed:
        return wrong(
            f"{text}, {keep} kept and one in the making",
            "free some space, choose another --workdir, or lower "
            "config.checkpoint.keep",
        )
    if config.engine.name == "vllm" and config.engine.vllm.transfer == "files":
        shared = Path(config.engine.vllm.weights_dir)
        # All of them, in the type that they compute in, also where adapters learn.
        shapes = abstract_params(part(session.policy).config)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
        weights = count * jnp.dtype(config.policy.dtype).itemsize
        free = _free(shared)
        text += f"; {_gib(free)} in {shared} for weights of {_gib(weights)}"
        if free < 2 * weights:
            return wrong(
                f"{text}, the old and the new",
                "make room there (a container: --shm-size), or choose another "
                "config.engine.vllm.weights_dir",
            )
    places = {"RESKILL_CACHE": cache_directory()}
    if cache := jax.config.values["jax_compilation_cache_dir"]:
        places["JAX_COMPILATION_CACHE_DIR"] = Path(cache)
    for variable, path in places.items():
        if not _writable(path):
            return slow(
                f"{text}; {path} cannot be written, so that every start makes anew "
                "what it could have kept there",
                f"point {variable} to a directory of yours",
            )
    return ok(text)


def _free(path: Path) -> int:
    """Return the free bytes where a directory is, or will be made."""
    return shutil.disk_usage(_existing(path.absolute())).free


def _writable(path: Path) -> bool:
    return os.access(_existing(path), os.W_OK | os.X_OK)


def _existing(path: Path) -> Path:
    """Return the path, or the nearest directory above it that is there."""
    return next(place for place in (path, *path.parents) if place.exists())


def _bytes(tree: object) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _gib(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB / 10 else f"{size / 2**20:.1f} MiB"
