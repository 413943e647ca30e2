"""The warm start: recipes run, and the shipped policy is what its recipe makes."""

import importlib.util
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from reskill_jax.environments.alfworld.wordings import BRIEF
from reskill_jax.laboratory.demonstrator import DemonstrationSettings
from reskill_jax.laboratory.recipe import (
    RECIPES,
    Recipe,
    Shape,
    TrainingPhase,
)
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load
from reskill_jax.rollout.demonstration import as_episode
from reskill_jax.rollout.prompts import render_note
from reskill_jax.storage import cache_directory

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)


@pytest.fixture(scope="module")
def warm_start():
    from reskill_jax.laboratory import warm_start

    return warm_start


@pytest.fixture(scope="module")
def small():
    shape = Shape(
        vocab_size=500, hidden_size=32, intermediate_size=64, layers=1, heads=2
    )
    return Recipe(
        num_houses=4, episodes=2, held_out=2, attempts=3, memory=1, shape=shape,
        teaching=replace(DemonstrationSettings(), skilled=1.0, max_turns=5),
        learning_rate=1e-2, warmup=1, decay=3,
        phases=(TrainingPhase(6, text=1, fluent=1, taught=1),
                TrainingPhase(4, taught=1, practised=1, rounds=2, shuffled=0.5)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(warm_start, small, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("RESKILL_CACHE", str(directory))
    yield warm_start.find_or_train(small, workers=1), directory
    patch.undo()


@pytest.mark.slow
def test_a_recipe_is_made_once_and_leaves_a_policy_that_learnt(warm_start, small, made):
    directory, root = made
    assert directory == root / "warm_start" / small.hash
    document = json.loads((directory / "recipe.json").read_text())
    assert document["recipe"] == json.loads(json.dumps(asdict(small)))
    uniform = np.log(load(directory)[0].vocab_size)
    assert document["results"]["held_out_loss"] < 0.95 * uniform
    stamp = (directory / "recipe.json").stat().st_mtime_ns
    assert warm_start.find_or_train(small, workers=1) == directory
    assert (directory / "recipe.json").stat().st_mtime_ns == stamp
    assert not directory.with_name(f"{directory.name}.partial").exists()


@pytest.mark.slow
def test_training_goes_on_where_it_was_killed(
    warm_start, small, made, tmp_path, monkeypatch
):
    """Killed in the second round of practice: the same weights, bit for bit."""
    output = tmp_path / "out"
    fit = warm_start.fit

    def killed(update, state, steps, episodes):
        if 8 in steps:
            raise KeyboardInterrupt
        return fit(update, state, steps, episodes)

    monkeypatch.setattr(warm_start, "fit", killed)
    with pytest.raises(KeyboardInterrupt):
        warm_start.train_policy(small, output, workers=1)
    assert not output.exists()
    seen = []

    def watched(update, state, steps, episodes):
        seen.extend(steps)
        return fit(update, state, steps, episodes)

    monkeypatch.setattr(warm_start, "fit", watched)
    warm_start.train_policy(small, output, workers=1)
    assert seen == [8, 9]
    weights = "model.safetensors"
    assert (output / weights).read_bytes() == (made[0] / weights).read_bytes()


def test_segments_cover_all_steps_and_play_before_every_round(small):
    segments = small.segments()
    assert [(s.begin, s.end, s.plays) for s in segments] == [
        (0, 6, False), (6, 8, True), (8, 10, True)
    ]  # fmt: skip
    recipe = RECIPES["alfworld-small"]
    rate = recipe.schedule()
    assert rate(0) == 0.0
    assert rate(recipe.warmup) == rate(recipe.steps - recipe.decay)
    assert rate(recipe.warmup) == pytest.approx(recipe.learning_rate)
    middle = rate(recipe.steps - recipe.decay // 2)
    assert middle == pytest.approx(recipe.learning_rate / 2)


def demonstrations(small, **kwargs):
    from reskill_jax.laboratory.collect import demonstrate_all, find_tasks

    tasks = find_tasks(small, workers=1)[: kwargs.pop("houses", None)]
    return demonstrate_all(tasks, small.teaching, small.episodes, small.seed, workers=1)


@pytest.mark.slow
def test_demonstrations_become_the_prompts_that_rollouts_have(small, made):
    tokenizer = Tokenizer.load(made[0])
    prompts = small.prompts(tokenizer)
    shown = demonstrations(small)
    assert shown == demonstrations(small)
    for demonstration in shown:
        episode = as_episode(prompts, demonstration)
        taught = [t for t in demonstration.turns if t.response is not None]
        for shown_turn, turn in zip(taught, episode.turns, strict=True):
            trunk = episode.trunks[turn.window][: turn.trunk_length]
            prompt = tokenizer.decode([*trunk, *turn.branch])
            assert shown_turn.observation.text in prompt
            assert demonstration.goal in prompt
            for skill in shown_turn.skills:
                assert render_note(BRIEF, skill) in prompt
            assert tokenizer.decode(turn.response) == shown_turn.response
            assert turn.response[-1] == tokenizer.eos_id


@pytest.mark.slow
def test_the_shipped_policy_is_the_one_that_its_recipe_makes(warm_start, made):
    """Same recipe, same demonstrations, and on those the loss that was recorded."""
    recipe = RECIPES["alfworld-small"]
    directory = warm_start.SHIPPED / recipe.hash
    document = json.loads((directory / "recipe.json").read_text())
    assert document["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert cache_directory() == made[1]
    houses = -(-recipe.held_out // recipe.episodes)
    held_out = demonstrations(recipe, houses=houses)[: recipe.held_out]
    decoder, params = load(directory)
    prompts = recipe.prompts(Tokenizer.load(directory))
    episodes = [as_episode(prompts, d) for d in held_out]
    packed = warm_start.pack_episodes(episodes)
    loss = warm_start.mean_loss(warm_start.make_logprobs(decoder), packed, params)
    assert loss == pytest.approx(document["results"]["held_out_loss"], rel=1e-3)


def test_every_shipped_policy_is_of_a_recipe_and_small(warm_start):
    hashes = {recipe.hash: recipe for recipe in RECIPES.values()}
    for directory in warm_start.SHIPPED.iterdir():
        recipe = hashes[directory.name]
        document = json.loads((directory / "recipe.json").read_text())
        assert document["recipe"] == json.loads(json.dumps(asdict(recipe)))
        size = sum(file.stat().st_size for file in directory.iterdir())
        assert size <= 6 * 2**20
        assert document["results"]["held_out_loss"] < 1


def test_the_parts_of_a_joint_recipe_share_their_steps():
    recipe = RECIPES["alfworld-scienceworld"]
    assert [part.world_name for part in recipe.parts] == ["alfworld", "scienceworld"]
    houses, science = (part.segments() for part in recipe.parts)
    assert [(s.begin, s.end) for s in houses] == [(s.begin, s.end) for s in science]
    assert {part.wording for part in recipe.parts} == {recipe.wording}


def test_the_hash_of_a_joint_recipe_holds_what_it_begins_with(monkeypatch):
    recipe = RECIPES["alfworld-scienceworld"]
    before = recipe.hash
    monkeypatch.setitem(RECIPES, "alfworld-small", Recipe(seed=1))
    assert recipe.hash != before
    assert replace(recipe, others=()).hash != recipe.hash
