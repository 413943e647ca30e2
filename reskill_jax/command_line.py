"""Starts programs and reads their flags: what is wrong with them is said in a line.

The libraries behind the flags end a program with a traceback where a flag names a key
or a variant that does not exist.
"""

import difflib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict
from ml_collections.config_flags import config_flags

from reskill_jax import terminal

_CONFIG = "config"
_HELP = ("help", "h", "?", "helpshort")


def start(program: Callable[[], None]) -> None:
    """Run a program whose command line has flags only.

    Ctrl-C, and output that nobody reads any more, end it without a traceback.

    Args:
        program: what it does, once its flags are read.
    """

    def main(argv: Sequence[str]) -> None:
        terminal.guard()
        if problem := unexpected(argv):
            raise app.UsageError(problem)
        try:
            program()
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(128 + signal.SIGINT)
        except BrokenPipeError:
            discard_output()

    app.run(main, flags_parser=parse_flags)


def unexpected(argv: Sequence[str]) -> str:
    """Name what is left of a command line beside its flags; empty if nothing is."""
    if not argv[1:]:
        return ""
    return f"unexpected arguments {[*argv[1:]]}: flags begin with --"


def discard_output() -> None:
    """Write to nowhere from now on: whoever reads the output has read enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse all flags; end the program with a line where that is not possible.

    Args:
        argv: the program, then its flags.

    Returns:
        What is left of `argv`.
    """
    given = given_flags(argv)
    if given.keys() & set(_HELP):
        _help()
    path = given.get(_CONFIG, "")
    file = Path(path.partition(":")[0])
    if _CONFIG in given and not file.is_file():
        terminal.fail(f"--config={path!r}: there is no file {str(file)!r}")
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        terminal.fail(_config_error(error, path) or _key_error(given, path) or error)
    except SystemExit as end:  # other words for help
        sys.exit(0 if any(name.startswith("help") for name in given) else end.code)


def given_flags(argv: Sequence[str]) -> dict[str, str]:
    """Return the flags of a command line as they stand there, the last of each name.

    A flag without ``=`` has the next word as its value.
    """
    following = [*argv[1:], ""]
    found = {}
    for word, after in zip(argv, following, strict=True):
        if word == "--":
            break
        if word.startswith("-"):  # --a=b or --a b
            name, equals, value = word.lstrip("-").partition("=")
            found[name] = value if equals else after
    return found


def _help() -> None:
    print((sys.modules["__main__"].__doc__ or "").strip())
    print(flags.FLAGS.main_module_help())
    sys.exit(0)


def _config_error(error: BaseException, path: str) -> str:
    """Say what a configuration file has raised; empty if it was not the file."""
    cause: BaseException | None = error
    file = path.partition(":")[0]
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__)
        places = [frame for frame in frames if _same(frame.filename, file)]
        if places:
            # Its own refusals are in words for users; of a bug the place tells more.
            if isinstance(cause, ValueError):
                return str(cause)
            name = type(cause).__name__
            return f"{file}, line {places[-1].lineno}: {name}: {cause}"
        cause = cause.__cause__ or cause.__context__
    return ""


def _same(name: str, path: str) -> bool:
    return bool(path) and Path(name).absolute() == Path(path).absolute()


def _key_error(given: Mapping[str, str], path: str) -> str:
    """Say which flag names a key that the configuration lacks; empty if none does."""
    if not path:
        return ""
    config = config_flags.ConfigFileFlagParser(_CONFIG).parse(path)
    for name in given:
        section, _, key = name.removeprefix("no").partition(".")
        if section != _CONFIG or not key:
            continue
        place, at = config, _CONFIG
        for part in key.split("."):
            if not isinstance(place, ConfigDict):
                return f"--{name}: {at} is a value and has no keys: set it itself"
            if part not in place:
                close = difflib.get_close_matches(part, list(place), 1, 0.5)
                likely = f"did you mean {at}.{close[0]}? " if close else ""
                return (
                    f"--{name}: there is no such key: {likely}"
                    f"{at} has {', '.join(sorted(place))}"
                )
            place, at = place[part], f"{at}.{part}"
    return ""
