"""The tasks of a run: environment, task panels, what contexts need."""

import pickle
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from ml_collections import ConfigDict

from reskill_jax.build.sections import section
from reskill_jax.environments.panels import (
    Panels,
    TaskPanel,
    check_disjoint,
    check_pins,
)
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.environments.registry import (
    ENVIRONMENTS,
    SHARED_KEYS,
    environment_module,
)
from reskill_jax.llm.embedders import Compute, Embedder, Lexical, Threaded
from reskill_jax.llm.embedding_service import EmbeddingService, Service
from reskill_jax.modules import naming
from reskill_jax.strategies.settings import own_splits
from reskill_jax.terminal import activity


def context_resources(config: ConfigDict) -> dict[str, Any]:
    """Return what contexts need and JSON cannot hold, by name.

    ``embedder`` is an `llm.embedders.Embedder`; its model is loaded when used.
    """
    return {"embedder": make_embedder(config)}


def make_embedder(config: ConfigDict) -> Embedder:
    """Make the embedder that the configuration names."""
    embedder = config.embedder
    if embedder.name == "lexical":
        return Lexical()
    if embedder.name == "openai":
        keys = [field.name for field in fields(Service)]
        service = Service(**{key: embedder[key] for key in keys})
        return Threaded(f"openai {service.model}", lambda: EmbeddingService(service))
    directory = embedder.encoder
    return Threaded(f"encoder {Path(directory).name}", partial(_encoder, directory))


def _encoder(directory: str) -> Compute:
    """Load a local encoder; it computes text by text, so that batches do not matter."""
    # Only here: no other part of a run needs it.
    from reskill_jax.environments.search.encoder import (  # noqa: PLC0415
        Encoder,
        package_directory,
    )

    encoder = Encoder(Path(directory) if directory else package_directory())
    return lambda texts: np.concatenate([encoder([text], rows=1) for text in texts])


def load_environment(config: ConfigDict) -> EnvironmentSpec:
    """Find the environment and give it its own keys of the section `env`.

    Raises:
        ValueError: there is no such environment, or it refuses a key.
        ModuleError: it is somebody's own, and fails otherwise or returns what it must
            not.
    """
    module = environment_module(config.env.name)
    reserved = {field.name for field in fields(module.Settings)} & {*SHARED_KEYS}
    if reserved:
        raise ValueError(
            f"config.env.name={config.env.name!r}: its Settings have {sorted(reserved)}"
            ", which all environments share and no environment gets: rename them"
        )
    own = {k: v for k, v in config.env.items() if k not in SHARED_KEYS}
    with _naming_environment(config, "load"):
        settings = module.Settings(**own)
        spec = module.load(settings, workers=config.env.workers)
        if not isinstance(spec, EnvironmentSpec):
            raise TypeError(f"it returned {spec!r:.80}: needs an EnvironmentSpec")
        if not spec.remote:
            _check_picklable(spec.make)
    return spec


def _naming_environment(
    config: ConfigDict, method: str
) -> AbstractContextManager[None]:
    """Name an environment of somebody's own in what it raises by mistake."""
    if config.env.name in ENVIRONMENTS:
        return nullcontext()
    what = f"config.env.name={config.env.name!r}: {method}"
    return naming(what, ValueError, OSError, ImportError)


def _check_picklable(make: Any) -> None:
    try:
        pickle.dumps(make)
    except Exception as error:
        raise TypeError(
            f"make={make!r} cannot be sent to worker processes ({error}): needs a "
            "class or function at the top of a module, or functools.partial of one"
        ) from error


def load_panels(config: ConfigDict, environment: EnvironmentSpec) -> Panels:
    """Load the tasks of the run.

    A held-out split whose data are not here has no tasks; it is left out, with a word.

    Raises:
        ValueError: there are no tasks to train on, a split cannot be evaluated on, a
            held-out panel is not the pinned one, or splits share a task.
        ModuleError: see `load_environment`.
    """

    def load_held_out(split: str) -> TaskPanel:
        try:
            return _load_panel(config, environment, split, config.eval.max_tasks)
        except ValueError as error:
            name = str(error).partition("=")[0]
            if name in config.env:
                raise
            key = "max_tasks" if name == "limit" else "splits"
            raise ValueError(f"config.eval.{key}: {error}") from error

    split = config.adapt.split
    with activity("reading the tasks"), section(config, "env"):
        train = _load_panel(config, environment, split, None)
        held_out = {split: load_held_out(split) for split in config.eval.splits}
    if not train.tasks:
        raise ValueError(
            f"config.env.name={config.env.name!r}: its {split} has no tasks"
        )
    for split in [split for split, panel in held_out.items() if not panel.tasks]:
        logging.warning("the split %s has no tasks: nothing is evaluated on it", split)
        del held_out[split]
    check_disjoint({split: train} | held_out)
    try:
        check_pins(held_out, config.eval.panel)
    except ValueError as error:
        raise ValueError(f"config.eval.panel: {error}") from error
    return Panels(train, held_out)


def _load_panel(
    config: ConfigDict, environment: EnvironmentSpec, split: str, limit: int | None
) -> TaskPanel:
    with _naming_environment(config, f"panel({split!r}, {limit})"):
        panel = environment.panel(split, limit)
        if not isinstance(panel, TaskPanel):
            raise TypeError(f"it returned {panel!r:.80}: needs a TaskPanel")
    return panel


def _check_own_splits(config: ConfigDict, environment: EnvironmentSpec) -> None:
    """Try the splits that the strategy plays beside the run's.

    Raises:
        ValueError: one of them is not there.
    """
    for key, split in own_splits(config.strategy.name, config.strategy.skillrl).items():
        try:
            found = _load_panel(config, environment, split, 1).tasks
        except ValueError as error:
            raise ValueError(f"config.strategy.{key}: {error}") from error
        if not found:
            raise ValueError(
                f"config.strategy.{key}: {split} has no tasks: bring its data, or use "
                "config.strategy.skillrl.evolve_from='train'"
            )


class Tasks(NamedTuple):
    """What a run plays: its environment, and the tasks in it."""

    environment: EnvironmentSpec
    panels: Panels


def load_tasks(config: ConfigDict) -> Tasks:
    """Load the environment and the tasks of the run.

    Splits that its strategy plays beside are tried only, so that a run which could not
    start does not begin.

    Raises:
        ValueError: see `load_panels`; or a split of the strategy is not there.
        ModuleError: see `load_environment`.
    """
    environment = load_environment(config)
    panels = load_panels(config, environment)
    _check_own_splits(config, environment)
    return Tasks(environment, panels)
