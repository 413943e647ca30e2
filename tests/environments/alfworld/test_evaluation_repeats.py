"""Evaluations on real games repeat with any concurrency, workers and file order."""

import importlib.util
import random
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from programs import get_config

from reskill_jax import build
from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.evaluate import evaluate
from reskill_jax.report.logbook import episode_line
from reskill_jax.rollout.context import EmptyContext

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="the extra `alfworld` is not installed",
)
SPLITS = ("valid_seen", "valid_unseen")


def play(root, concurrency, workers):
    """Return the panels' labels, the figures, and all that was said and seen."""
    config = get_config()
    config.policy.path = "random:tiny"
    config.env.root, config.env.workers = str(root), workers
    config.rollout.concurrency = concurrency
    config.rollout.max_turns, config.rollout.max_tokens = 3, 8
    config.eval.splits, config.eval.max_tasks = SPLITS, 4
    with ExitStack() as resources:
        environment = build.load_environment(config)
        panels = build.load_panels(config, environment).held_out
        policy = build.load_policy(config)
        engine, _ = build.make_engine(config, policy, policy.params, 0, resources)
        collector = build.make_collector(config, environment, policy, engine, resources)
        metrics, episodes, _ = evaluate(
            collector, panels, EmptyContext(), build.sampling(config), 0.0
        )
    kept = {k: v for k, v in metrics.items() if not k.startswith(("time/", "speed/"))}
    logprobs = [t.logprobs.tobytes() for e in episodes for t in e.turns]
    lines = [episode_line(episode, 0) for episode in episodes]
    return [panel.label for panel in panels.values()], kept, lines, logprobs


@pytest.fixture(scope="module")
def houses():
    return cached_houses("small", train=4, held_out=4, seed=0, workers=2)


def test_it_is_the_same_with_any_concurrency_workers_and_order_of_files(
    houses, tmp_path
):
    games = sorted(Path(houses).glob("json_2.1.1/*/*/*"))
    random.Random(0).shuffle(games)
    for game in games:
        shutil.copytree(game, tmp_path / game.relative_to(houses))
    first = play(houses, 1, 1)
    assert len(first[2]) == 8
    assert len({line["responses"][0] for line in first[2]}) > 1
    for root, concurrency, workers in (
        (houses, 7, 3),
        (houses, 64, 1),
        (tmp_path, 64, 3),
    ):
        assert play(root, concurrency, workers) == first
