"""Errors of the parts of a run, under the keys of its configuration."""

from collections.abc import Iterator
from contextlib import contextmanager

from ml_collections import ConfigDict


@contextmanager
def section(config: ConfigDict, name: str) -> Iterator[None]:
    """Put the section before errors of lower modules that begin with one of its keys.

    Raises:
        ValueError: the same one, which names the whole key.
    """
    try:
        yield
    except ValueError as error:
        if str(error).partition("=")[0] not in config[name]:
            raise
        raise ValueError(f"config.{name}.{error}") from error
