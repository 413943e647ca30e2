"""Which tasks are in which split; nothing here needs Java."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.environments.panels import check_disjoint
from reskill_jax.environments.scienceworld.rules import HARMFUL, TABLE
from reskill_jax.environments.scienceworld.settings import Settings
from reskill_jax.environments.scienceworld.spec import load
from reskill_jax.environments.scienceworld.tasks import (
    CHOICES,
    SPLITS,
    VARIATIONS,
    chosen,
    panel,
    share_out,
)


def make(split, limit=None, **settings):
    return load(Settings(**settings), workers=1).panel(split, limit)


def test_the_official_numbers():
    assert len(VARIATIONS) == 30
    totals = [sum(numbers[k] for numbers in VARIATIONS.values()) for k in range(3)]
    assert totals == [3592, 1796, 1819]
    assert [len(make(split)) for split in SPLITS[:3]] == totals


def test_the_split_of_the_paper_by_name():
    panels = {split: make(split, tasks="paper") for split in SPLITS}
    assert [len(panels[split]) for split in SPLITS] == [460, 230, 230, 155]
    trained = {"power-component", "test-conductivity"}
    for split in ("train", "dev", "test"):
        assert {task.kind for task in panels[split]} == trained
    assert not trained & {task.kind for task in panels["unseen"]}
    check_disjoint(panels)
    assert panels["unseen"].columns == {"mean_of_tasks": CHOICES["paper"][1]}


def test_a_hash_covers_simplifications_and_tells_repeats_apart():
    easy, hard = (make("test", simplifications=s) for s in ("easy", ""))
    assert easy.hash != hard.hash
    assert [t.id for t in easy] == [t.id for t in hard]
    assert make("test").hash == easy.hash


@settings(deadline=None, max_examples=25)
@given(per_task=st.integers(1, 40), limit=st.integers(1, 90))
def test_tasks_have_their_share_whatever_they_have(per_task, limit):
    train = make("train", tasks="boil, identify-life-stages-2", per_task=per_task)
    counts = Counter(task.kind for task in train)
    assert set(counts.values()) == {per_task}
    sources = Counter(t.source for t in train if t.kind == "identify-life-stages-2")
    assert max(sources.values()) - min(sources.values()) <= (per_task % 4 > 0)
    names = ("identify-life-stages-2", "boil", "find-plant")
    held_out = panel(names, (), "test", limit, simplifications="easy")
    counts = Counter(task.kind for task in held_out)
    assert len(held_out) == min(limit, 4 + 9 + 75)
    for name, count in counts.items():
        left_out = VARIATIONS[name][2] > count
        assert not left_out or count >= max(counts.values()) - 1


def test_a_stored_panel_is_cut_like_the_original():
    whole = make("test", tasks="paper")
    assert share_out(whole, 20) == make("test", 20, tasks="paper")


def test_what_cannot_be_played_is_refused():
    with pytest.raises(
        ValueError, match=r"^tasks='boyl': there is no task 'boyl': boil"
    ):
        Settings(tasks="boyl")
    with pytest.raises(ValueError, match="tasks='': choose one of all, paper, short"):
        Settings(tasks="")
    with pytest.raises(ValueError, match=r"^tasks='boil,boil' names a task twice"):
        Settings(tasks="boil,boil")
    with pytest.raises(ValueError, match=r"^unseen='x': there is no task 'x'"):
        Settings(tasks="boil", unseen="x")
    with pytest.raises(ValueError, match="unseen='melt' with tasks='paper'"):
        Settings(tasks="paper", unseen="melt")
    with pytest.raises(ValueError, match=r"unseen='melt': \['melt'\] are in tasks"):
        Settings(tasks="melt", unseen="melt")
    with pytest.raises(ValueError, match="test-conductivity needs"):
        Settings(tasks="boil,test-conductivity", simplifications="noElectricalAction")
    with pytest.raises(ValueError, match="'hard' is none of easy, teleportAction"):
        Settings(simplifications="openDoors,hard")
    with pytest.raises(ValueError, match="per_task=-1"):
        Settings(per_task=-1)
    with pytest.raises(ValueError, match="heap_mb=64: one episode needs 128"):
        Settings(heap_mb=64)
    with pytest.raises(ValueError, match=r"split='unseen': .* leave it out, or name"):
        make("unseen")
    with pytest.raises(ValueError, match="split='valid': choose one of train, dev"):
        make("valid")
    assert chosen("boil, melt", "freeze") == (("boil", "melt"), ("freeze",))


def test_every_rule_answers_an_assertion():
    ids = {assertion.id for assertion in TABLE.assertions}
    assert {name for rule in TABLE.rules for name in rule.assertions} == ids
    names = [rule.name for rule in (*TABLE.rules, *HARMFUL)]
    assert len(set(names)) == len(names)
