"""Plays methods of `strategies` without an engine: outcomes follow from the prompt."""

import asyncio
import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.environments.panels import TaskPanel, TaskStream
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.memories.desk import Desk
from reskill_jax.memories.settings import METHODS
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.rollout.context import context_to_json, open_context
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.skill import SkillBank
from reskill_jax.strategies import find_strategy

NO_TOKENS = np.zeros(1, np.int32)
KINDS = ("put", "heat")
GOALS = (
    "put a mug in the shelf",
    "heat an egg and put it in the fridge",
    "put a fork in the drawer",
    "heat a potato and put it on the table",
    "put an apple in the bin",
    "heat a mug and put it in the sink",
)


def tasks(count=6):
    return tuple(
        Task(f"train/{k}", KINDS[k % 2], "train", GOALS[k % len(GOALS)])
        for k in range(count)
    )


def panel_tasks(split, limit):
    """Tasks of another split, of the same kinds."""
    return tuple(
        replace(task, id=f"{split}/{k}", split=split)
        for k, task in enumerate(tasks(6 if limit is None else limit))
    )


def setup(
    bank=None,
    group_size=4,
    tasks_per_step=3,
    seed=1,
    desk=None,
    frozen=False,
    **methods,
):
    """A setup with the default settings but for `methods`: section -> values."""
    settings = {name: encode(kind()) for name, kind in METHODS.items()}
    for name, values in methods.items():
        settings[name] |= values
    return SimpleNamespace(
        settings=settings,
        seed=seed,
        num_steps=20,
        tasks_per_step=tasks_per_step,
        group_size=group_size,
        resources={},
        frozen=frozen,
        split="train",
        panel=lambda split, limit: TaskPanel(panel_tasks(split, limit)),
        load_bank=lambda: bank or SkillBank(),
        make_desk=desk or (lambda work, wait: Desk(OfflineWriter(), work, wait=wait)),
    )


def make(name, **options):
    return find_strategy(name)(setup(**options))


def opening(context, task):
    """What an episode of a task begins with."""
    now = Observation(f"You are in a room with a {task.source.split()[-1]}.")
    return asyncio.run(context.begin(task, task.source, now)).opening


def chance(task, text, seed):
    digest = hashlib.sha256(f"{task.id}{text}{seed}".encode()).digest()
    return digest[0] / 256


class Game:
    """Plays plans; what is drawn follows from how many were drawn before."""

    def __init__(self, strategy, won=None, count=6):
        self.strategy = strategy
        self.won = won or (lambda task, text, seed: chance(task, text, seed) < 0.4)
        self.stream = TaskStream(TaskPanel(tasks(count)), 0)
        self.plans = []
        self.openings = []

    def episode(self, plan, group, index, step):
        task, arm = plan.tasks[group], int(plan.arms[group, index])
        context = plan.contexts[arm]
        text = opening(context, task)
        self.openings.append(text)
        success = bool(self.won(task, text, (step, index)))
        room = f"You are in a room with a {task.source.split()[-1]}."
        actions = ("look", "go to shelf 1", "take mug 1") if success else ("look",) * 3
        turns = [
            Turn(0, 0, NO_TOKENS, NO_TOKENS, NO_TOKENS, 0, seen, action, action, True)
            for seen, action in zip((room, "a shelf", "a mug"), actions, strict=True)
        ]  # fmt: skip
        return Episode(
            task, group, index, arm, context.hash, task.source,
            turns=turns, final_observation="end", success=success,
        )  # fmt: skip

    def step(self, step, dropped=()):
        plan = self.strategy.plan(step, self.stream.draw)
        self.plans.append(plan)
        episodes = [
            self.episode(plan, group, index, step)
            for group, index in np.ndindex(*plan.arms.shape)
            if plan.arms[group, index] >= 0 and group not in dropped
        ]
        return self.strategy.observe(step, episodes)

    def run(self, steps, start=1):
        return [self.step(step) for step in range(start, start + steps)]


def resumed(strategy, fresh):
    """A fresh strategy in the state of another, by way of JSON text."""
    fresh.restore(json.loads(json.dumps(strategy.state())))
    return fresh


def travelled(context):
    """A context as another process opens it."""
    return open_context(json.loads(json.dumps(context_to_json(context))), {})


def same(state, kind):
    return decode(kind, encode(state))
