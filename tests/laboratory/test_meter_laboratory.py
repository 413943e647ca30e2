"""The meter on policies that play: one was taught to follow skills, one cannot read."""

import asyncio
import importlib.util
from contextlib import ExitStack

import jax
import numpy as np
import pytest
from programs import get_config

from reskill_jax import build
from reskill_jax.environments.alfworld.rules import HARMFUL
from reskill_jax.policy.decoder import init
from reskill_jax.rollout.context import BankContext
from reskill_jax.rollout.meter import measured
from reskill_jax.skills.effects import ABOUT_ZERO
from reskill_jax.skills.skill import SkillBank

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("alfworld") is None,
        reason="needs the extra alfworld: pip install '.[alfworld]'",
    ),
]
# Nobody does this without being told.
LOOK = next(rule for rule in HARMFUL if rule.name == "look-around-again").skill()


def effects(taught):
    """Play with the skill at every turn, score all turns; one effect each."""
    config = get_config("cpu")
    config.env.workers = 1
    config.rollout.max_turns = 8
    config.meter.share = 1.0
    with ExitStack() as resources:
        environment = build.load_environment(config)
        policy = build.load_policy(config)
        params = policy.params
        if not taught:
            params = init(policy.config, jax.random.key(0))
        engine, _ = build.make_engine(config, policy, params, 0, resources)
        collector = build.make_collector(config, environment, policy, engine, resources)
        episodes = asyncio.run(
            collector.collect(
                environment.panel("train", 4).tasks,
                np.zeros((4, 3), int),
                (BankContext(SkillBank((LOOK,))),),
                sampling=build.sampling(config),
                seed=1,
                meter=config.meter.share,
            )
        )
    build.make_meter(config, policy.config, policy.mesh)(params, episodes)
    found = measured(episodes)[LOOK.name]
    error = np.std(found) / np.sqrt(len(found))
    print(f"\n{taught=}: {np.mean(found):.3f} ± {error:.3f}, {len(found)} turns")
    return np.mean(found), error


def test_a_policy_that_obeys_shows_it_and_one_that_cannot_read_does_not():
    mean, error = effects(taught=True)
    assert mean - 3 * error > 10 * ABOUT_ZERO
    mean, error = effects(taught=False)
    assert abs(mean) < ABOUT_ZERO
