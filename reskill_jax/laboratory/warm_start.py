"""Trains a warm-started policy on demonstrations, once per recipe.

    python -m reskill_jax.laboratory.warm_start --recipe=alfworld-small --output=DIR

The result is a Hugging Face directory with the recipe and its held-out loss beside the
weights. A run uses the one that ships with the package, else the one in the cache, and
trains it only if both are missing.

The policy learns from demonstrations, later also from its own episodes: between
segments of training it plays with skills drawn at random, and the demonstrator gives
the right action for every turn. The state of training is stored after each segment
(`DIR.partial`); the same command continues from there.
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

from reskill_jax.checkpoint import Checkpointer
from reskill_jax.environments.protocol import Task
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.supervised import fit, make_supervised_update, mean_loss
from reskill_jax.laboratory.collect import (
    correct_all,
    demonstrate_all,
    find_tasks,
    play,
)
from reskill_jax.laboratory.demonstrator import PlayedEpisode
from reskill_jax.laboratory.fitting import (
    as_text,
    make_optimizer,
    pack_episodes,
)
from reskill_jax.laboratory.recipe import RECIPES, Recipe, TrainingPhase
from reskill_jax.laboratory.worlds import Shuffler
from reskill_jax.policy.decoder import Params, init
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.rollout.demonstration import Demonstration, as_episode
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.prompts import PromptBuilder, render_note
from reskill_jax.storage import cache_directory

SHIPPED = Path(__file__).parent / "assets" / "warm_start"


def find_or_train(recipe: Recipe, *, workers: int, retrain: bool = False) -> Path:
    """Return the directory of the recipe's policy, training it if it is missing.

    Args:
        recipe: which policy.
        workers: processes for demonstrations and environments.
        retrain: train it in any case.
    """
    cached = cache_directory() / "warm_start" / recipe.hash
    if not retrain:
        for directory in (SHIPPED / recipe.hash, cached):
            if (directory / "recipe.json").is_file():
                return directory
    print(f"training the warm start {recipe.hash} once, into {cached}", flush=True)
    train_policy(recipe, cached, workers=workers)
    return cached


def train_policy(recipe: Recipe, output: Path, *, workers: int) -> dict[str, float]:
    """Demonstrate, train and write; `output` appears whole or not at all.

    Args:
        recipe: which policy.
        output: directory to write, replaced if it exists.
        workers: processes for demonstrations and environments.

    Returns:
        Held-out loss, number of demonstrations and their success.
    """
    tasks = find_tasks(recipe, workers=workers)
    count, seed = recipe.episodes, recipe.seed
    fluent, taught = (
        demonstrate_all(
            tasks, settings, count, seed, workers=workers, world=recipe.world_name
        )
        for settings in (recipe.fluent, recipe.teaching)
    )
    held_out, taught = taught[: recipe.held_out], taught[recipe.held_out :]
    tokenizer = train_tokenizer(_texts(recipe, taught), recipe.shape.vocab_size)
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    prompts = recipe.prompts(tokenizer)
    partial = output.with_name(f"{output.name}.partial")
    params = _train(
        recipe, tasks, (fluent, taught), tokenizer, partial / recipe.hash, workers
    )
    results = {
        "held_out_loss": mean_loss(
            make_logprobs(decoder),
            pack_episodes([as_episode(prompts, d) for d in held_out]),
            params,
        ),
        "demonstrations": float(len(taught)),
        "demonstrated_success": float(np.mean([d.success for d in taught])),
    }
    whole = partial / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    save(whole, decoder, params)
    tokenizer.save(whole)
    document = {"recipe": asdict(recipe), "hash": recipe.hash, "results": results}
    (whole / "recipe.json").write_text(json.dumps(document, indent=2) + "\n")
    shutil.rmtree(output, ignore_errors=True)
    whole.rename(output)
    shutil.rmtree(partial)
    return results


def _train(
    recipe: Recipe,
    tasks: Sequence[Task],
    demonstrations: tuple[Sequence[Demonstration], Sequence[Demonstration]],
    tokenizer: Tokenizer,
    stored: Path,
    workers: int,
) -> Params:
    """Train through the recipe's segments, after those that are stored."""
    fluent, taught = demonstrations
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    prompts = recipe.prompts(tokenizer)
    names = recipe.world.names(taught)
    tx = make_optimizer(recipe.schedule())
    update = make_supervised_update(make_logprobs(decoder), tx)
    state = init_state(init(decoder, jax.random.key(recipe.seed)), tx)
    done = 0
    rounds: list[list[PlayedEpisode]] = []
    with closing(Checkpointer(stored, keep=1)) as checkpointer:
        if restored := checkpointer.restore(state):
            done, state, host = restored
            rounds = _read_rounds(host["rounds"], tasks)
        for segment in recipe.segments():
            if segment.end <= done:
                continue
            if segment.plays:
                policy = decoder, state.params, tokenizer
                seed = recipe.seed * 10_000 + segment.begin
                played = play(recipe, tasks, seed, policy, workers=workers)
                rounds = [*rounds, played][-recipe.memory :]
            episodes_played = [episode for played in rounds for episode in played]
            practised = correct_all(
                episodes_played,
                recipe.teaching,
                workers=workers,
                world=recipe.world_name,
            )
            pools = fluent, taught, practised

            def batches(
                step: int, phase: TrainingPhase = segment.phase, pools: _Pools = pools
            ) -> list[PackedBatch]:
                rng = random.Random(f"{recipe.seed}/{step}")
                return pack_episodes(draw_episodes(rng, phase, pools, names, prompts))

            steps = range(segment.begin, segment.end)
            state = fit(update, state, steps, batches)
            document = [[_plain(episode) for episode in played] for played in rounds]
            checkpointer.save(segment.end, state, {"rounds": document})
            done = segment.end
    return state.params


