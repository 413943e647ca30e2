"""Builds the strategy of a run, and its creator, from the configuration."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from reskill_jax import distributed
from reskill_jax.build import context_resources
from reskill_jax.creator.background import Background
from reskill_jax.creator.checked import CheckedCreator
from reskill_jax.creator.offline import OfflineCreator
from reskill_jax.creator.proposal import Creator
from reskill_jax.creator.verify import BankProblem, no_problem
from reskill_jax.environments.protocol import EnvironmentSpec
from reskill_jax.llm.backends import NAMES, SIDECAR
from reskill_jax.memories.desk import Desk, Work
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.modules import find_module, naming
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.skills.rule import RuleTable
from reskill_jax.strategies import STRATEGIES, find_strategy, holds_trials
from reskill_jax.strategies.base import Setup, Strategy
from reskill_jax.strategies.checked import CheckedStrategy
from reskill_jax.strategies.leader import Leader
from reskill_jax.trials.bounds import settled
from reskill_jax.trials.shape import Shape


def make_strategy(
    config: ConfigDict,
    environment: EnvironmentSpec,
    prompts: PromptBuilder,
    calls: Path,
    servers: Sequence[str] = (),
) -> Strategy:
    """Build the strategy; of many processes, the leader has it.

    Args:
        config: of the run.
        environment: of the run; its rules are for the offline creator.
        prompts: of the run; banks must have room in them.
        calls: file for the calls of a creator that asks a language model.
        servers: addresses of the engine's, for a creator that asks those.
    """
    setup = Setup(
        settings=config.strategy.to_dict(),
        trial=config.trial.to_dict(),
        seed=config.seed,
        num_steps=config.num_steps,
        tasks_per_step=config.rollout.tasks_per_step,
        group_size=config.grpo.group_size,
        panel=environment.panel,
        bank_problem=prompts.bank_problem,
        resources=context_resources(config),
        make_creator=partial(
            make_creator,
            config,
            environment.rules,
            calls,
            servers,
            bank_problem=prompts.bank_problem,
        ),
        make_desk=partial(make_desk, config, environment.rules, calls, servers),
        split=config.adapt.split,
        frozen=config.adapt.frozen,
    )
    make: Callable[[], Strategy] = partial(find_strategy(config.strategy.name), setup)
    if config.strategy.name not in STRATEGIES:
        make = partial(_checked_strategy, make, config.strategy.name)
    try:
        return make() if distributed.is_alone() else Leader(make, setup.resources)
    except ValueError as error:  # those of `make` begin with one of its keys
        if re.split(r"[.=]", str(error))[0] not in config.strategy:
            raise
        raise ValueError(f"config.strategy.{error}") from error


def _checked_strategy(make: Callable[[], Strategy], name: str) -> Strategy:
    with _naming("strategy", name)("make", ValueError):
        strategy = make()
    return CheckedStrategy(strategy, _naming("strategy", name))


def _naming(section: str, name: str) -> Callable[..., AbstractContextManager[None]]:
    """Return what names a module of somebody's own in errors of its methods."""

    def call(method: str, *spared: type[Exception]) -> AbstractContextManager[None]:
        what = f"config.{section}.name={name!r}: {method}"
        return naming(what, *spared)

    return call


def trial_shape(config: ConfigDict) -> Shape:
    """Return what the statistics of trials depend on."""
    return Shape(
        config.rollout.tasks_per_step,
        config.grpo.group_size,
        config.strategy.candidates,
    )


def settle_trial(config: ConfigDict) -> ConfigDict:
    """Return a copy in which every key of `trial` that has a meaning has its value.

    So a run goes on with the bounds that it began with, whatever a later version of
    this package would choose.
    """
    config = config.copy_and_resolve_references()
    if holds_trials(config.strategy.name):
        config.trial.update(settled(config.trial, trial_shape(config)))
    return config


# Modules of creators that are not in this table are found by their dotted names.
CREATORS = dict.fromkeys(("offline", *NAMES, SIDECAR, "replay"), "reskill_jax.creator")


def find_creator(name: str) -> ModuleType:
    """Import a creator's module, which has ``make(settings, analyse) -> Creator``.

    Raises:
        ValueError: there is no such module, or it has no `make`.
    """
    return find_module(name, CREATORS, kind="creator", needs=("make",))


def make_creator(
    config: ConfigDict,
    rules: RuleTable,
    calls: Path,
    servers: Sequence[str],
    analyse: bool = True,
    *,
    bank_problem: BankProblem = no_problem,
) -> Creator:
    """Build the creator; experiments mix bundles of known kind into its stream."""
    creator: Creator = OfflineCreator(
        rules,
        analyse=analyse,
        bank_problem=bank_problem,
        goals=config.creator.goals,
        rejected_edits=config.creator.rejected_edits,
    )
    if config.creator.name not in CREATORS:
        settings = {
            **config.creator.to_dict(),
            "calls": calls,
            "bank_problem": bank_problem,
        }
        named = _naming("creator", config.creator.name)
        with named("make", ValueError):
            creator = find_creator(config.creator.name).make(settings, analyse)
        creator = CheckedCreator(creator, named)
    elif config.creator.name != "offline":
        # Not imported above: pydantic comes with an extra.
        from reskill_jax.creator.factory import make_llm_creator  # noqa: PLC0415

        own = {"delay_steps", "inject", "inject_every"}
        settings = {k: v for k, v in config.creator.to_dict().items() if k not in own}
        creator = Background(
            make_llm_creator(
                calls=calls,
                servers=servers,
                bank_problem=bank_problem,
                grade=analyse,
                **settings,
            ),
            config.creator.delay_steps,
        )
    if config.creator.inject_every:
        # Only experiments need the laboratory.
        from reskill_jax.laboratory.known_proposals import (  # noqa: PLC0415
            Injecting,
            known_proposals,
        )

        proposals = known_proposals(config.creator.inject, config.seed)
        creator = Injecting(creator, config.creator.inject_every, proposals)
    return creator


def make_desk(
    config: ConfigDict,
    rules: RuleTable,
    calls: Path,
    servers: Sequence[str],
    work: Work,
    wait: bool,
) -> Desk:
    """Build what writes texts for a strategy, from the section `creator`.

    A creator of somebody's own writes skills only; validation refuses it here.
    """
    if config.creator.name == "offline":
        return Desk(OfflineWriter(rules), work, wait=wait)
    # Not imported above: pydantic comes with an extra.
    from reskill_jax.creator.factory import make_caller  # noqa: PLC0415
    from reskill_jax.creator.prompting import Prompts  # noqa: PLC0415
    from reskill_jax.memories.llm_writer import LlmWriter  # noqa: PLC0415

    creator = config.creator.to_dict()
    shared = {key: creator[key] for key in ("llm", "budget", "retry", "replay")}
    caller = make_caller(creator["name"], calls, servers=servers, **shared)
    writer = LlmWriter(caller, Prompts(creator["prompts"]))
    delay_steps = creator["delay_steps"]
    return Desk(writer, work, background=True, delay_steps=delay_steps, wait=wait)
