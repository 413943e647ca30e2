"""The benchmark of the main job asks for what was played, and nothing else."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest

from reskill_jax.benchmarks import job
from reskill_jax.environments.protocol import Task
from reskill_jax.rollout.episode import Episode, Turn


class Recorder:
    """An engine that only listens."""

    def __init__(self):
        self.asked = []

    def push(self, params, version):
        self.asked.clear()

    async def generate(self, request):
        await asyncio.sleep(0)
        self.asked.append(request)


@pytest.mark.parametrize("flat", [False, True])
def test_all_turns_are_asked_for_and_flat_ones_share_no_prefix(flat):
    trunk = np.arange(10, 17, dtype=np.int32)
    turns = [
        Turn(
            0, 3 + i, np.array([20 + i], np.int32), np.array([30, 31], np.int32),
            np.zeros(2, np.float32), 0, "", "", "", True,
        )
        for i in range(3)
    ]  # fmt: skip
    task = Task("t", "", "", "")
    episodes = [Episode(task, 0, i, 0, "", "", [trunk], turns) for i in range(2)]
    engine = Recorder()
    config = SimpleNamespace(vocab_size=64)
    policy = SimpleNamespace(params=None, config=config, join=lambda params: params)
    job.play_again(engine, episodes, policy, flat=flat)
    assert [len(r.prompt) for r in engine.asked] == [4, 4, 5, 5, 6, 6]
    assert {r.sampling.max_tokens for r in engine.asked} == {2}
    assert len({r.seed for r in engine.asked}) == 6
    assert len({r.prompt[0] for r in engine.asked}) == (6 if flat else 1)
    assert engine.asked[0].prompt[1:] == [11, 12, 20]
