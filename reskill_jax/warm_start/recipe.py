"""Make a warm-started policy out of demonstrations, once per recipe.

A recipe is plain data with a content hash; its result is a Hugging Face directory with
the recipe and its held-out loss beside the weights. Results are looked for among those
that ship with the package, then in the cache, and made only if neither has it:

    python -m reskill_jax.warm_start.recipe --recipe=alfworld-small --output=DIR
"""

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax
import numpy as np
import optax
import tqdm
from absl import app, flags

from reskill_jax import cache
from reskill_jax.creator.rules import RULES
from reskill_jax.environments.alfworld import AlfworldEnvironment, find_games
from reskill_jax.environments.base import Task
from reskill_jax.grpo.batch import PackedBatch, pack
from reskill_jax.grpo.optimization import LogprobFn, init_state, make_optimizer
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.supervised import make_supervised_update
from reskill_jax.policy.config import DecoderConfig
from reskill_jax.policy.decoder import Params, init
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.rollout.prompts import (
    WORDINGS,
    Conversation,
    PromptBuilder,
    render_skill,
)
from reskill_jax.rollout.types import Episode, Turn
from reskill_jax.warm_start.demonstrator import (
    Demonstration,
    Teaching,
    demonstrate,
)

SHIPPED = Path(__file__).parent.parent / "assets" / "warm_start"


