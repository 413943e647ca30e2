"""A real chat model plays, with its chat template, on the real engine.

It is too small to win; what it is asked must be clear enough for it to act at all.
"""

import asyncio
import importlib.util
from contextlib import ExitStack

import numpy as np
import pytest
from programs import get_config
from real_model import smollm2

from reskill_jax import build
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.validate import validate

SMALL = {
    "policy.dtype": "float32",
    "env.workers": 1,
    "mesh.fsdp": 1,
    "prompt.max_tokens": 1536,
    "rollout.max_turns": 2,
    "rollout.max_tokens": 48,
    "rollout.concurrency": 2,
    "engine.max_sequences": 2,
    "engine.decode_rows": 2,
    "eval.splits": ("test",),
    "eval.max_tasks": 2,
    "grpo.buckets": (2048,),
    "grpo.tokens_per_microbatch": 2048,
}
ENVIRONMENTS = {
    "sql": {"env.sample": True},
    "scienceworld": {"env.tasks": "short", "env.heap_mb": 512},
    "wands": {"env.synthetic": True, "eval.splits": ("synthetic",)},
    "alfworld": {
        "env.houses": "small",
        "env.houses_train": 1,
        "env.houses_eval": 2,
        "eval.splits": ("valid_seen",),
    },
}


def play(name):
    """Play two episodes, greedily; print and return them."""
    config = get_config("", name)
    config.update_from_flattened_dict(SMALL | ENVIRONMENTS[name])
    config.policy.path = str(smollm2())
    config.rollout.temperature = 0.0
    validate(config)
    with ExitStack() as resources:
        environment = build.load_environment(config)
        (panel,) = build.load_panels(config, environment).held_out.values()
        policy = build.load_policy(config)
        engine, _ = build.make_engine(config, policy, policy.params, 0, resources)
        collector = build.make_collector(config, environment, policy, engine, resources)
        episodes = asyncio.run(
            collector.collect(
                panel.tasks,
                np.zeros((len(panel), 1), np.int32),
                (EmptyContext(),),
                sampling=build.sampling(config),
                seed=0,
            )
        )
        tokenizer = policy.tokenizer
    for episode in episodes:  # shown by pytest -s: read them
        print(f"\n==== {episode.task.id}: {episode.reward} {episode.scores}")
        for turn in episode.turns:
            start = episode.trunks[turn.window][: turn.trunk_length]
            print(f"---- prompt\n{tokenizer.decode([*start, *turn.branch])}")
            print(f"---- response, valid: {turn.valid}\n{turn.text}")
    return episodes


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_a_real_model_plays_two_episodes(name):
    extra = name in ("alfworld", "scienceworld")
    if extra and importlib.util.find_spec(name) is None:
        pytest.skip(f"the extra `{name}` is not installed")
    episodes = play(name)
    assert len(episodes) == 2
    turns = [turn for episode in episodes for turn in episode.turns]
    assert all(len(episode.turns) == 2 or episode.success for episode in episodes)
    assert all(turn.text.strip() for turn in turns)
    # In the other worlds it says what it would do, but not in the form of the example.
    assert any(turn.valid for turn in turns) or name not in ("sql", "wands")
