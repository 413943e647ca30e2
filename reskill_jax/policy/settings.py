"""Checks where weights come from, and a mesh, before anything is loaded."""

from collections.abc import Iterator
from pathlib import Path

from reskill_jax.policy.random_policy import PREFIX, SHAPES


def path_problems(path: str) -> Iterator[str]:
    """Yield why there are no weights at `path`, if there are none.

    Args:
        path: a Hugging Face directory, or the name of a random policy.
    """
    if path.startswith(PREFIX):
        if path.removeprefix(PREFIX) not in SHAPES:
            known = ", ".join(repr(PREFIX + shape) for shape in SHAPES)
            yield f"path={path!r}: choose one of {known}, or name a directory"
    elif (Path(path) / "adapter_config.json").is_file():
        yield (
            f"path={path!r} holds adapters, not a whole model: export the run merged "
            "(--mode=export without --export_adapters) and name that directory"
        )
    elif not (Path(path) / "config.json").is_file():
        yield (
            f"path={path!r} holds no config.json: name the Hugging Face directory of "
            "a model, with its weights and tokenizer"
        )
    elif (Path(path) / "checkpoints").is_dir():
        yield (
            f"path={path!r} is the workdir of a run, which holds no model that can be "
            "read by itself: export it (--mode=export) and name that directory"
        )


def reference_problems(reference: str, lora_rank: int) -> Iterator[str]:
    """Yield why the weights of the KL term cannot be kept where they should be.

    Args:
        reference: device or host.
        lora_rank: of adapters, whose frozen weights are the reference; 0: none.
    """
    if lora_rank and reference == "host":
        yield (
            f"reference={reference!r} has no meaning with lora.rank={lora_rank}: the "
            "frozen weights are the reference, and stay on the devices: set 'device'"
        )


def mesh_problems(**sizes: int) -> Iterator[str]:
    """Yield why the axes' sizes cannot make a mesh, whatever the devices.

    Args:
        **sizes: by axis; 1 or more, or -1 for all devices that are left.
    """
    free = [f"{axis}=-1" for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        yield f"{', '.join(free)}: only one axis can take the devices that are left"