@dataclass(frozen=True)
class Shape:
    """The decoder's shape, see `DecoderConfig`."""

    vocab_size: int = 1024
    hidden_size: int = 128
    intermediate_size: int = 256
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32

    def decoder(self, vocab_size: int) -> DecoderConfig:
        """Return the decoder for a tokenizer of `vocab_size` ids."""
        return DecoderConfig(
            vocab_size=vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            rope_theta=10_000.0,
            max_position_embeddings=1024,
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that the warm-started policy depends on.

    Attributes:
        houses: size of the houses, a preset of `alfworld_games`.
        num_houses: houses of the train split that are demonstrated.
        episodes: demonstrations per house.
        held_out: demonstrations, of other houses, that only measure the loss.
        teaching: how they are made.
        shape: the decoder.
        wording: prompt wording.
        actions: whether prompts list the admissible actions.
        max_tokens: prompt budget.
        steps: optimiser steps.
        batch: demonstrations per step.
        learning_rate: peak of a warm-up and cosine decay.
        seed: of everything random.
    """

    houses: str = "small"
    num_houses: int = 400
    episodes: int = 8
    held_out: int = 64
    teaching: Teaching = field(default_factory=Teaching)
    shape: Shape = field(default_factory=Shape)
    wording: str = "brief"
    actions: bool = False
    max_tokens: int = 624
    steps: int = 220
    batch: int = 14
    learning_rate: float = 3e-3
    seed: int = 0

    @property
    def hash(self) -> str:
        """Content hash, 12 hex digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def prompts(self, tokenizer: Tokenizer) -> PromptBuilder:
        """Return the prompts that the policy learns to read."""
        return PromptBuilder(
            tokenizer,
            wording=self.wording,
            layout="tree",
            max_tokens=self.max_tokens,
            max_turns=self.teaching.max_turns,
            show_actions=self.actions,
        )


RECIPES = {"alfworld-small": Recipe()}


def obtain(recipe: Recipe, *, workers: int, retrain: bool = False) -> Path:
    """Return the directory of the recipe's policy, making it if there is none."""
    made = cache.cache_directory() / "warm_start" / recipe.hash
    if not retrain:
        for directory in (SHIPPED / recipe.hash, made):
            if (directory / "recipe.json").is_file():
                return directory
    print(f"making the warm start {recipe.hash} once, into {made}", flush=True)
    make(recipe, made, workers=workers)
    return made


def make(recipe: Recipe, output: Path, *, workers: int) -> dict[str, float]:
    """Demonstrate, train and write; `output` appears whole or not at all."""
    demonstrations = collect(recipe, workers=workers)
    train, held_out = (
        demonstrations[recipe.held_out :],
        demonstrations[: recipe.held_out],
    )
    tokenizer = train_tokenizer(_texts(train), recipe.shape.vocab_size)
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    prompts = recipe.prompts(tokenizer)
    params, losses = fit(
        recipe, decoder, [as_episode(prompts, d) for d in train], held_out, prompts
    )
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial, decoder, params)
    tokenizer.save(partial)
    results = losses | {
        "demonstrations": float(len(train)),
        "demonstrated_success": float(np.mean([d.success for d in train])),
    }
    document = {"recipe": asdict(recipe), "hash": recipe.hash, "results": results}
    (partial / "recipe.json").write_text(json.dumps(document, indent=2) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    return results


def collect(
    recipe: Recipe, *, workers: int, limit: int | None = None
) -> list[Demonstration]:
    """Demonstrate in built houses: held-out houses first, `episodes` per house.

    `limit` stops after so many houses.
    """
    extra = -(-recipe.held_out // recipe.episodes)
    houses = cache.houses(
        recipe.houses,
        train=recipe.num_houses + extra,
        held_out=0,
        seed=recipe.seed,
        workers=workers,
    )
    tasks = find_games(str(houses), "train")
    jobs = [
        (task, recipe.teaching, recipe.episodes, recipe.seed)
        for task in random.Random(recipe.seed).sample(tasks, len(tasks))[:limit]
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as processes:
        found = processes.imap(_demonstrate_house, jobs, chunksize=4)
        return [demonstration for house in found for demonstration in house]


_environment: AlfworldEnvironment | None = None  # one per worker process


def _demonstrate_house(job: tuple[Task, Teaching, int, int]) -> list[Demonstration]:
    global _environment  # noqa: PLW0603
    task, teaching, episodes, seed = job
    _environment = _environment or AlfworldEnvironment()
    return [
        demonstrate(_environment, task, teaching, seed * 1000 + k)
        for k in range(episodes)
    ]


def as_episode(prompts: PromptBuilder, demonstration: Demonstration) -> Episode:
    """Render a demonstration as the collector would have recorded it."""
    task, moments = demonstration.task, demonstration.moments
    episode = Episode(task, 0, 0, 0, "", goal=demonstration.goal)
    talk = Conversation(prompts, demonstration.goal, moments[0].observation)
    after = [*(moment.observation for moment in moments[1:])]
    for moment, observation in zip(
        moments, [*after, demonstration.final_observation], strict=True
    ):
        prompt = talk.prompt(moment.admissible, moment.skills)
        text = f"<action>{moment.action}</action>"
        response = [*prompts.tokenizer.encode(text), prompts.tokenizer.eos_id]
        episode.turns.append(
            Turn(
                window=prompt.window,
                trunk_length=prompt.trunk_length,
                branch=np.asarray(prompt.branch, np.int32),
                response=np.asarray(response, np.int32),
                logprobs=np.zeros(len(response), np.float32),
                version=0,
                observation=moment.observation,
                text=text,
                action=moment.action,
                valid=True,
                fired=tuple(skill.name for skill in moment.skills),
            )
        )
        talk.advance(moment.action, observation)
    episode.trunks = [np.asarray(trunk, np.int32) for trunk in talk.trunks]
    episode.success = demonstration.success
    return episode


def fit(
    recipe: Recipe,
    decoder: DecoderConfig,
    episodes: Sequence[Episode],
    held_out: Sequence[Demonstration],
    prompts: PromptBuilder,
) -> tuple[Params, dict[str, float]]:
    """Train a decoder from scratch; return its parameters and its losses."""
    logprobs = make_logprobs(decoder)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.steps // 20, recipe.steps
    )
    tx = make_optimizer(schedule, weight_decay=0.01)
    update = make_supervised_update(logprobs, tx)
    state = init_state(init(decoder, jax.random.key(recipe.seed)), tx)
    metrics: dict[str, float] = {}
    batches = tqdm.tqdm(_batches(recipe, episodes), "warm start", recipe.steps)
    for batch in batches:
        state, metrics = update(state, _pack(batch))
        batches.set_postfix(loss=metrics["supervised/loss"])
    loss = held_out_loss(
        jax.jit(logprobs), state.params, [as_episode(prompts, d) for d in held_out]
    )
    return state.params, {"loss": metrics["supervised/loss"], "held_out_loss": loss}


def held_out_loss(
    logprobs: LogprobFn, params: Params, episodes: Sequence[Episode]
) -> float:
    """Return the mean negative log-likelihood per demonstrated token, in nats."""
    total = count = 0.0
    for packed in _pack(episodes):
        total -= float(np.sum(logprobs(params, packed) * packed.mask))
        count += float(np.sum(packed.mask))
    return total / count


def _batches(recipe: Recipe, episodes: Sequence[Episode]) -> Iterator[list[Episode]]:
    """Yield the demonstrations of each step: epochs, each in another order."""
    order: list[int] = []
    for step in range(recipe.steps):
        if len(order) < recipe.batch:
            rng = np.random.default_rng((recipe.seed, step))
            order += rng.permutation(len(episodes)).tolist()
        yield [episodes[i] for i in order[: recipe.batch]]
        del order[: recipe.batch]


def _pack(episodes: Sequence[Episode]) -> list[PackedBatch]:
    return pack(episodes, buckets=(512, 768), tokens_per_microbatch=3072)


def _texts(demonstrations: Sequence[Demonstration]) -> Iterator[str]:
    """Yield what the tokenizer must spell well."""
    for demonstration in demonstrations:
        yield demonstration.goal
        for moment in demonstration.moments:
            yield moment.observation
            yield f"<action>{moment.action}</action>"
    for rule in RULES:
        for wording in range(len(rule.wordings)):
            yield render_skill(WORDINGS["brief"], rule.skill(wording)) * 50


def main(argv: Sequence[str]) -> None:
    """Make one recipe's policy."""
    del argv
    values = flags.FLAGS
    recipe = RECIPES[values.recipe]
    output = Path(values.output or SHIPPED / recipe.hash)
    results = make(recipe, output, workers=os.cpu_count() or 1)
    print(json.dumps({"output": str(output), **results}))


if __name__ == "__main__":
    flags.DEFINE_enum("recipe", "alfworld-small", sorted(RECIPES), "which recipe")
    flags.DEFINE_string("output", "", "directory to write; empty: the package's assets")
    sys.exit(app.run(main))
