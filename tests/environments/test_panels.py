"""Panels: their hash and order; the stream that training draws from."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.environments.panels import (
    TaskPanel,
    TaskStream,
    check_disjoint,
    check_pins,
    evenly_spaced,
    hold_out,
)
from reskill_jax.environments.task import Task

TASKS = tuple(Task(str(k), "kind", "train", "") for k in range(10))
PANEL = TaskPanel(TASKS)


def test_draws_are_a_function_of_seed_and_place_and_cover_epochs():
    stream = TaskStream(PANEL, seed=3)
    steps = [stream.draw(4) for _ in range(10)]
    assert stream.drawn == 40
    assert steps[7] == TaskStream(PANEL, seed=3, drawn=28).draw(4)
    flat = [task.id for step in steps for task in step]
    for epoch in range(4):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == sorted(t.id for t in TASKS)
    assert flat[:10] != flat[10:20]
    other = TaskStream(PANEL, seed=4)
    assert [other.draw(4) for _ in range(10)] != steps


def test_how_tasks_are_portioned_does_not_change_their_order():
    whole = TaskStream(PANEL, seed=1).draw(35)
    stream = TaskStream(PANEL, seed=1)
    portions = [stream.draw(count) for count in (0, 7, 1, 0, 25, 2)]
    assert [task for portion in portions for task in portion] == whole


def test_the_hash_is_that_of_ids_types_and_splits_in_order():
    assert len(PANEL.hash) == 12
    moved = TaskPanel(tuple(replace(task, source="elsewhere") for task in TASKS))
    assert moved.hash == PANEL.hash
    renamed = replace(TASKS[0], id="new")
    others = [
        TaskPanel(TASKS[::-1]),
        TaskPanel(TASKS[:-1]),
        TaskPanel((renamed, *TASKS[1:])),
        TaskPanel((replace(TASKS[0], kind="other"), *TASKS[1:])),
        TaskPanel((replace(TASKS[0], split="test"), *TASKS[1:])),
        TaskPanel((replace(TASKS[0], digest="0f"), *TASKS[1:])),
    ]
    assert len({PANEL.hash, *(panel.hash for panel in others)}) == 7


def test_pins_name_the_tasks_that_a_figure_stands_for():
    panels = {"train": PANEL, "empty": TaskPanel(())}
    check_pins(panels, [f"train:{PANEL.label}", f"empty:{panels['empty'].label}"])
    other = TaskPanel(TASKS[:9]).label
    with pytest.raises(ValueError, match=f"'train:{other}'.* are {PANEL.label}; get"):
        check_pins(panels, [f"train:{other}"])
    with pytest.raises(ValueError, match=r"'test:.*: only train, empty evaluated"):
        check_pins(panels, [f"test:{other}"])
    for pin in ("train", "train:10", f"train:{PANEL.hash}", f"train:{PANEL.label}0"):
        with pytest.raises(ValueError, match="is not split:count:hash"):
            check_pins(panels, [pin])


def test_splits_share_no_task():
    check_disjoint({"train": TaskPanel(TASKS[:5]), "test": TaskPanel(TASKS[5:])})
    with pytest.raises(ValueError, match="task '4' is in train and in test"):
        check_disjoint({"train": TaskPanel(TASKS[:5]), "test": TaskPanel(TASKS[4:])})


@given(st.sets(st.text(max_size=5), min_size=1), st.randoms())
def test_what_is_held_out_depends_on_names_only(names, random):
    tasks = [Task(name, "kind", "train", "") for name in sorted(names)]
    count = random.randrange(len(tasks))
    rest, dev = hold_out(tasks, count)
    assert len(dev) == count
    assert {task.split for task in dev} <= {"dev"}
    assert sorted(t.id for t in rest + dev) == sorted(names)
    random.shuffle(tasks)
    assert {t.id for t in hold_out(tasks, count)[1]} == {t.id for t in dev}
    if count:
        fewer = [task for task in tasks if task.id != rest[0].id]
        if len(fewer) > count:
            assert {t.id for t in hold_out(fewer, count)[1]} == {t.id for t in dev}
    with pytest.raises(ValueError, match="none is left to train on"):
        hold_out(tasks, len(tasks))


def test_a_panel_has_every_task_once():
    assert len(PANEL) == 10
    assert tuple(PANEL) == TASKS
    with pytest.raises(ValueError, match="task '3' occurs twice"):
        TaskPanel((*TASKS, replace(TASKS[3], kind="other")))


@pytest.mark.parametrize(
    ("limit", "chosen"),
    [(None, range(10)), (4, (0, 2, 5, 7)), (1, (0,)), (99, range(10))],
)
def test_a_limit_spreads_over_the_whole_list(limit, chosen):
    assert evenly_spaced(TASKS, limit) == tuple(TASKS[k] for k in chosen)
