"""Generated houses: same bytes every time, disjoint splits, all of them winnable."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("textworld")

from reskill_jax.environments.alfworld import games as alfworld_games
from reskill_jax.environments.alfworld import houses as alfworld_houses
from reskill_jax.environments.alfworld.engine import Game
from reskill_jax.environments.alfworld.environment import (
    KINDS,
    SPLITS,
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.games import MANIFEST, generate
from reskill_jax.environments.alfworld.house_settings import PRESETS, HouseSettings
from reskill_jax.environments.alfworld.pddl import (
    LAMP,
    OPENABLE,
    House,
    fits,
    game,
    names,
)

RECIPE = HouseSettings(train=12, valid_seen=6, valid_unseen=6, seed=5)
HOUSES = st.tuples(
    st.builds(
        dataclasses.replace,
        st.sampled_from([PRESETS[name] for name in sorted(PRESETS)]),
        seed=st.integers(0, 10**6),
    ),
    st.sampled_from(SPLITS),
    st.integers(0, 500),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("games") / "small"
    generate(root, RECIPE)
    return root


def tree(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def draw(recipe, split, index):
    """The first draw that fits, without playing it."""
    for attempt in range(100):
        try:
            return alfworld_houses.draw_house(recipe, split, index, attempt)
        except alfworld_houses.NoFitError:
            continue
    raise AssertionError((recipe, split, index))


def test_every_game_is_won_by_its_walkthrough_and_not_before(root):
    environment = AlfworldEnvironment()
    for split in SPLITS:
        tasks = find_games(str(root), split)
        expected = getattr(RECIPE, split)
        assert Counter(task.kind for task in tasks) == dict.fromkeys(
            KINDS, expected // len(KINDS)
        )
        for task in tasks:
            walkthrough = json.loads(Path(task.source).read_text())["walkthrough"]
            _, now = environment.reset(task)
            for command in walkthrough:
                assert not now.done
                assert command in now.actions
                now = environment.step(command)
            assert now.success
    environment.close()


def test_the_stock_collector_finds_the_games(root, capsys):
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": [1, 2, 3, 4, 5, 6]},
        "dataset": {
            "data_path": str(root / "json_2.1.1" / "train"),
            "num_train_games": -1,
        },
    }
    stock = AlfredTWEnv(config, train_eval="train")
    ours = [task.source for task in find_games(str(root), "train")]
    assert sorted(stock.game_files) == ours


def test_same_recipe_same_bytes_in_other_processes(root, tmp_path):
    # Spawned workers each have their own hash seed.
    generate(tmp_path / "again", RECIPE, workers=2)
    assert tree(tmp_path / "again") == tree(root)


def test_a_game_depends_on_seed_and_number_only():
    more = dataclasses.replace(RECIPE, train=500, valid_seen=0)
    other = dataclasses.replace(RECIPE, seed=6)
    assert draw(more, "train", 7) == draw(RECIPE, "train", 7)
    assert draw(other, "train", 7) != draw(RECIPE, "train", 7)
    assert draw(RECIPE, "valid_seen", 7) != draw(RECIPE, "train", 7)


@settings(deadline=None, derandomize=True)
@given(seed=st.integers())
def test_splits_share_neither_plans_nor_goals(seed):
    train, seen, unseen = (set(alfworld_houses.scenes(seed, s)) for s in SPLITS)
    assert train == seen
    assert not train & unseen
    assert len(train | unseen) == 120
    assert unseen >= {10, 219, 308, 424}
    assert len(unseen) == 24


def test_every_receptacle_is_called_by_its_kind():
    for room in alfworld_houses.constants.SCENE_TYPE.values():
        for scene in room:
            places = alfworld_houses.floor_plan(scene).receptacles
            empty = House(KINDS[0], "Cup", "Shelf", scene, places, (), (0, 0, 0, 0))
            called = names(empty)
            for place in places:
                assert re.fullmatch(rf"{place.kind.lower()} \d+", called[place.id])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(drawn=HOUSES)
def test_drawn_houses_keep_to_recipe_and_split(drawn):
    recipe, split, index = drawn
    house = draw(recipe, split, index)
    targets = [thing for thing in house.things if thing.kind == house.target]
    lamps = [thing for thing in house.things if thing.kind == LAMP]
    places = house.receptacles
    pair = (house.target, house.goal)

    assert house.task == KINDS[index % 6]
    assert house.scene in alfworld_houses.scenes(recipe.seed, split)
    held_out = alfworld_houses.held_out_pairs(recipe.seed)
    assert (pair in held_out) == (split == "valid_unseen")
    assert len(places) <= recipe.receptacles[1]
    assert len(house.things) <= recipe.objects[1]
    assert max(Counter(p.kind for p in places).values()) <= recipe.same_kind
    called = names(house)
    assert len({*called.values()}) == len(places) + len(house.things)
    assert all(thing.place in places for thing in house.things)
    assert all(fits(thing.place.kind, thing.kind) for thing in house.things)
    assert house.start not in {place.location for place in places}
    if not recipe.shared_locations:
        assert len({place.location for place in places}) == len(places)
    # The task is there, and not done.
    assert len(targets) >= (2 if house.task == "pick_two_obj_and_place" else 1)
    assert all(thing.place.kind != house.goal for thing in targets)
    if house.goal == LAMP:
        assert lamps
        assert not {t.place for t in targets} & {lamp.place for lamp in lamps}
        assert not {lamp.place.kind for lamp in lamps} & OPENABLE
    else:
        assert any(place.kind == house.goal for place in places)


@pytest.mark.parametrize("task", range(6))
def test_full_size_houses_are_won_too_and_named_as_the_engine_does(task):
    house = draw(PRESETS["full"], "valid_unseen", task)
    content = game(house, template=1)
    assert alfworld_houses.flaw(content) == ""
    called = names(house)
    seen = re.findall(r"\ba (\w+ \d+)", Game(content).room)
    assert sorted(seen) == sorted(called[place.id] for place in house.receptacles)


def test_a_plan_that_does_not_work_is_found_out():
    content = game(draw(RECIPE, "train", 3), template=0)
    plan = content["walkthrough"]
    assert not alfworld_houses.flaw(content)
    content["walkthrough"] = plan[:-1]
    assert alfworld_houses.flaw(content) == "its plan does not win"
    content["walkthrough"] = plan[1:]
    assert "is not admissible" in alfworld_houses.flaw(content)
    content["walkthrough"] = [*plan, "look"]
    assert alfworld_houses.flaw(content) == "it is won before 'look'"


def test_a_second_call_leaves_the_games_alone(root):
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    generate(root, RECIPE)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_another_recipes_games_are_an_error(root):
    with pytest.raises(ValueError, match=r"seed=5, not 9.*name another folder"):
        generate(root, dataclasses.replace(RECIPE, seed=9))


def test_a_foreign_folder_is_an_error(tmp_path):
    (tmp_path / "precious.txt").write_text("data")
    with pytest.raises(ValueError, match="was not built here"):
        generate(tmp_path, RECIPE)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    make_game = alfworld_houses.make_game

    def failing(recipe, split, index):
        if index == 2:
            raise RuntimeError("no luck")
        return make_game(recipe, split, index)

    monkeypatch.setattr(alfworld_houses, "make_game", failing)
    with pytest.raises(RuntimeError, match="no luck"):
        generate(tmp_path / "games", RECIPE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": -1}, "train=-1"),
        ({"tasks": ("dance",)}, "dance"),
        ({"tasks": ()}, "must be some of"),
        ({"receptacles": (5, 9)}, r"receptacles=\(5, 9\).*low >= 6"),
        ({"objects": (9, 8)}, r"objects=\(9, 8\)"),
        ({"same_kind": 0}, "same_kind=0"),
    ],
)
def test_bad_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        HouseSettings(**change)


def test_command_line(tmp_path, monkeypatch, capsys):
    flags = f"games --root={tmp_path}/games --preset=small --train=2 --valid_seen=1"
    flags += " --valid_unseen=0 --seed=3 --workers=1"
    monkeypatch.setattr("sys.argv", flags.split())
    alfworld_games.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "games" / MANIFEST).read_text())
    assert (printed["train"], printed["seed"], printed["redrawn"]) == (2, 3, 0)
    assert len(find_games(f"{tmp_path}/games", "train")) == 2
