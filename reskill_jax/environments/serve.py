"""Serves an environment to other trainers, by the protocol of OpenEnv.

    python -m reskill_jax.environments.serve --env=sql --splits=train,dev --workers=4
    python -m reskill_jax.environments.serve --config=configs/wands.py:smoke --port=8000

--config takes over what a run with that configuration plays: its environment with all
settings, its turn limit and its splits. --env.KEY=VALUE sets a key of the section `env`
of such a file. Tasks are those that runs play: each split is printed with the hash of
its panel. Episodes are played in worker processes, as in training.
"""

import argparse
import asyncio
import importlib.util
import json
import logging
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reskill_jax.environments.panels import check_disjoint
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.registry import SHARED_KEYS, environment_module
from reskill_jax.environments.remote import RemotePlayers
from reskill_jax.modules import missing
from reskill_jax.terminal import activity, fail

if TYPE_CHECKING:  # it needs an extra
    from reskill_jax.environments.openenv_session import Players, Served

_TURNS = 50  # where no configuration says


def environment_settings(
    module: Any, given: Mapping[str, Any], changes: Mapping[str, str]
) -> Any:
    """Make the settings of an environment.

    Args:
        module: of the environment.
        given: its own keys, of a configuration.
        changes: keys with values as a command line has them.

    Raises:
        ValueError: there is no such key, or the value does not fit.
    """
    values = asdict(module.Settings()) | dict(given)
    for key, text in changes.items():
        if key not in values:
            raise ValueError(f"env.{key}: there is no such key: {', '.join(values)}")
        values[key] = _parse(f"env.{key}", text, values[key])
    return module.Settings(**values)


def _parse(name: str, text: str, like: Any) -> Any:
    """Read a value of the type that the key has by default."""
    if isinstance(like, str):
        return text
    if isinstance(like, tuple):
        return tuple(filter(None, text.split(",")))
    try:
        value = json.loads(text.lower() if isinstance(like, bool) else text)
        same_kind = isinstance(like, bool) is isinstance(value, bool)
        if same_kind and type(like)(value) == value:  # an integer has no fraction
            return type(like)(value)
    except (ValueError, TypeError, OverflowError):
        pass
    raise ValueError(f"{name}={text!r}: needs a value of type {type(like).__name__}")


def read_configuration(path: str) -> dict[str, Any]:
    """Return what a configuration file gives, as plain values.

    Args:
        path: of the file; a variant follows after a colon.

    Raises:
        ValueError: there is no such file.
    """
    name, _, variant = path.partition(":")
    if not Path(name).is_file():
        raise ValueError(f"config={path!r}: there is no file {name!r}")
    spec = importlib.util.spec_from_file_location("served_configuration", name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant).to_dict()


def open_players(
    spec: EnvironmentSpec,
    resources: ExitStack,
    *,
    workers: int,
    timeout_s: float,
) -> "Players":
    """Start what plays: worker processes, or coroutines here; `resources` ends them."""
    resources.enter_context(spec.service())
    if spec.remote:
        return RemotePlayers(spec.make, timeout_s=timeout_s)
    pool = EnvironmentPool(spec.make, workers=workers, timeout_s=timeout_s)
    return resources.enter_context(pool)


def prepare(
    arguments: argparse.Namespace, changes: Mapping[str, str], resources: ExitStack
) -> "Served":
    """Load tasks and start players; `resources` ends what was started.

    Raises:
        ValueError: something was given that does not fit, or aiohttp is missing.
    """
    if needed := missing("openenv", "aiohttp"):
        raise ValueError(f"serving {needed}")
    from reskill_jax.environments.openenv_session import Served  # noqa: PLC0415

    config = read_configuration(arguments.config) if arguments.config else {}
    section = dict(config.get("env", {}))
    name = arguments.env or section.get("name")
    if not name:
        raise ValueError("env is empty: name an environment, or a file with --config")
    if section and name != section["name"]:
        raise ValueError(f"env={name!r}: --config is for {section['name']!r}")
    module = environment_module(name)
    own = {key: value for key, value in section.items() if key not in SHARED_KEYS}
    settings = environment_settings(module, own, changes)
    workers = arguments.workers or section.get("workers", 2)
    spec = module.load(settings, workers=workers)
    splits = arguments.splits.split(",") if arguments.splits else ["train"]
    if not arguments.splits and config:
        splits += config["eval"]["splits"]
    with activity("reading the tasks"):
        panels = {split: spec.panel(split, None) for split in splits}
    if not arguments.splits:  # as runs do with data that are not here
        panels = {split: panel for split, panel in panels.items() if panel.tasks}
    check_disjoint(panels)
    turns = config["rollout"]["max_turns"] if config else _TURNS
    with activity("starting environments"):
        players = open_players(
            spec,
            resources,
            workers=workers,
            timeout_s=section.get("timeout_s", 60.0),
        )
    return Served(
        name=name,
        version=version("reskill_jax"),
        panels=panels,
        players=players,
        action_format=spec.action_format,
        max_turns=arguments.max_turns or turns,
        max_sessions=arguments.max_sessions,
        idle_seconds=arguments.idle_seconds,
        episode_seconds=arguments.episode_seconds,
        seed=arguments.seed,
    )


async def _serve(served: "Served", host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM."""
    from aiohttp import web  # noqa: PLC0415

    from reskill_jax.environments.openenv_server import make_app  # noqa: PLC0415

    runner = web.AppRunner(make_app(served), access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        address, number = runner.addresses[0][:2]
        panels = {split: panel.label for split, panel in served.panels.items()}
        started = {"url": f"http://{address}:{number}", "panels": panels}
        print(json.dumps(started), flush=True)
        stop = asyncio.Event()
        for wanted in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(wanted, stop.set)
        await stop.wait()
    finally:
        await runner.cleanup()


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Read a command line; returns its flags, and the keys of the section `env`."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--env", default="", help="name, or dotted name of a module")
    parser.add_argument("--config", default="", help="file, with or without :variant")
    parser.add_argument("--splits", default="", help="of tasks, separated by commas")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: all networks")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--workers", type=int, default=0, help="processes")
    parser.add_argument("--max_turns", type=int, default=0, help="of an episode")
    parser.add_argument("--max_sessions", type=int, default=64, help="at once")
    parser.add_argument(
        "--idle_seconds", type=float, default=600.0, help="until a session is closed"
    )
    parser.add_argument(
        "--episode_seconds", type=float, default=3600.0, help="that one may take"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of the order of tasks nobody chooses"
    )
    arguments, rest = parser.parse_known_args(argv)
    changes = {}
    for word in rest:
        key, equals, value = word.partition("=")
        if not key.startswith("--env.") or not equals:
            parser.error(f"unknown argument {word!r}: --env.KEY=VALUE sets a key")
        changes[key.removeprefix("--env.")] = value
    return arguments, changes


def main() -> None:
    """Load tasks, start environments, serve."""
    arguments, changes = parse(sys.argv[1:])
    logging.basicConfig(format="environments: %(message)s")
    with ExitStack() as resources:
        try:
            served = prepare(arguments, changes, resources)
            asyncio.run(_serve(served, arguments.host, arguments.port))
        except (OSError, OverflowError, ValueError) as error:  # also of a port
            fail(error)


if __name__ == "__main__":
    main()
