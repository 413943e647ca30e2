"""A real chat model plays, with its own template, through the real engine."""

import asyncio
from contextlib import ExitStack

import numpy as np
import pytest
from real_model import smollm2
from test_search_run import config

from reskill_jax import build
from reskill_jax.rollout.collector import greedy
from reskill_jax.rollout.context import EmptyContext

KEYS = {
    "prompt.wording": "full", "prompt.max_tokens": 1536, "rollout.max_tokens": 48,
    "engine.max_sequences": 2, "engine.block_size": 128, "engine.prefill_rows": 2,
    "engine.decode_rows": 2,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_real_model_plays_two_episodes(capsys):
    c = config()
    c.update_from_flattened_dict(KEYS | {"policy.path": str(smollm2())})
    with ExitStack() as resources:
        environment = build.load_environment(c)
        policy = build.load_policy(c)
        engine, _ = build.make_engine(c, policy, policy.params, 0, resources)
        collector = build.make_collector(c, environment, policy, engine, resources)
        tasks = environment.panel("train", 2).tasks
        played = asyncio.run(
            collector.collect(
                tasks,
                np.zeros((2, 1), int),
                [EmptyContext()],
                sampling=greedy(build.sampling(c)),
                seed=0,
            )
        )
    decode = policy.tokenizer.decode
    for episode in played:
        turn = episode.turns[-1]
        prompt = [*episode.trunks[turn.window][: turn.trunk_length], *turn.branch]
        text = decode(prompt)
        print(text, *(f"[{t.valid}] {t.text}" for t in episode.turns), sep="\n")
        assert text.startswith("system\nYou are a helpful AI")  # its own template
        assert text.endswith("assistant\n")
        assert episode.goal in text
        assert 1 <= len(episode.turns) <= c.rollout.max_turns
        for turn in episode.turns:
            action = environment.action_format.parse(turn.text)
            assert turn.action == action.text
            assert turn.valid <= action.well_formed
        # It writes sentences, and ends most of them by itself.
        assert all(turn.text.strip() for turn in episode.turns)
    assert any(turn.stopped for episode in played for turn in episode.turns)
