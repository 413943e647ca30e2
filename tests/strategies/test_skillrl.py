"""SkillRL in the loop, without the faults of its released code."""

import json
from collections import Counter
from dataclasses import replace

import pytest
from method_cases import Game, make, opening, resumed, tasks
from text_episodes import acts

from reskill_jax.environments.alfworld.rules import FAMILY, HELPFUL
from reskill_jax.memories.desk import Desk
from reskill_jax.memories.skill_entries import (
    GENERAL,
    MISTAKES,
    Entry,
    EntryEdit,
    tokens,
)
from reskill_jax.memories.skill_evidence import SkillEvidence, compression
from reskill_jax.memories.skill_files import save_entries
from reskill_jax.memories.writer import OfflineWriter
from reskill_jax.skills.rule import RuleTable


class Seeing(OfflineWriter):
    """Notes what it is shown, and proposes what it is told."""

    def __init__(self, *scripted):
        super().__init__()
        object.__setattr__(self, "calls", [])
        object.__setattr__(self, "scripted", [*scripted])

    def skills(self, known, won, lost, kinds, count):
        self.calls.append((tuple(known), tuple(won), tuple(lost), tuple(kinds), count))
        return tuple(self.scripted.pop(0)) if self.scripted else ()


def game(*scripted, won=lambda task, text, seed: False, **settings):
    """A game of two steps per evolution; nobody wins unless said otherwise."""
    writer = Seeing(*scripted)
    settings = {"gather_steps": 0, "every": 2, "least": 4} | settings
    strategy = make(
        "skillrl", desk=lambda work, wait: Desk(writer, work), skillrl=settings
    )
    return Game(strategy, won=won), writer


def skill(category, title, principle):
    return EntryEdit("add", Entry(category, title, principle))


ONE = [skill("put", "alpha beta", "gamma delta")]
TWO = [skill("heat", "epsilon zeta", "eta theta")]


def test_fault_a_every_update_adds_and_ids_are_hashes_of_content():
    """Numbers from a bank that never grows let only the first update survive."""
    played, _ = game(ONE, TWO, ONE)
    learned = played.run(6)
    entries = played.strategy.incumbent.entries
    assert [entry.title for entry in entries] == ["alpha beta", "epsilon zeta"]
    assert [entry.born for entry in entries] == [2, 4]
    assert entries[0].id == replace(ONE[0].entry, born=9).id
    assert learned[5].metrics["skillrl/refused/duplicate"] == 1


def test_fault_b_evaluation_reads_the_library_that_has_evolved():
    played, _ = game(ONE)
    before = played.strategy.incumbent
    played.run(2)
    after = played.strategy.incumbent
    assert before.hash != after.hash
    assert "alpha beta" in opening(after, tasks()[0])
    played.step(3)
    assert played.plans[2].contexts == (after,)  # training reads the same
    assert played.plans[1].contexts == (before,)  # nothing changes within a step


def test_faults_c_and_d_the_writer_sees_whole_failed_episodes_of_the_task():
    """Pairs of lists of different order and length mix turns, tasks and outcomes."""
    played, writer = game(won=lambda task, text, seed: seed[1] == 0)
    played.run(2)
    ((_, won, lost, kinds, count),) = writer.calls
    assert not won
    assert (kinds, count) == (("heat", "put"), 3)
    known = {task.id: task for task in tasks()}
    for record in lost:
        assert not record.success
        assert len(record.actions) == 3 == len(record.observations) - 1
        assert record.goal == known[record.task].source
        assert record.kind == known[record.task].kind
    assert len({record.task for record in lost}) == len(lost) == 6


def test_fault_e_a_rate_is_of_a_type_and_needs_episodes():
    """Any success rate, the overall one too, started updates there."""
    played, writer = game(won=lambda task, text, seed: task.kind == "put")
    learned = played.run(2)[1]
    ((_, _, lost, _, _),) = writer.calls
    assert {record.kind for record in lost} == {"heat"}
    assert learned.metrics["skillrl/weak_kinds"] == 1
    for settings, win in (
        ({"least": 13}, lambda task, text, seed: False),  # each has 12
        ({"weak": 0.0}, lambda task, text, seed: False),
        ({}, lambda task, text, seed: seed[1] % 2),
    ):
        played, writer = game(won=win, **settings)
        assert played.run(2)[1].metrics["skillrl/analysed"] == 0
        assert writer.calls == []


