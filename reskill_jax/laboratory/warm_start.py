"""Make a warm-started policy out of demonstrations, once per recipe.

The result is a Hugging Face directory with the recipe and its held-out loss beside the
weights. Results are looked for among those that ship with the package, then in the
cache, and made only if neither has it:

    python -m reskill_jax.laboratory.warm_start --recipe=alfworld-small --output=DIR

A policy learns from demonstrations, then also from what it does itself: from time to
time it plays with skills drawn at random, and the demonstrator says at every turn what
should have been done. Training is stored before each such round (`DIR.partial`), and
the same command goes on from there.
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
from reskill_jax.environments.alfworld.rules import RULES
from reskill_jax.environments.alfworld.wordings import BRIEF
from reskill_jax.environments.protocol import Task
from reskill_jax.grpo.optimizer import init_state
from reskill_jax.grpo.packing import PackedBatch
from reskill_jax.grpo.scoring import make_logprobs
from reskill_jax.grpo.supervised import fit, make_supervised_update, mean_loss
from reskill_jax.laboratory.collect import (
    correct_all,
    demonstrate_all,
    find_houses,
    play,
)
from reskill_jax.laboratory.demonstrator import Attempt, Demonstration
from reskill_jax.laboratory.fitting import (
    as_episode,
    as_text,
    make_optimizer,
    pack_episodes,
)
from reskill_jax.laboratory.recipe import RECIPES, Phase, Recipe
from reskill_jax.laboratory.shuffle import Names
from reskill_jax.policy.decoder import Params, init
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.policy.weights import save
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.prompts import PromptBuilder, render_note
from reskill_jax.storage import cache_directory

SHIPPED = Path(__file__).parent / "assets" / "warm_start"


def obtain(recipe: Recipe, *, workers: int, retrain: bool = False) -> Path:
    """Return the directory of the recipe's policy, making it if there is none."""
    made = cache_directory() / "warm_start" / recipe.hash
    if not retrain:
        for directory in (SHIPPED / recipe.hash, made):
            if (directory / "recipe.json").is_file():
                return directory
    print(f"making the warm start {recipe.hash} once, into {made}", flush=True)
    make(recipe, made, workers=workers)
    return made


def make(recipe: Recipe, output: Path, *, workers: int) -> dict[str, float]:
    """Demonstrate, train and write; `output` appears whole or not at all."""
    tasks = find_houses(recipe, workers=workers)
    times = recipe.episodes, recipe.seed
    fluent = demonstrate_all(tasks, recipe.fluent, *times, workers=workers)
    taught = demonstrate_all(tasks, recipe.teaching, *times, workers=workers)
    held_out, taught = taught[: recipe.held_out], taught[recipe.held_out :]
    tokenizer = train_tokenizer(_texts(taught), recipe.shape.vocab_size)
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
    """Train through the recipe's stretches, from the last one that is stored."""
    fluent, taught = demonstrations
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    prompts = recipe.prompts(tokenizer)
    names = Names.of(taught)
    tx = make_optimizer(recipe.schedule())
    update = make_supervised_update(make_logprobs(decoder), tx)
    state = init_state(init(decoder, jax.random.key(recipe.seed)), tx)
    done = 0
    rounds: list[list[Attempt]] = []
    with closing(Checkpointer(stored, keep=1)) as checkpointer:
        if restored := checkpointer.restore(state):
            done, state, host = restored
            rounds = _read_rounds(host["rounds"], tasks)
        for stretch in recipe.stretches():
            if stretch.end <= done:
                continue
            if stretch.plays:
                policy = decoder, state.params, tokenizer
                seed = recipe.seed * 10_000 + stretch.begin
                played = play(recipe, tasks, seed, policy, workers=workers)
                rounds = [*rounds, played][-recipe.memory :]
            attempts = [attempt for played in rounds for attempt in played]
            practised = correct_all(attempts, recipe.teaching, workers=workers)
            pools = fluent, taught, practised

            def batches(
                step: int, phase: Phase = stretch.phase, pools: _Pools = pools
            ) -> list[PackedBatch]:
                rng = random.Random(f"{recipe.seed}/{step}")
                return pack_episodes(draw_episodes(rng, phase, pools, names, prompts))

            steps = range(stretch.begin, stretch.end)
            state = fit(update, state, steps, batches)
            document = [[_plain(attempt) for attempt in played] for played in rounds]
            checkpointer.save(stretch.end, state, {"rounds": document})
            done = stretch.end
    return state.params


# Fluent, taught and practised episodes.
_Pools = tuple[
    Sequence[Demonstration], Sequence[Demonstration], Sequence[Demonstration]
]


def draw_episodes(
    rng: random.Random,
    phase: Phase,
    pools: _Pools,
    names: Names,
    prompts: PromptBuilder,
) -> list[Episode]:
    """Draw what one step learns from."""

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


def _plain(attempt: Attempt) -> list[object]:
    return [attempt.task.id, attempt.seed, list(attempt.actions)]


def _read_rounds(
    document: Sequence[Sequence[tuple[str, int, Sequence[str]]]],
    tasks: Sequence[Task],
) -> list[list[Attempt]]:
    by_id = {task.id: task for task in tasks}
    return [
        [Attempt(by_id[task], seed, tuple(actions)) for task, seed, actions in played]
        for played in document
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
            yield render_note(BRIEF, rule.skill(wording)) * 50


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
