"""Modules by name: those of this package, and anybody's own."""

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

# The extra of this package that brings a module.
_EXTRAS = {
    "aiohttp": "search",
    "bm25s": "search",
    "Stemmer": "search",
    "httpx": "vllm",
    "pydantic": "llm",
    "tenacity": "llm",
    "openai": "llm",
    "anthropic": "llm",
    "boto3": "llm",
}


def missing(extra: str, *modules: str) -> str:
    """Say which modules are not installed, and what installs them.

    Args:
        extra: of this package, which brings them.
        modules: all that is needed.

    Returns:
        The end of a sentence; empty where all are here.
    """
    absent = [module for module in modules if find_spec(module) is None]
    return f"needs {', '.join(absent)}: pip install '.[{extra}]'" if absent else ""


class ModuleError(RuntimeError):
    """Code that is not of this package has failed, or answered what it must not."""


@contextmanager
def naming(what: str, *spared: type[Exception]) -> Iterator[None]:
    """Name code that is not of this package in whatever it raises.

    Args:
        what: was called, e.g. ``config.strategy.name='my_lab.recall': plan``.
        spared: errors that stay as they are.

    Raises:
        ModuleError: instead of any other exception.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (ModuleError, *spared)):
            raise
        raise ModuleError(f"{what} raised {type(error).__name__}: {error}") from error


def is_ours(value: object) -> bool:
    """Tell whether the class of an object is of this package."""
    return type(value).__module__.partition(".")[0] == __name__.partition(".")[0]


def find_module(
    name: str, listed: Mapping[str, str], *, kind: str, needs: tuple[str, ...]
) -> ModuleType:
    """Import what a configuration names.

    Args:
        name: one of `listed`, or the dotted name of a module.
        listed: dotted names of modules by short name.
        kind: what it is, for messages.
        needs: what the module must have.

    Raises:
        ValueError: there is no such module, it lacks something, or it needs packages
            of an extra that is not installed.
        ModuleError: it is somebody's own, and its import fails.
    """
    absent = (
        f"name={name!r}: choose one of {', '.join(listed)}, or give the dotted name of "
        f"a module with one more {kind}"
    )
    # Anything, from a file; a name that begins with a dot is relative to nothing.
    if not isinstance(name, str) or not name or name.startswith("."):
        raise ValueError(absent)
    path = listed.get(name, name)
    try:
        module = importlib.import_module(path)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError):
            lacks = error.name or path
            if f"{path}.".startswith(f"{lacks}."):
                raise ValueError(absent) from error
            # The module is there, and something that it needs is not.
            needed = lacks.partition(".")[0]
            extra = name if name in _EXTRAS.values() else _EXTRAS.get(needed, "")
            if extra and (lacking := missing(extra, needed)):
                raise ValueError(f"name={name!r} {lacking}") from error
        if name in listed:
            raise
        raise ModuleError(
            f"name={name!r}: the import of this {kind} raised "
            f"{type(error).__name__}: {error}"
        ) from error
    for part in needs:
        if not hasattr(module, part):
            raise ValueError(
                f"name={name!r}: the module {path} is no {kind}, it has no {part!r}"
            )
    return module