def test_fault_f_skills_keep_their_category_and_displace_nobody():
    """Six new ones, all made general, pushed the static general ones out."""
    given = [skill(GENERAL, f"given {n} {n}{n}", f"principle {n}") for n in range(6)]
    new = [skill("put", f"new {n} {n}{n}{n}", f"words {n}x") for n in range(6)]
    played, _ = game(given, new, operations=6)
    played.run(4)
    library = played.strategy.incumbent
    assert len(library.of("put")) == len(library.of(GENERAL)) == 6
    text = opening(library, tasks()[0])
    assert all(f"given {n}" in text for n in range(6))
    assert "new" not in opening(library, tasks()[1])


def test_fault_g_the_type_is_the_environments():
    """There was no type of two objects, and all tasks counted as one type."""
    evidence = SkillEvidence()
    for kind in ("pick_two_obj_and_place", "look_at_obj_in_light"):
        record = replace(acts("look", task=kind), kind=kind)
        evidence.add(record, 0.0)
    assert evidence.weak(0.4, 1) == ["look_at_obj_in_light", "pick_two_obj_and_place"]


def test_the_leak_train_plays_no_task_of_another_split():
    played, _ = game()
    learned = played.run(4)
    assert {t.split for plan in played.plans for t in plan.tasks} == {"train"}
    assert learned[3].metrics["skillrl/leaks"] == 0


@pytest.mark.parametrize(
    ("source", "split", "leaks"), [("dev", "dev", 0), ("paper", "valid_seen", 1)]
)
def test_other_tasks_are_played_once_without_training(source, split, leaks):
    played, writer = game(ONE, evolve_from=source, panel_tasks=8)
    learned = played.run(2)
    first, second = played.plans
    assert {task.split for task in first.tasks} == {"train"}
    assert [task.split for task in second.tasks] == ["train"] * 3 + [split] * 8
    assert (second.arms[3:] >= 0).sum(1).tolist() == [1] * 8
    assert second.training_groups == (0, 1, 2)
    ((_, _, lost, _, _),) = writer.calls
    assert {record.task.split("/")[0] for record in lost} == {split}
    assert learned[1].metrics["skillrl/leaks"] == leaks
    assert learned[1].metrics["memory/written"] == 1


def test_types_with_too_few_tasks_to_be_worked_on_are_told(caplog):
    """Each task is played once per evolution, so that its type never has a rate."""
    played, writer = game(ONE, evolve_from="dev", panel_tasks=7)
    assert "of dev, 7 tasks" in caplog.text
    assert "skills to be written for heat (3): raise" in caplog.text
    played.run(4)
    assert {record.kind for call in writer.calls for record in call[2]} == {"put"}
    caplog.clear()
    game(evolve_from="dev", panel_tasks=8)
    game(evolve_from="train")
    assert "skillrl.least" not in caplog.text


def evidence_of(*rows):
    """Rows: task, type, outcome, return."""
    evidence = SkillEvidence()
    for task, kind, success, reward in rows:
        record = replace(acts("look", success=success, task=task), kind=kind)
        evidence.add(record, reward)
    return evidence


def test_failures_are_taken_by_turns_lowest_return_first_one_per_task():
    evidence = evidence_of(
        ("a1", "a", False, 0.5), ("a2", "a", False, -1.0), ("a2", "a", False, 0.0),
        ("a3", "a", False, 0.1), ("b1", "b", False, 0.9), ("b2", "b", True, 1.0),
        ("c1", "c", False, -9.0),
    )  # fmt: skip
    found = [record.task for record in evidence.failures(["a", "b"], 10)]
    assert found == ["a2", "b1", "a3", "a1"]
    assert [r.task for r in evidence.failures(["a", "b"], 3)] == ["a2", "b1", "a3"]
    assert evidence.counts == {"a": (0, 4), "b": (1, 2), "c": (0, 1)}
    assert evidence.rate() == pytest.approx(1 / 7)
    assert [r.task for r in evidence.successes(["b"], 9)] == ["b2"]


def test_half_as_many_are_analysed_where_most_is_won():
    """Ten below a success of .4, else five (paper)."""

    def hard(task, text, seed):
        return task.kind == "put" or seed[1] == 0

    for won, count in ((lambda task, text, seed: False, 4), (hard, 2)):
        played, writer = game(won=won, failures=4)
        played.run(2)
        ((_, _, lost, _, _),) = writer.calls
        assert len(lost) == count


def test_the_first_library_comes_from_successes_and_failures_of_each_type():
    played, writer = game(
        gather_steps=2,
        every=100,
        won=lambda task, text, seed: seed[1] % 2,
    )
    played.step(1)
    assert writer.calls == []
    played.step(2)
    assert len(writer.calls) == 2
    for (_, won, lost, _, _), kind in zip(writer.calls, ("heat", "put"), strict=True):
        assert {record.kind for record in (*won, *lost)} == {kind}
        assert all(record.success for record in won)
        assert not any(record.success for record in lost)
        assert len(won) == len(lost) == 3
    played.run(3, start=3)
    assert len(writer.calls) == 2


