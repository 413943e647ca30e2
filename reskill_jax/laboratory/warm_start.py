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
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import numpy as np
from absl import flags

from reskill_jax.checkpoint import Checkpointer
from reskill_jax.command_line import start
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
from reskill_jax.laboratory.transplant import transplant
from reskill_jax.laboratory.worlds import Shuffler
from reskill_jax.policy.decoder import Params, init
from reskill_jax.policy.tokenizer import Tokenizer, train_tokenizer
from reskill_jax.policy.weights import load, save
from reskill_jax.rollout.demonstration import Demonstration, as_episode
from reskill_jax.rollout.episode import Episode
from reskill_jax.rollout.prompts import PromptBuilder, render_note
from reskill_jax.storage import cache_directory, replace_directory

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
    parts, held_out = [], []
    for of_world in recipe.parts:
        part, measured = _demonstrated(of_world, workers)
        parts.append(part)
        held_out.append(measured)
    tokenizer = _tokenizer(recipe, parts, workers)
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    partial = output.with_name(f"{output.name}.partial")
    params = _train(recipe, parts, tokenizer, partial / recipe.hash, workers)
    measured_episodes = [
        as_episode(part.recipe.prompts(tokenizer), demonstration)
        for part, measured in zip(parts, held_out, strict=True)
        for demonstration in measured
    ]
    taught = [demonstration for part in parts for demonstration in part.taught]
    results = {
        "held_out_loss": mean_loss(
            make_logprobs(decoder), pack_episodes(measured_episodes), params
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
    replace_directory(whole, output, partial / "old")
    shutil.rmtree(partial)
    return results


@dataclass(frozen=True)
class _Part:
    """A world to learn from: how, its tasks, and two kinds of demonstrations."""

    recipe: Recipe
    tasks: Sequence[Task]
    fluent: Sequence[Demonstration]
    taught: Sequence[Demonstration]
    names: Shuffler


def _demonstrated(recipe: Recipe, workers: int) -> tuple[_Part, list[Demonstration]]:
    """Demonstrate in one world; beside it stand the demonstrations held out."""
    tasks = find_tasks(recipe, workers=workers)
    count, seed = recipe.episodes, recipe.seed
    fluent, taught = (
        demonstrate_all(
            tasks, settings, count, seed, workers=workers, world=recipe.world_name
        )
        for settings in (recipe.fluent, recipe.teaching)
    )
    held_out, taught = taught[: recipe.held_out], taught[recipe.held_out :]
    names = recipe.world.names(taught)
    return _Part(recipe, tasks, fluent, taught, names), held_out


def _tokenizer(recipe: Recipe, parts: Sequence[_Part], workers: int) -> Tokenizer:
    """Return the tokenizer of the policy that goes on, where it fits, or a new one."""
    if recipe.start and recipe.start.shape == recipe.shape:
        return Tokenizer.load(find_or_train(recipe.start, workers=workers))
    texts = (text for part in parts for text in _texts(part.recipe, part.taught))
    return train_tokenizer(texts, recipe.shape.vocab_size)


def _first_params(recipe: Recipe, tokenizer: Tokenizer, workers: int) -> Params:
    """Return the weights that training begins with."""
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    if recipe.start is None:
        return init(decoder, jax.random.key(recipe.seed))
    directory = find_or_train(recipe.start, workers=workers)
    _, params = load(directory)
    return transplant(params, Tokenizer.load(directory), tokenizer)


def _train(
    recipe: Recipe,
    parts: Sequence[_Part],
    tokenizer: Tokenizer,
    stored: Path,
    workers: int,
) -> Params:
    """Train through the recipe's segments, after those that are stored."""
    decoder = recipe.shape.decoder(tokenizer.vocab_size)
    tx = make_optimizer(recipe.schedule())
    update = make_supervised_update(make_logprobs(decoder), tx)
    state = init_state(_first_params(recipe, tokenizer, workers), tx)
    done = 0
    # Of each part: rounds of episodes that the policy played.
    rounds: list[list[list[PlayedEpisode]]] = [[] for _ in parts]
    with closing(Checkpointer(stored, keep=1)) as checkpointer:
        if restored := checkpointer.restore(state):
            done, state, host = restored
            rounds = [
                _read_rounds(document, part.tasks)
                for part, document in zip(parts, host["rounds"], strict=True)
            ]
        for segments in zip(*(part.recipe.segments() for part in parts), strict=True):
            begin, end = segments[0].begin, segments[0].end
            if end <= done:
                continue
            lessons = []
            for k, (part, segment) in enumerate(zip(parts, segments, strict=True)):
                if segment.plays:
                    policy = decoder, state.params, tokenizer
                    seed = recipe.seed * 10_000 + begin
                    played = play(
                        part.recipe, part.tasks, seed, policy, workers=workers
                    )
                    rounds[k] = [*rounds[k], played][-part.recipe.memory :]
                practised = correct_all(
                    [episode for played in rounds[k] for episode in played],
                    part.recipe.teaching,
                    workers=workers,
                    world=part.recipe.world_name,
                )
                pools = part.fluent, part.taught, practised
                prompts = part.recipe.prompts(tokenizer)
                lessons.append((segment.phase, pools, part.names, prompts))

            def batches(
                step: int, lessons: Sequence[_Lesson] = lessons
            ) -> list[PackedBatch]:
                rng = random.Random(f"{recipe.seed}/{step}")
                drawn = [draw_episodes(rng, *lesson) for lesson in lessons]
                return pack_episodes([x for episodes in drawn for x in episodes])

            state = fit(update, state, range(begin, end), batches)
            document = [
                [[_plain(episode) for episode in played] for played in of_part]
                for of_part in rounds
            ]
            checkpointer.save(end, state, {"rounds": document})
            done = end
    return state.params


# Fluent, taught and practised episodes.
_Pools = tuple[
    Sequence[Demonstration], Sequence[Demonstration], Sequence[Demonstration]
]
# What `draw_episodes` draws from, after its generator.
_Lesson = tuple[TrainingPhase, _Pools, Shuffler, PromptBuilder]


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


def main() -> None:
    """Train one recipe's policy."""
    values = flags.FLAGS
    recipe = RECIPES[values.recipe]
    output = Path(values.output)
    results = train_policy(recipe, output, workers=os.cpu_count() or 1)
    print(json.dumps({"output": str(output), **results}))


if __name__ == "__main__":
    flags.DEFINE_enum("recipe", "alfworld-small", sorted(RECIPES), "Which recipe.")
    flags.DEFINE_string(
        "output", None, "Directory to write, replaced if it exists.", required=True
    )
    start(main)
