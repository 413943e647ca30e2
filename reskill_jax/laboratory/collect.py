"""Episodes to learn from, in built houses: demonstrated, played, corrected."""

import asyncio
import multiprocessing
import random
from collections.abc import Sequence
from functools import partial

import numpy as np

from reskill_jax.environments.alfworld.environment import (
    ACTION_FORMAT,
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.environments.pool import EnvironmentPool
from reskill_jax.environments.protocol import Task
from reskill_jax.laboratory.demonstrator import (
    Attempt,
    Demonstration,
    Teaching,
    attempted_bank,
    correct,
    demonstrate,
)
from reskill_jax.laboratory.recipe import Recipe
from reskill_jax.policy.decoder import Params
from reskill_jax.policy.decoder_config import DecoderConfig
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import BankContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.jax.engine import JaxEngine

_RESPONSE = 16  # tokens, at most
_CHUNK = 32  # positions per cache block


def find_houses(recipe: Recipe, *, workers: int) -> list[Task]:
    """Return the recipe's houses, built if there are none, in an order of its own."""
    houses = cached_houses(
        recipe.houses,
        train=recipe.num_houses,
        held_out=0,
        seed=recipe.seed,
        workers=workers,
    )
    tasks = find_games(str(houses), "train")
    return random.Random(recipe.seed).sample(tasks, len(tasks))


def demonstrate_all(
    tasks: Sequence[Task], teaching: Teaching, episodes: int, seed: int, *, workers: int
) -> list[Demonstration]:
    """Demonstrate every task so often, in the order of the tasks."""
    job = partial(_demonstrate, teaching=teaching, episodes=episodes, seed=seed)
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        found = processes.imap(job, tasks, chunksize=4)
        return [demonstration for house in found for demonstration in house]


def correct_all(
    attempts: Sequence[Attempt], teaching: Teaching, *, workers: int
) -> list[Demonstration]:
    """Correct every attempt, in their order; those with nothing to teach are left out.

    An attempt teaches nothing if the demonstrator runs out of patience at once.
    """
    job = partial(_correct, teaching=teaching)
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        return [d for d in processes.imap(job, attempts, chunksize=8) if d.moments]


def play(
    recipe: Recipe,
    tasks: Sequence[Task],
    seed: int,
    policy: tuple[DecoderConfig, Params, Tokenizer],
    *,
    workers: int,
) -> list[Attempt]:
    """Let the policy play `Recipe.attempts` of the tasks with skills drawn at random.

    Args:
        recipe: how skills are drawn, prompts rendered.
        tasks: to choose from.
        seed: of the choice, the skills and the sampling, which has temperature 1.
        policy: shape, weights, tokenizer.
        workers: processes that play the environments.
    """
    decoder, params, tokenizer = policy
    rng = random.Random(seed)
    chosen = [rng.choice(tasks) for _ in range(recipe.attempts)]
    seeds = [rng.getrandbits(31) for _ in chosen]
    banks = [
        attempted_bank(task, recipe.teaching, number)
        for task, number in zip(chosen, seeds, strict=True)
    ]
    engine = JaxEngine(
        decoder,
        params,
        eos_id=tokenizer.eos_id,
        context=-(-(recipe.max_tokens + _RESPONSE) // _CHUNK) * _CHUNK,
        block_size=_CHUNK,
    )
    try:
        with EnvironmentPool(
            AlfworldEnvironment, workers=workers, timeout_s=60.0, max_attempts=3
        ) as pool:
            collector = Collector(
                engine=engine,
                players=pool,
                prompts=recipe.prompts(tokenizer),
                action_format=ACTION_FORMAT,
                max_turns=recipe.teaching.max_turns,
                concurrency=64,
            )
            played = asyncio.run(
                collector.collect(
                    chosen,
                    np.arange(len(chosen))[:, None],
                    [BankContext(bank) for bank in banks],
                    sampling=Sampling(max_tokens=_RESPONSE),
                    seed=seed,
                )
            )
    finally:
        engine.close()
    return [
        Attempt(episode.task, number, episode.actions)
        for episode, number in zip(played, seeds, strict=True)
    ]


_environment: AlfworldEnvironment | None = None  # one per worker process


def _player() -> AlfworldEnvironment:
    global _environment  # noqa: PLW0603
    _environment = _environment or AlfworldEnvironment()
    return _environment


def _demonstrate(
    task: Task, teaching: Teaching, episodes: int, seed: int
) -> list[Demonstration]:
    seeds = range(seed * 1000, seed * 1000 + episodes)
    return [demonstrate(_player(), task, teaching, number) for number in seeds]


def _correct(attempt: Attempt, teaching: Teaching) -> Demonstration:
    return correct(_player(), attempt, teaching)
