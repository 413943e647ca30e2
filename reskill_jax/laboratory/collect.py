"""Episodes to learn from: demonstrated, played, corrected."""

import asyncio
import multiprocessing
import random
from collections.abc import Sequence
from functools import partial
from multiprocessing.pool import Pool

import numpy as np

from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Environment, Task
from reskill_jax.laboratory.demonstrator import (
    DemonstrationSettings,
    PlayedEpisode,
    bank_of_episode,
    correct,
    demonstrate,
)
from reskill_jax.laboratory.recipe import Recipe
from reskill_jax.laboratory.worlds import WORLDS
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.process import end_with_parent
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import BankContext
from reskill_jax.rollout.demonstration import Demonstration
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.jax.engine import JaxEngine
from reskill_jax.terminal import activity

_BLOCK_SIZE = 32  # positions per cache block


def find_tasks(recipe: Recipe, *, workers: int) -> list[Task]:
    """Return the recipe's tasks in random order, making them if need be."""
    tasks = recipe.world.tasks(recipe.houses, recipe.num_houses, recipe.seed, workers)
    return random.Random(recipe.seed).sample(tasks, len(tasks))


def demonstrate_all(
    tasks: Sequence[Task],
    teaching: DemonstrationSettings,
    episodes: int,
    seed: int,
    *,
    workers: int,
    world: str = "alfworld",
) -> list[Demonstration]:
    """Demonstrate every task `episodes` times; in the order of the tasks."""
    job = partial(
        _demonstrate, teaching=teaching, episodes=episodes, seed=seed, world=world
    )
    found: list[Demonstration] = []
    total = len(tasks) * episodes
    with (
        _worker_pool(workers) as processes,
        activity("demonstrating", lambda: f"{len(found)} of {total} episodes"),
    ):
        for house in processes.imap(job, tasks, chunksize=4):
            found += house
    return found


def correct_all(
    played: Sequence[PlayedEpisode],
    teaching: DemonstrationSettings,
    *,
    workers: int,
    world: str = "alfworld",
) -> list[Demonstration]:
    """Correct all episodes that the policy played, in their order.

    Those that the demonstrator would end at once, for obeying harmful skills, are left
    out.
    """
    job = partial(_correct, teaching=teaching, world=world)
    with (
        _worker_pool(workers) as processes,
        activity(f"correcting {len(played)} episodes"),
    ):
        return [d for d in processes.imap(job, played, chunksize=8) if d.turns]


def _worker_pool(workers: int) -> Pool:
    return multiprocessing.get_context("spawn").Pool(workers, end_with_parent)


def play(
    recipe: Recipe,
    tasks: Sequence[Task],
    seed: int,
    policy: tuple[DecoderConfig, Params, Tokenizer],
    *,
    workers: int,
) -> list[PlayedEpisode]:
    """Let the policy play `Recipe.attempts` episodes with skills drawn at random.

    Args:
        recipe: how skills are drawn and prompts rendered.
        tasks: to choose from.
        seed: of that choice, of the skills and of the sampling at temperature 1.
        policy: shape, weights, tokenizer.
        workers: environment processes.
    """
    decoder, params, tokenizer = policy
    world = recipe.world
    length = recipe.max_tokens + world.response_tokens
    rng = random.Random(seed)
    chosen = [rng.choice(tasks) for _ in range(recipe.attempts)]
    seeds = [rng.getrandbits(31) for _ in chosen]
    banks = [
        bank_of_episode(task, recipe.teaching, number, world.script)
        for task, number in zip(chosen, seeds, strict=True)
    ]
    engine = JaxEngine(
        decoder,
        params,
        eos_ids=tokenizer.eos_ids,
        context=-(-length // _BLOCK_SIZE) * _BLOCK_SIZE,
        block_size=_BLOCK_SIZE,
    )
    try:
        with EnvironmentPool(
            world.make, workers=workers, timeout_s=60.0, max_attempts=3
        ) as pool:
            collector = Collector(
                engine=engine,
                players=pool,
                prompts=recipe.prompts(tokenizer),
                action_format=world.action_format,
                max_turns=recipe.teaching.max_turns,
                concurrency=64,
            )
            played = asyncio.run(
                collector.collect(
                    chosen,
                    np.arange(len(chosen))[:, None],
                    [BankContext(bank) for bank in banks],
                    sampling=Sampling(max_tokens=world.response_tokens),
                    seed=seed,
                )
            )
    finally:
        engine.close()
    if lost := [episode for episode in played if episode.lost]:
        raise RuntimeError(f"{lost[0].task} cannot be played: {lost[0].lost}")
    return [
        PlayedEpisode(episode.task, number, episode.actions)
        for episode, number in zip(played, seeds, strict=True)
    ]


_environments: dict[str, Environment] = {}  # of one worker process


def _player(world: str) -> Environment:
    if world not in _environments:
        _environments[world] = WORLDS[world].make()
    return _environments[world]


def _demonstrate(
    task: Task, teaching: DemonstrationSettings, episodes: int, seed: int, world: str
) -> list[Demonstration]:
    seeds = range(seed * 1000, seed * 1000 + episodes)
    script = WORLDS[world].script
    return [
        demonstrate(_player(world), task, teaching, number, script) for number in seeds
    ]


def _correct(
    played: PlayedEpisode, teaching: DemonstrationSettings, world: str
) -> Demonstration:
    return correct(_player(world), played, teaching, WORLDS[world].script)