# Fluent, taught and practised episodes.
_Pools = tuple[
    Sequence[Demonstration], Sequence[Demonstration], Sequence[Demonstration]
]


def draw_episodes(
    rng: random.Random,
    phase: TrainingPhase,
    pools: _Pools,
    names: Shuffler,
    prompts: PromptBuilder,
) -> list[Episode]:
    """Draw the episodes that one step learns from."""

    def draw(pool: Sequence[Demonstration], shuffled: float) -> Episode:
        demonstration = rng.choice(pool)
        if rng.random() < shuffled:
            demonstration = names.shuffle(demonstration, rng)
        return as_episode(prompts, demonstration)

    fluent, taught, practised = pools
    return [
        *(as_text(draw(fluent, 1.0)) for _ in range(phase.text)),
        *(draw(fluent, phase.shuffled) for _ in range(phase.fluent)),
        *(draw(taught, phase.shuffled) for _ in range(phase.taught)),
        *(draw(practised, phase.shuffled) for _ in range(phase.practised)),
    ]


def _plain(played: PlayedEpisode) -> list[object]:
    return [played.task.id, played.seed, list(played.actions)]


def _read_rounds(
    document: Sequence[Sequence[tuple[str, int, Sequence[str]]]],
    tasks: Sequence[Task],
) -> list[list[PlayedEpisode]]:
    by_id = {task.id: task for task in tasks}
    return [
        [
            PlayedEpisode(by_id[task], seed, tuple(actions))
            for task, seed, actions in played
        ]
        for played in document
    ]


def _texts(recipe: Recipe, demonstrations: Sequence[Demonstration]) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on."""
    for demonstration in demonstrations:
        yield demonstration.goal
        for turn in demonstration.turns:
            yield turn.observation.text
            yield f"<action>{turn.action}</action>"
    shown = recipe.world.wordings["brief"]
    for rule in recipe.world.rules:
        for wording in range(len(rule.wordings)):
            yield render_note(shown, rule.skill(wording)) * 50


def main(argv: Sequence[str]) -> None:
    """Train one recipe's policy."""
    del argv
    values = flags.FLAGS
    recipe = RECIPES[values.recipe]
    output = Path(values.output or SHIPPED / recipe.hash)
    results = train_policy(recipe, output, workers=os.cpu_count() or 1)
    print(json.dumps({"output": str(output), **results}))


if __name__ == "__main__":
    flags.DEFINE_enum("recipe", "alfworld-small", sorted(RECIPES), "Which recipe.")
    flags.DEFINE_string("output", "", "Where to write it; empty: the package's assets.")
    sys.exit(app.run(main))
