"""Figures of played episodes, against counting by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.environments.task import Task
from reskill_jax.rollout.collector import rollout_metrics
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.rollout.metrics import group_metrics, length_metrics, pass_at_k
from reskill_jax.rollout.prefetch import Batch

NOTHING = np.zeros(0, np.int32)


def turn(tokens, stopped=True):
    return Turn(
        window=0,
        trunk_length=0,
        branch=NOTHING,
        response=np.zeros(tokens, np.int32),
        logprobs=np.zeros(tokens, np.float32),
        version=0,
        observation="",
        text="",
        action="",
        valid=True,
        stopped=stopped,
    )


def group(number, rewards, kind="look", arms=None, turns=()):
    """Episodes of one task; they succeed where the reward is 1."""
    return [
        Episode(
            Task(f"task-{number}", kind, "train", ""),
            group=number,
            index=i,
            arm=arms[i] if arms else 0,
            context="",
            reward=reward,
            success=reward == 1,
            turns=list(turns),
        )
        for i, reward in enumerate(rewards)
    ]


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_success(won, data):
    k = data.draw(st.integers(1, len(won)))
    subsets = list(combinations(won, k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(len(won), sum(won), k) == pytest.approx(share, abs=1e-12)


@pytest.mark.parametrize(("n", "k", "p"), [(8, 1, 0.3), (8, 4, 0.1), (5, 5, 0.7)])
def test_pass_at_k_is_unbiased(n, k, p):
    chances = [math.comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = sum(w * pass_at_k(n, c, k) for c, w in enumerate(chances))
    assert mean == pytest.approx(1 - (1 - p) ** k)


@pytest.mark.parametrize("k", [0, 4])
def test_pass_at_k_needs_as_many_samples(k):
    with pytest.raises(ValueError, match=f"k={k}: choose from 1 to samples=3"):
        pass_at_k(3, 1, k)


def test_groups_of_a_batch():
    episodes = [
        *group(0, [1, 1, 1, 1, 1]),
        *group(1, [0, 0, 0, 0], "heat"),
        # Graded, equal but for the order of its parts, none solved.
        *group(2, [0.1 + 0.2 + 0.3, 0.3 + 0.2 + 0.1, 0.6, 0.6], "heat"),
        *group(3, [0, 1, 0, 0.5]),
    ]
    metrics = group_metrics(episodes)
    rewards = [e.reward for e in episodes]
    mean = sum(rewards) / 17
    deviation = math.sqrt(sum((r - mean) ** 2 for r in rewards) / 17)
    assert metrics == pytest.approx(
        {
            "rollout/reward_std": deviation,
            "rollout/frac_reward_zero_std": 3 / 4,
            "rollout/solve_all": 1 / 4,
            "rollout/solve_none": 2 / 4,
            # k goes to the smallest group: 4.
            "rollout/pass@1": (1 + 0 + 0 + 1 / 4) / 4,
            "rollout/pass@2": (1 + 0 + 0 + 1 / 2) / 4,
            "rollout/pass@4": (1 + 0 + 0 + 1) / 4,
            "rollout/success/heat": 0,
            "rollout/success/look": 6 / 9,
        }
    )
    assert all(type(value) is float for value in metrics.values())


def test_arms_of_a_trial_are_pooled():
    apart = [*group(0, [1, 0, 1, 0], arms=[0, 1, 0, 1]), *group(1, [0, 0, 0, 1])]
    alike = [*group(0, [1, 0, 1, 0]), *group(1, [0, 0, 0, 1])]
    assert group_metrics(apart) == group_metrics(alike)


def test_lengths_per_turn_and_per_episode():
    episodes = [
        *group(0, [1], turns=[turn(3), turn(9, stopped=False), turn(4)]),
        *group(1, [0], turns=[turn(8)]),
        *group(2, [0]),  # over before its first turn
    ]
    assert length_metrics(episodes, "unseen") == pytest.approx(
        {
            "unseen/response_length/mean": 24 / 4,
            "unseen/response_length/max": 9,
            "unseen/response_length/clip_ratio": 1 / 4,
            "unseen/episode_length/mean": 24 / 3,
            "unseen/episode_length/max": 16,
            "unseen/episode_length/clip_ratio": 1 / 3,
        }
    )
    no_turns = length_metrics(group(0, [0]), "rollout")
    assert set(no_turns.values()) == {0.0}


def test_a_batch_tells_all_of_them_and_what_environments_say_wins():
    episodes = group(0, [1, 0], turns=[turn(2)])
    for episode in episodes:
        episode.scores = {"solve_all": 0.25}
    metrics = Batch(episodes, (0,), 1.0).metrics(version=0)
    wanted = rollout_metrics(episodes, 1.0) | group_metrics(episodes)
    assert metrics.keys() > wanted.keys()
    assert metrics["rollout/solve_all"] == 0.25
    assert metrics["rollout/pass@2"] == 1
    assert Batch([], (), 1.0).metrics(version=0).keys() == {
        "rollout/failed_groups", "rollout/staleness", "time/wait", "time/rollout",
    }  # fmt: skip
