"""One strategy per method: which banks are in play, what is learnt from episodes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from reskill_jax import distributed
from reskill_jax.creator.background import Background
from reskill_jax.creator.offline import OfflineCreator
from reskill_jax.creator.proposal import Creator
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.alfworld.rules import HARMFUL, HELPFUL, TABLE
from reskill_jax.laboratory.known_proposals import Injecting, addition
from reskill_jax.llm.backends import NAMES, SIDECAR
from reskill_jax.skills.skill import SkillBank
from reskill_jax.skills.skill_md import load_bank
from reskill_jax.strategies.base import Static, Strategy
from reskill_jax.strategies.leader import Leader
from reskill_jax.strategies.reskill import ReSkill
from reskill_jax.strategies.staged import Staged
from reskill_jax.trials.trial_config import TrialConfig

CREATORS = ("offline", *NAMES, SIDECAR, "replay")
STAGED = ("skill_first", "policy_first")
# Ablations of ReSkill that hold trials, and what is different in those.
TRIALS: dict[str, dict[str, Any]] = {
    "reskill": {},
    "uniform": {"uniform": True},
    "no_discount": {"discount": "none"},
    "no_analyzer": {},
    **{name: {"frozen_policy": True} for name in STAGED},
}
STRATEGIES = ("grpo", "static", "auto_accept", *TRIALS)
# Bundles of known kind for experiments: the most helpful one first (with it the shipped
# policy wins 30% of sampled episodes instead of 12%); which of the harmful ones comes
# first, the seed says.
INJECTED = {
    "helpful": (HELPFUL[3:4], HELPFUL[:2], HELPFUL[4:6]),
    "harmful": tuple((rule,) for rule in HARMFUL),
}


def make_strategy(
    config: ConfigDict, creator_calls: Path, servers: Sequence[str] = ()
) -> Strategy:
    """Build the strategy that the configuration names; of many processes, one has it.

    Args:
        config: of the run.
        creator_calls: file for the calls of a creator that asks a language model.
        servers: addresses of the engine's, for a creator that asks those.
    """
    if distributed.is_alone():
        return _make_strategy(config, creator_calls, servers)
    return Leader(lambda: _make_strategy(config, creator_calls, servers))


def _make_strategy(
    config: ConfigDict, creator_calls: Path, servers: Sequence[str]
) -> Strategy:
    name = config.strategy.name
    if name == "grpo":
        return Static()
    bank = SkillBank()
    if config.strategy.bank:
        bank = load_bank(Path(config.strategy.bank))
    if name == "static":
        return Static(bank)
    trial = config.trial.to_dict() | TRIALS.get(name, {})
    strategy = ReSkill(
        make_creator(config, creator_calls, servers),
        TrialConfig(**trial),
        bank=bank,
        max_skills=config.strategy.max_skills,
        reservoir=Reservoir(config.strategy.reservoir_size),
        reservoir_min=config.strategy.reservoir_min,
        seed=config.seed,
        candidates=config.strategy.candidates,
        auto_accept=name == "auto_accept",
    )
    if name in STAGED:
        half = config.num_steps // 2
        return Staged(strategy, half, skills_first=name == "skill_first")
    return strategy


def llm_settings(config: ConfigDict) -> dict[str, Any]:
    """Return what `creator.making` takes, out of the configuration."""
    own = {"delay_steps", "inject", "inject_every"}
    settings = config.creator.to_dict()
    return {key: value for key, value in settings.items() if key not in own}


def make_creator(
    config: ConfigDict, calls: Path, servers: Sequence[str] = ()
) -> Creator:
    """Build the creator; experiments mix bundles of known kind into its stream."""
    analyse = config.strategy.name != "no_analyzer"
    creator: Creator = OfflineCreator(TABLE, analyse=analyse)
    if config.creator.name != "offline":
        # Not imported above: pydantic comes with an extra.
        from reskill_jax.creator.factory import make_llm_creator  # noqa: PLC0415

        settings = llm_settings(config)
        creator = Background(
            make_llm_creator(calls=calls, servers=servers, **settings),
            config.creator.delay_steps,
        )
    if config.creator.inject_every:
        bundles = INJECTED[config.creator.inject]
        if config.creator.inject == "harmful":
            first = config.seed % len(bundles)
            bundles = bundles[first:] + bundles[:first]
        proposals = [addition(*bundle) for bundle in bundles]
        creator = Injecting(creator, config.creator.inject_every, proposals)
    return creator
