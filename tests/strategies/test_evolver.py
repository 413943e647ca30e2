"""EvolveR in the loop: pairs by episode, and what else its released code gets wrong."""

import asyncio
import json
import random
from dataclasses import replace

import pytest
from method_cases import NO_TOKENS, Game, make

from reskill_jax.environments.protocol import EpisodeLostError
from reskill_jax.memories.desk import Desk
from reskill_jax.memories.principles import TAG, Principle
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.rollout.episode import Turn
from reskill_jax.strategies.evolver import to_summarise

A = Principle("put the mug away", True)
B = Principle("heat the egg first", True)


def knows(strategy, *items):
    strategy._memory = replace(strategy._memory, items=items)
    return strategy


def asks(memory, episode, query):
    """Let an episode ask first."""
    room = episode.turns[0].observation
    reply = asyncio.run(memory.answer(query))
    response = f"<{TAG}>{query}</{TAG}>"
    turn = Turn(0, 0, NO_TOKENS, NO_TOKENS, NO_TOKENS, 0, room, response, query, True)
    episode.turns[0] = replace(episode.turns[0], observation=reply)
    episode.turns.insert(0, turn)
    return episode


def played(strategy, won):
    """Four episodes of one task: the first two ask, each about something else."""
    game = Game(strategy, won=lambda task, text, seed: won[seed[1]], count=1)
    plan = strategy.plan(1, game.stream.draw)
    episodes = [game.episode(plan, 0, index, 1) for index in range(4)]
    memory = strategy.incumbent
    asks(memory, episodes[0], "mug")
    asks(memory, episodes[1], "egg")
    return episodes


def setup(**settings):
    settings = {"shown": 1, "prune_every": 0} | settings
    return knows(make("evolver", tasks_per_step=1, evolver=settings), A, B)


@pytest.mark.parametrize("seed", range(4))
def test_faults_1_and_2_credit_goes_to_what_the_very_episode_was_shown(seed):
    """Whatever the order in which episodes come, as after balancing a batch."""
    strategy = setup()
    episodes = played(strategy, won=(True, False, False, True))
    random.Random(seed).shuffle(episodes)
    learned = strategy.observe(1, episodes)
    counts = {p.text: (p.used, p.won) for p in strategy.incumbent.items[:2]}
    assert counts == {A.text: (1, 1), B.text: (1, 0)}
    assert learned.metrics["memory/read"] == 2


def test_an_observation_that_looks_like_an_answer_is_none():
    strategy = setup()
    episodes = played(strategy, won=(True,) * 4)
    fake = asyncio.run(strategy.incumbent.answer("mug"))
    episodes[3].turns[1] = replace(episodes[3].turns[1], observation=fake)
    strategy.observe(1, episodes)
    assert [p.used for p in strategy.incumbent.items[:2]] == [1, 1]


def test_credit_may_be_relative_to_the_group():
    for credit, wins in (("success", [1, 1]), ("relative", [0, 0])):
        strategy = setup(credit=credit)
        strategy.observe(1, played(strategy, won=(True,) * 4))
        assert [p.won for p in strategy.incumbent.items[:2]] == wins


def test_a_quarter_of_a_group_is_summarised_half_of_each_outcome():
    strategy = make("evolver", group_size=8, tasks_per_step=1)
    for wins, wanted in ((4, [True, False]), (8, [True, True]), (0, [False, False])):
        game = Game(strategy, won=lambda t, x, seed, n=wins: seed[1] < n, count=1)
        plan = strategy.plan(1, game.stream.draw)
        group = [game.episode(plan, 0, index, 1) for index in range(8)]
        assert [e.success for e in to_summarise(group, 0.25)] == wanted
        assert len(to_summarise(group[:2], 0.25)) == 1


class Alike(OfflineWriter):
    """Says the same of every success, each time in other words."""

    said = 0

    def principle(self, record):
        Alike.said += record.success
        text = f"Open what is closed before you look into it. ({Alike.said})"
        return text if record.success else ""

    def same(self, first, second):
        return True


def test_what_several_tasks_of_a_step_teach_is_kept_once():
    strategy = make(
        "evolver",
        desk=lambda work, wait: Desk(Alike(), work),
        evolver={"merge": 0.8},
    )
    game = Game(strategy, won=lambda task, text, seed: True)
    learned = game.step(1)
    (principle,) = strategy.incumbent.items
    assert principle.tasks == tuple(task.id for task in game.plans[0].tasks)
    assert learned.metrics["memory/written"] == 1


class Seeing(OfflineWriter):
    """Keeps what it is shown."""

    def principle(self, record):
        seen.append(record)
        return super().principle(record)


seen: list = []


def test_fault_5_the_writer_sees_no_answer_only_the_outcome():
    """A task's source may hold what the environment scores by."""
    seen.clear()
    strategy = make(
        "evolver", tasks_per_step=1, desk=lambda work, wait: Desk(Seeing(), work)
    )
    game = Game(strategy, count=1)
    plan = strategy.plan(1, game.stream.draw)
    secret = replace(plan.tasks[0], source="the answer is 42")
    episodes = [game.episode(plan, 0, index, 1) for index in range(4)]
    strategy.observe(1, [replace(e, task=secret) for e in episodes])
    assert seen
    assert "42" not in repr(seen)


def test_episodes_of_all_steps_are_summarised_at_the_interval():
    """Also after a resume, and from a state of a time before they were kept."""
    seen.clear()
    made = [
        make(
            "evolver",
            tasks_per_step=1,
            desk=lambda work, wait: Desk(Seeing(), work),
            evolver={"organise_every": 3},
        )
        for _ in range(2)
    ]
    game = Game(made[0], count=1)
    game.step(1)
    game.step(2)
    assert not seen
    state = json.loads(json.dumps(made[0].state()))
    made[1].restore(state)
    game.strategy = made[1]
    game.step(3)
    assert [record.step for record in seen] == [1, 2, 3]
    del state["records"]
    made[1].restore(state)
    game.step(6)
    assert [record.step for record in seen[3:]] == [6]


class Down:
    """An embedder whose service is down."""

    name = "down"

    async def embed(self, texts):
        raise EpisodeLostError("no service")


def test_fault_8_an_embedder_that_fails_is_an_error_that_counts_never_a_zero():
    strategy = setup()
    strategy._setup.resources["embedder"] = Down()
    learned = strategy.observe(1, played(strategy, won=(True, False, True, False)))
    assert learned.metrics["writer/errors/internal"] == 1
    assert len(strategy.incumbent.items) == 2


def test_pruning_is_at_its_steps():
    strategy = setup(prune_every=2)
    bad = replace(A, used=6)
    knows(strategy, bad, B)
    strategy.observe(1, played(strategy, won=(False,) * 4))
    assert bad.id in {p.id for p in strategy.incumbent.items}
    learned = strategy.observe(2, played(strategy, won=(False,) * 4))
    assert bad.id not in {p.id for p in strategy.incumbent.items}
    assert learned.metrics["memory/pruned"] >= 1