def test_a_given_library_is_read_and_not_distilled_again(tmp_path):
    save_entries((Entry(GENERAL, "Given", "Do it."),), tmp_path)
    for path in (tmp_path, tmp_path / "skills.json"):
        played, writer = game(gather_steps=1, every=100, library=str(path))
        played.run(2)
        assert "Given: Do it." in played.openings[0]
        assert writer.calls == []


def test_skills_for_tasks_of_another_environment_are_told(tmp_path, caplog):
    """They would never be shown, and nobody would know."""
    given = (Entry(GENERAL, "a", "b"), Entry("heat", "c", "d"), Entry("boil", "e", "f"))
    save_entries(given[:2], tmp_path)
    game(library=str(tmp_path))
    assert "never shown" not in caplog.text
    save_entries(given, tmp_path)
    game(library=str(tmp_path))
    assert "never shown: boil; the types here are heat, put" in caplog.text


def test_how_much_shorter_skills_are_than_episodes_is_told():
    """Tokens of both, by the same count: words and marks, or a quarter of letters."""
    record = acts(*["go to shelf 1"] * 20, task="find it")
    entry = Entry(GENERAL, "Look", "Look around you first.")
    words = [record.goal, *record.observations, *record.actions]
    assert compression([record], [entry]) == {
        "skillrl/tokens_per_skill": 7.0,
        "skillrl/compression": tokens("\n".join(words)) / 7,
    }
    assert compression([], [entry]) == compression([record], []) == {}
    played, _ = game(ONE)
    learned = played.run(2)
    assert "skillrl/compression" not in learned[0].metrics
    assert learned[1].metrics["skillrl/compression"] > 0


def test_offline_distilling_is_differential():
    writer = OfflineWriter(RuleTable(HELPFUL, FAMILY))
    lost = replace(
        acts("go to shelf 1", "look", "look", "look"), kind="heat", goal="heat a mug"
    )
    won = replace(
        acts("go to shelf 1", "open shelf 1", "take mug 1", success=True), kind="put"
    )
    found = [edit.entry for edit in writer.skills((), (won,), (lost,), (), 3)]
    kinds = Counter(entry.category for entry in found)
    assert kinds[GENERAL]
    assert kinds[MISTAKES] == kinds["put"] == 1
    strategy = next(entry for entry in found if entry.category == "put")
    assert strategy.principle == "Act in this order: go to, then open, then take."
    rules = {rule.description.rstrip(".") for rule in HELPFUL}
    assert {entry.title for entry in found if entry.category == GENERAL} <= rules
    assert writer.skills(tuple(found), (won,), (lost,), (), 3) == ()
    bare = [edit.entry for edit in OfflineWriter().skills((), (won,), (lost,), (), 3)]
    assert {entry.category for entry in bare} == {"put", MISTAKES}
    # An environment without types of tasks, and actions that are none.
    others = [replace(won, kind=""), replace(lost, actions=("?", "!"), valid=(False,))]
    one, other = OfflineWriter().skills((), others[:1], others[1:], (), 3)
    titles = {entry.entry.category: entry.entry.title for entry in (one, other)}
    assert titles[GENERAL].startswith("Order that works")
    assert titles[MISTAKES] == "Writing what is not understood."


@pytest.mark.parametrize("source", ["train", "dev"])
def test_a_resumed_run_goes_on_the_same(source):
    def begun():
        options = {"gather_steps": 1, "every": 2, "least": 2, "evolve_from": source}
        return make("skillrl", skillrl=options)

    straight, broken = Game(begun()), Game(begun())
    straight.run(8)
    for step in range(1, 9):
        broken.step(step)
        broken.strategy = resumed(broken.strategy, begun())
    assert json.dumps(broken.strategy.state()) == json.dumps(straight.strategy.state())
    assert broken.openings == straight.openings
    assert len(straight.strategy.incumbent.entries) > 2


def test_a_frozen_policy_plays_the_same_without_training():
    strategy = make("skillrl_frozen", skillrl={"gather_steps": 1})
    played = Game(strategy)
    learned = played.run(2)
    assert all(not plan.training_groups for plan in played.plans)
    assert learned[0].metrics["memory/written"] > 0
    assert learned[0].metrics["memory/read"] == 0
    assert learned[1].metrics["memory/read"] == 12
