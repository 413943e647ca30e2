"""Reflexion and ExpeL: attempts at the same tasks, beside plain retries."""

import asyncio
from dataclasses import replace

from method_cases import Game, make, tasks

from reskill_jax.memories.desk import Desk
from reskill_jax.memories.insights import Insights
from reskill_jax.memories.reflections import Reflections
from reskill_jax.memories.settings import ExpelSettings
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.skills.episode_record import EpisodeRecord
from reskill_jax.strategies.attempts import Attempts


def arms(plan):
    return {
        task.id: row.tolist() for task, row in zip(plan.tasks, plan.arms, strict=True)
    }


def test_unsolved_tasks_come_again_for_each_chain_until_they_are_given_up():
    """What is told helps: the second chain wins once it was told something."""
    strategy = make("reflexion", tasks_per_step=2)
    game = Game(strategy, won=lambda task, text, seed: bool(text), count=4)
    learned = game.run(5)
    first, *again = map(arms, game.plans[:4])
    assert [*first.values()] == [[0, 1], [0, 1]]
    assert arms(game.plans[1]) == first
    # Solved by the one chain: only the other one goes on.
    assert again[1:] == [{task: [0, -1] for task in first}] * 2
    figures = learned[3].metrics
    assert figures["reflexion/success_at_1"] == figures["retry/success_at_1"] == 0
    assert (figures["reflexion/success_at_4"], figures["retry/success_at_4"]) == (1, 0)
    assert not {task.id for task in game.plans[4].tasks} & set(first)
    assert all(not plan.train.any() for plan in game.plans)


def test_success_within_k_is_of_all_finished_batches():
    strategy = make("reflexion", tasks_per_step=2, reflexion={"attempts": 2})
    wins = {"train/0": 1, "train/1": 2, "train/2": 9, "train/3": 1}
    game = Game(strategy, count=4)
    game.won = lambda task, text, seed: wins[task.id] <= strategy._attempts.made + 1
    learned = game.run(4)
    last = [x.metrics for x in learned if "reflexion/success_at_1" in x.metrics][-1]
    for chain in ("retry", "reflexion"):
        assert last[f"{chain}/success_at_1"] == 0.5
        assert last[f"{chain}/success_at_2"] == 0.75


def test_an_end_that_is_no_success_is_reflected_on_and_tried_again():
    """The released code takes the environment's end for a success."""
    strategy = make("reflexion", tasks_per_step=1)
    game = Game(strategy, won=lambda task, text, seed: False, count=1)
    plan = strategy.plan(1, game.stream.draw)
    ended = [game.episode(plan, 0, chain, 1) for chain in (0, 1)]
    for episode in ended:
        episode.final_observation = "The episode is over (done)."
    strategy.observe(1, ended)
    assert strategy.incumbent.items
    assert strategy.plan(2, game.stream.draw).tasks == plan.tasks


def test_reflections_are_the_tasks_own_newest_three_and_never_twice():
    task, other, _ = tasks(3)
    memory = Reflections()
    for text in ("a", "b", "a", "c", "d", ""):
        memory = memory.plus(task, text)
    memory = memory.plus(other, "a")
    assert [item.text for item in memory.items] == ["a", "b", "c", "d", "a"]
    assert memory.about(task) == ["b", "c", "d"]
    assert memory.about(other) == ["a"]
    assert replace(memory, shown=0).about(task) == []
    unseen = replace(task, id="valid/9")
    assert memory.about(unseen) == []
    assert replace(memory, match="kind").about(unseen) == ["b", "c", "d"]


def test_only_failures_of_the_reflecting_chain_are_reflected_on():
    strategy = make("reflexion", tasks_per_step=1)
    game = Game(strategy, won=lambda task, text, seed: seed[1] == 1, count=1)
    learned = game.step(1)
    assert learned.metrics["memory/written"] == 0
    assert strategy.plan(2, game.stream.draw).arms.tolist() == [[0, -1]]


def test_attempts_count_whether_or_not_the_environment_failed():
    attempts = Attempts(2, 1)
    assert attempts.over
    attempts.begin(tasks(2))
    attempts.record(lambda chain, task: task == "train/0")
    assert attempts.pending() == [1]
    attempts.record(lambda chain, task: False)
    assert attempts.over
    assert [attempts.success_within(0, k) for k in (1, 2)] == [0.5, 0.5]


def test_a_task_that_is_drawn_twice_is_attempted_once():
    attempts = Attempts(2, 1)
    attempts.begin([*tasks(2), *tasks(1)])
    attempts.record(lambda chain, task: task == "train/0")
    assert attempts.success_within(0, 1) == 0.5


def record(task, kind="put", success=True, length=2, goal="put a mug in the shelf"):
    return EpisodeRecord(
        task=task, kind=kind, goal=goal, success=success, actions=("look",) * length,
        observations=("room",) * (length + 1),
    )  # fmt: skip


def test_examples_are_of_the_same_kind_and_never_the_task_itself():
    """The released store holds the solutions of the very tasks that are tested."""
    task = tasks()[0]
    solved = (
        record(task.id),
        record("other", goal="put a mug in the drawer"),
        record("heat", kind="heat"),
        record("long", length=400),
        record("far", goal="put an apple away"),
    )
    insights = Insights(ExpelSettings(), solved=solved)
    found = asyncio.run(insights.examples(task, "put a mug in the shelf"))
    assert [r.task for r in found] == ["other", "far"]


def test_expel_gathers_extracts_and_then_never_changes():
    strategy = make("expel", tasks_per_step=2, expel={"gather_steps": 4})
    game = Game(strategy, count=4)
    game.run(4)
    frozen = strategy.incumbent
    assert frozen.rules
    assert frozen.solved
    assert all(type(plan.contexts[0]) is Reflections for plan in game.plans)
    state = strategy.state()
    game.run(3, start=5)
    assert strategy.state() == state
    assert all(plan.contexts == (frozen,) for plan in game.plans[4:])
    assert {r.task for r in frozen.solved} <= {t.id for t in tasks(4)}


def test_expel_asks_again_where_the_model_did_not_answer():
    class Silent(OfflineWriter):
        asked = 0

        def edits(self, rules, won, lost):
            self.asked += 1
            return () if game.steps < 7 else super().edits(rules, won, lost)

    writer = Silent()
    strategy = make(
        "expel", tasks_per_step=2, expel={"gather_steps": 4},
        desk=lambda work, wait: Desk(writer, work, wait=wait),
    )  # fmt: skip
    game = Game(strategy, count=4)
    asked = []
    for game.steps in range(1, 10):
        game.step(game.steps)
        asked.append(writer.asked > 0)
        writer.asked = 0
    # After 4 steps, 1 and 3 later; then there are rules.
    assert [step for step, now in enumerate(asked, 1) if now] == [4, 5, 7]
    assert strategy.incumbent.rules


def test_expel_shows_rules_and_examples_or_either_alone():
    shown = {
        "both": (True, True),
        "rules": (True, False),
        "trajectories": (False, True),
    }
    for show, wanted in shown.items():
        strategy = make(
            "expel", tasks_per_step=3, expel={"gather_steps": 4, "show": show}
        )
        game = Game(strategy, count=3)
        game.run(4)
        done = len(game.openings)
        game.step(5)
        text = "\n".join(game.openings[done:])
        found = ("Rules that have" in text, "Tasks that were solved" in text)
        assert found == wanted
