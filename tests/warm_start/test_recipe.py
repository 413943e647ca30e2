"""The warm start: recipes run, and the shipped policy is what its recipe makes."""

import importlib.util
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from reskill_jax import cache
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.policy.weights import load
from reskill_jax.rollout.prompts import WORDINGS, render_skill

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)


@pytest.fixture(scope="module")
def recipes():
    from reskill_jax.warm_start import recipe

    return recipe


@pytest.fixture(scope="module")
def small(recipes):
    teaching = replace(recipes.Teaching(), skilled=1.0)
    shape = recipes.Shape(
        vocab_size=500, hidden_size=32, intermediate_size=64, layers=1, heads=2
    )
    return recipes.Recipe(
        num_houses=4, episodes=2, held_out=2, teaching=teaching, shape=shape,
        phases=(recipes.Phase(10, 1e-2, text=1, fluent=1, taught=2, shuffled=0.5),),
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(recipes, small, tmp_path_factory):
    directory = tmp_path_factory.mktemp("cache")
    patch = pytest.MonkeyPatch()
    patch.setenv("RESKILL_CACHE", str(directory))
    yield recipes.obtain(small, workers=1), directory
    patch.undo()


def test_a_recipe_is_made_once_and_leaves_a_policy_that_learnt(recipes, small, made):
    directory, root = made
    assert directory == root / "warm_start" / small.hash
    document = json.loads((directory / "recipe.json").read_text())
    assert document["recipe"] == json.loads(json.dumps(asdict(small)))
    uniform = np.log(load(directory)[0].vocab_size)
    assert document["results"]["held_out_loss"] < 0.95 * uniform
    stamp = (directory / "recipe.json").stat().st_mtime_ns
    assert recipes.obtain(small, workers=1) == directory
    assert (directory / "recipe.json").stat().st_mtime_ns == stamp


def test_demonstrations_become_the_prompts_that_rollouts_have(recipes, small, made):
    tokenizer = Tokenizer.load(made[0])
    prompts = small.prompts(tokenizer)
    demonstrations = recipes.collect(small, small.teaching, workers=1)
    assert demonstrations == recipes.collect(small, small.teaching, workers=1)
    for demonstration in demonstrations:
        episode = recipes.as_episode(prompts, demonstration)
        imitated = [moment for moment in demonstration.moments if moment.imitated]
        for moment, turn in zip(imitated, episode.turns, strict=True):
            trunk = episode.trunks[turn.window][: turn.trunk_length]
            prompt = tokenizer.decode([*trunk, *turn.branch])
            assert moment.observation in prompt
            for skill in moment.skills:
                assert render_skill(WORDINGS["brief"], skill) in prompt
            response = f"<action>{moment.action}</action>"
            assert tokenizer.decode(turn.response) == response
            assert turn.response[-1] == tokenizer.eos_id


def test_the_shipped_policy_is_the_one_that_its_recipe_makes(recipes, made):
    """Same recipe, same demonstrations, and on those the loss that was recorded."""
    recipe = recipes.RECIPES["alfworld-small"]
    directory = recipes.SHIPPED / recipe.hash
    document = json.loads((directory / "recipe.json").read_text())
    assert document["recipe"] == json.loads(json.dumps(asdict(recipe)))
    assert cache.cache_directory() == made[1]
    houses = -(-recipe.held_out // recipe.episodes)
    held_out = recipes.collect(recipe, recipe.teaching, workers=2, limit=houses)[
        : recipe.held_out
    ]
    decoder, params = load(directory)
    prompts = recipe.prompts(Tokenizer.load(directory))
    episodes = [recipes.as_episode(prompts, d) for d in held_out]
    loss = recipes.held_out_loss(decoder, params, episodes)
    assert loss == pytest.approx(document["results"]["held_out_loss"], rel=1e-3)
