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
from absl import app, flags

from reskill_jax import cache
from reskill_jax.creator.rules import RULES
from reskill_jax.environments.alfworld import AlfworldEnvironment, find_games
from reskill_jax.environments.base import Task
from reskill_jax.policy.config import DecoderConfig
from reskill_jax.policy.decoder import init
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.rollout.prompts import WORDINGS, PromptBuilder, render_skill
from reskill_jax.rollout.types import Episode
from reskill_jax.warm_start.demonstrator import (
    Demonstration,
    Habits,
    Teaching,
    demonstrate,
)
from reskill_jax.warm_start.fitting import as_episode, as_text, fit, held_out_loss
from reskill_jax.warm_start.shuffle import Names

SHIPPED = Path(__file__).parent.parent / "assets" / "warm_start"


@dataclass(frozen=True)
class Shape:
    """The decoder's shape, see `DecoderConfig`."""

    vocab_size: int = 1024
    hidden_size: int = 160
    intermediate_size: int = 320
    layers: int = 4
    heads: int = 2
    kv_heads: int = 2
    head_dim: int = 64

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
            # Names are compared by what turns slowly, over a prompt's whole length.
            rope_theta=1e6,
            max_position_embeddings=1024,
        )


@dataclass(frozen=True)
class Phase:
    """A stretch of training: what a step learns from, and how fast.

    Attributes:
        steps: optimiser steps; the learning rate warms up, then decays to nothing.
        learning_rate: the peak.
        text: fluent episodes per step, names shuffled, whose every token is predicted.
        fluent: fluent episodes per step whose actions are predicted.
        taught: episodes per step, made as `Recipe.teaching` says, to be imitated.
        shuffled: share of the episodes, other than text, whose names are shuffled.
    """

    steps: int
    learning_rate: float
    text: int
    fluent: int
    taught: int
    shuffled: float

    def schedule(self) -> optax.Schedule:
        """Return the learning rate of each step."""
        return optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, self.steps // 15, self.steps
        )


@dataclass(frozen=True)
class Recipe:
    """Everything that the warm-started policy depends on.

    Attributes:
        houses: size of the houses, a preset of `alfworld_recipe`.
        num_houses: houses of the train split that are demonstrated.
        episodes: demonstrations per house.
        held_out: demonstrations, of the first houses, that only measure the loss.
        fluent: how demonstrations nearly without errors are made.
        teaching: how those are made that the policy shall imitate in the end.
        shape: the decoder.
        wording: prompt wording.
        actions: whether prompts list the admissible actions.
        max_tokens: prompt budget.
        phases: first to copy names out of the prompt, which takes text, then to act.
        seed: of everything random.
    """

    houses: str = "small"
    num_houses: int = 400
    episodes: int = 8
    held_out: int = 64
    fluent: Teaching = field(
        default_factory=lambda: Teaching(
            skilled=0.0, habits=Habits(0.0, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0)
        )
    )
    teaching: Teaching = field(default_factory=Teaching)
    shape: Shape = field(default_factory=Shape)
    wording: str = "brief"
    actions: bool = False
    max_tokens: int = 624
    phases: tuple[Phase, ...] = (
        Phase(240, 5e-3, text=6, fluent=10, taught=0, shuffled=1.0),
        Phase(480, 5e-3, text=0, fluent=3, taught=10, shuffled=0.2),
    )
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
    fluent = collect(recipe, recipe.fluent, workers=workers)
    taught = collect(recipe, recipe.teaching, workers=workers)
    held_out, taught = taught[: recipe.held_out], taught[recipe.held_out :]
    tokenizer = train_tokenizer(_texts(taught), recipe.shape.vocab_size)
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    prompts = recipe.prompts(tokenizer)
    params = init(decoder, jax.random.key(recipe.seed))
    rng = random.Random(recipe.seed)
    for phase in recipe.phases:
        batches = _batches(phase, fluent, taught, prompts, rng)
        params = fit(decoder, params, phase.schedule(), phase.steps, batches)
    results = {
        "held_out_loss": held_out_loss(
            decoder, params, [as_episode(prompts, d) for d in held_out]
        ),
        "demonstrations": float(len(taught)),
        "demonstrated_success": float(np.mean([d.success for d in taught])),
    }
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save(partial, decoder, params)
    tokenizer.save(partial)
    document = {"recipe": asdict(recipe), "hash": recipe.hash, "results": results}
    (partial / "recipe.json").write_text(json.dumps(document, indent=2) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    partial.rename(output)
    return results


def _batches(
    phase: Phase,
    fluent: Sequence[Demonstration],
    taught: Sequence[Demonstration],
    prompts: PromptBuilder,
    rng: random.Random,
) -> Iterator[list[Episode]]:
    """Yield what one step after the other learns from, endlessly."""
    names = Names.of(taught)

    def draw(demonstrations: Sequence[Demonstration], shuffled: float) -> Episode:
        demonstration = rng.choice(demonstrations)
        if rng.random() < shuffled:
            demonstration = names.shuffle(demonstration, rng)
        return as_episode(prompts, demonstration)

    while True:
        yield [
            *(as_text(draw(fluent, 1.0)) for _ in range(phase.text)),
            *(draw(fluent, phase.shuffled) for _ in range(phase.fluent)),
            *(draw(taught, phase.shuffled) for _ in range(phase.taught)),
        ]


def collect(
    recipe: Recipe, teaching: Teaching, *, workers: int, limit: int | None = None
) -> list[Demonstration]:
    """Demonstrate in built houses, always in the same order of houses.

    Args:
        recipe: which houses, and how often each.
        teaching: how.
        workers: processes that play.
        limit: stop after so many houses.
    """
    houses = cache.houses(
        recipe.houses,
        train=recipe.num_houses,
        held_out=0,
        seed=recipe.seed,
        workers=workers,
    )
    tasks = find_games(str(houses), "train")
    jobs = [
        (task, teaching, recipe.episodes, recipe.seed)
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
