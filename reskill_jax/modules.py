"""Modules by name: those of this package, and anybody's own."""

import importlib
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType

# The extra of this package that brings a module; tenacity also comes with `search`.
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
    except ModuleNotFoundError as error:
        if error.name and not f"{path}.".startswith(f"{error.name}."):
            # The module is there, and something that it needs is not.
            needed = error.name.partition(".")[0]
            extra = name if name in _EXTRAS.values() else _EXTRAS.get(needed, "")
            if not extra or not (lacking := missing(extra, needed)):
                raise
            raise ValueError(f"name={name!r} {lacking}") from error
        raise ValueError(absent) from error
    for part in needs:
        if not hasattr(module, part):
            raise ValueError(
                f"name={name!r}: the module {path} is no {kind}, it has no {part!r}"
            )
    return module
