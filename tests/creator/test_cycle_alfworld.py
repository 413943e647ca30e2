"""The creator's whole cycle on episodes of the real ALFWorld engine.

A player that leaves closed things closed loses; a model behind HTTP reads its episodes
and proposes to open them; the trial finds that this helps the same player.
"""

import importlib.util
import json
import random

import numpy as np
import pytest

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")
if importlib.util.find_spec("alfworld") is None:
    pytest.skip(
        "needs the extra alfworld: pip install '.[alfworld]'", allow_module_level=True
    )

from llm_cases import GOOD, creator, draft

from reskill_jax.benchmarks.llm_server import LlmServer
from reskill_jax.creator.background import Background
from reskill_jax.creator.reservoir import Reservoir
from reskill_jax.environments.alfworld.environment import (
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.games import cached_houses
from reskill_jax.laboratory.demonstrator import (
    DemonstrationSettings,
    Demonstrator,
    MistakeRates,
)
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies.reskill import ReSkill
from reskill_jax.trials.trial_config import TrialConfig

NO_TOKENS = np.zeros(1, np.int32)
TASKS, GROUP, MAX_TURNS = 6, 8, 12
RULE = "open-what-is-closed"  # the player knows this rule when it is shown
# Leaves almost everything closed, and sometimes goes astray; otherwise an expert.
PLAYER = DemonstrationSettings(habits=MistakeRates(0.95, 0.0, 0.1, 0.0, 0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("RESKILL_CACHE", str(tmp_path_factory.mktemp("cache")))
    root = cached_houses("small", train=TASKS, held_out=0, seed=0, workers=1)
    patch.undo()
    environment = AlfworldEnvironment()
    yield environment, find_games(str(root), "train")
    environment.close()


def play(environment, plan, group, index, seed):
    task, arm = plan.tasks[group], int(plan.arms[group, index])
    bank = plan.contexts[arm].bank
    goal, now = environment.reset(task)
    player = Demonstrator(task, now, bank, PLAYER, random.Random(seed))
    episode = Episode(task, group, index, arm, bank.hash, goal=goal)
    while not now.done and len(episode.turns) < MAX_TURNS:
        action = player.advise()
        active_skills = tuple(skill.name for skill in player.skills)
        episode.turns.append(
            Turn(
                0, 0, NO_TOKENS, NO_TOKENS, NO_TOKENS, 0,
                now.text, f"<action>{action}</action>", action, True, active_skills,
            )
        )  # fmt: skip
        now = environment.step(action)
        player.follow(action, now)
    episode.final_observation, episode.success = now.text, now.success
    return episode


def play_step(houses, strategy, step):
    environment, tasks = houses
    plan = strategy.plan(step, lambda count: tasks[:count])
    episodes = [
        play(environment, plan, group, index, f"{step}/{group}/{index}")
        for group, index in np.ndindex(TASKS, GROUP)
    ]
    return strategy.observe(step, episodes), episodes


def test_from_lost_games_to_an_accepted_skill(houses, tmp_path):
    asked = []

    def script(stage, prompt):
        asked.append((stage, prompt))
        if stage != "drafts":
            return json.dumps(GOOD[stage])
        drafts = [prompt for name, prompt in asked if name == "drafts"]
        if len(drafts) == 1:  # a trigger that no action of these games matches
            return draft(name=RULE, pattern="^fly to ")
        return draft(name=RULE)

    with LlmServer(script) as server:
        strategy = ReSkill(
            Background(creator(server.url, tmp_path / "calls.jsonl"), 1),
            TrialConfig(max_steps=8),
            bank=SkillBank(),
            max_skills=4,
            tasks_per_step=TASKS,
            group_size=GROUP,
            reservoir=Reservoir(200),
            reservoir_min=4,
            seed=0,
        )
        metrics, rates, decided = [], [], ()
        while not decided and len(metrics) < 12:
            learned, episodes = play_step(houses, strategy, len(metrics) + 1)
            metrics.append(learned.metrics)
            decided = learned.decisions
            rates.append(np.mean([episode.success for episode in episodes]))
        stages = server.stages()

    [trial] = decided
    assert trial["accepted"]
    assert trial["contrast"]["effect"] > 0.2
    assert [skill.name for skill in strategy.incumbent.bank.skills] == [RULE]

    # The model has read what happened in the games, and why its first draft failed.
    groups = sum(stage == "analysis" for stage, _ in asked)
    assert 2 <= groups <= TASKS
    cycle = ["analysis"] * groups + ["diagnosis", "advice", "drafts", "drafts"]
    assert stages[: len(cycle)] == cycle
    assert sum(line.get("creator/calls", 0) for line in metrics[:2]) == len(cycle)
    assert sum(line.get("creator/rejected/trigger_rate", 0) for line in metrics) == 1
    analyses = [prompt for stage, prompt in asked if stage == "analysis"]
    assert any("is closed" in prompt for prompt in analyses)
    assert "fly to" not in asked[groups + 2][1]
    assert "fly to" in asked[groups + 3][1]

    # With the skill accepted, the same player wins more of the same games.
    _, episodes = play_step(houses, strategy, 99)
    now = [e.success for e in episodes if e.context == strategy.incumbent.hash]
    assert np.mean(now) > rates[0] + 0.2
