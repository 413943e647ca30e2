import dataclasses
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reskill_jax.environments.alfworld.environment import (
    ACTION_FORMAT,
    KINDS,
    SPLITS,
    AlfworldEnvironment,
    find_games,
)
from reskill_jax.environments.alfworld.settings import Settings
from reskill_jax.environments.alfworld.spec import load
from reskill_jax.environments.panels import TaskPanel, evenly_spaced
from reskill_jax.environments.task import Task

# ---- finding games: only folder names and the mark `solvable` matter


def write_game(root, split, name, trial="trial_1", text='{"solvable": true}'):
    folder = Path(root, "json_2.1.1", split, name, trial)
    folder.mkdir(parents=True)
    (folder / "game.tw-pddl").write_text(text)
    return folder / "game.tw-pddl"


def test_tasks_of_the_published_layout(tmp_path):
    names = [f"{kind}-Mug-None-Desk-30{i}" for i, kind in enumerate(KINDS)]
    for name in reversed(names):
        write_game(tmp_path, "valid_unseen", name, "trial_b")
        write_game(tmp_path, "valid_unseen", name, "trial_a")
    write_game(tmp_path, "train", names[0])
    tasks = find_games(str(tmp_path), "valid_unseen")
    assert [task.id for task in tasks] == [
        f"valid_unseen/{name}/{trial}"
        for name in sorted(names)
        for trial in ("trial_a", "trial_b")
    ]
    assert {task.kind for task in tasks} == set(KINDS)
    assert all(task.split == "valid_unseen" for task in tasks)
    assert all(task.id in task.source for task in tasks)
    assert len(find_games(str(tmp_path), "train")) == 1


def test_root_defaults_to_the_variable(tmp_path, monkeypatch):
    write_game(tmp_path, "train", "look_at_obj_in_light-Mug-None-DeskLamp-301")
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    assert find_games(None, "train") == find_games(str(tmp_path), "train")


def test_unfit_games_are_left_out(tmp_path):
    simple = "pick_and_place_simple-Mug-None-Desk-30"
    escaped = json.dumps({"pddl_domain": '"solvable" : true', "solvable": False})
    good = json.dumps({"solvable": True, "grammar": '"solvable": false' + " " * 9999})
    write_game(tmp_path, "train", "pick_and_place_with_movable_recep-Mug-Bowl-Desk-3")
    write_game(tmp_path, "train", "pick_and_place_simple-AppleSliced-None-Desk-301")
    write_game(tmp_path, "train", simple + "1", text='{"solvable": false}')
    write_game(tmp_path, "train", simple + "2", text="{}")
    write_game(tmp_path, "train", simple + "3", text=escaped)
    write_game(tmp_path, "train", simple + "4", text=good)
    write_game(tmp_path, "train", simple + "5", text='{"solvable" : true}')
    ids = [task.id for task in find_games(str(tmp_path), "train")]
    assert ids == [f"train/{simple}{number}/trial_1" for number in (4, 5)]


def test_dev_is_a_part_of_train_that_is_not_trained_on(tmp_path):
    for kind in KINDS:
        for room in range(3):
            write_game(tmp_path, "train", f"{kind}-Mug-None-Desk-{room}")

    def panel(split, dev, limit=None):
        spec = load(Settings(root=str(tmp_path), dev=dev), workers=1)
        return spec.panel(split, limit).tasks

    everything = panel("train", 0)
    dev, train = panel("dev", 5), panel("train", 5)
    assert len(dev) == 5
    assert {task.split for task in dev} == {"dev"}
    assert {t.id for t in train} | {t.id for t in dev} == {t.id for t in everything}
    assert len(train) == len(everything) - 5
    assert len(panel("dev", 5, 2)) == 2
    with pytest.raises(ValueError, match=r"dev=0: set env.dev, the number of games"):
        panel("dev", 0)
    with pytest.raises(ValueError, match="dev=18: of 18 tasks, none is left to train"):
        panel("train", 18)


def test_splits_have_the_kinds_that_are_asked_for(tmp_path):
    for index, kind in enumerate(KINDS[:-1] * 4):
        for split in ("train", "valid_unseen"):
            write_game(tmp_path, split, f"{kind}-Mug-None-Desk-{index}")

    def panel(split, **keys):
        return load(Settings(root=str(tmp_path), dev=8, **keys), workers=1).panel(
            split, None
        )

    keys = {"kinds": "pick_and_place,examine", "eval_kinds": "transform"}
    assert {t.kind for t in panel("train", **keys)} == {KINDS[0], KINDS[1]}
    assert {t.kind for t in panel("valid_unseen", **keys)} == {*KINDS[2:5]}
    assert {t.kind for t in panel("dev", **keys)} <= {*KINDS[2:5]}
    # What is held out for choices does not depend on what is trained on.
    everything = {t.id for t in panel("dev")}
    assert {t.id for t in panel("dev", **keys)} <= everything
    assert not {t.id for t in panel("train", **keys)} & everything
    with pytest.raises(ValueError, match=r"^kinds='pick_two\w+': train has"):
        panel("train", kinds="pick_two_obj_and_place")


def test_another_game_at_the_same_place_is_another_task(tmp_path):
    path = write_game(tmp_path, "train", "look_at_obj_in_light-Mug-None-DeskLamp-301")
    (before,) = find_games(str(tmp_path), "train")
    path.write_text('{"solvable": true, "walkthrough": []}')
    (after,) = find_games(str(tmp_path), "train")
    assert before.id == after.id
    assert TaskPanel((before,)).hash != TaskPanel((after,)).hash


def test_errors_of_finding_games_name_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    with pytest.raises(ValueError, match="ALFWORLD_DATA is not set"):
        find_games(None, "train")
    with pytest.raises(ValueError, match=r"split='test'.*valid_unseen"):
        find_games(str(tmp_path), "test")
    with pytest.raises(
        FileNotFoundError, match=f"{tmp_path}/json_2.1.1: set either, env.root or ALFW"
    ):
        find_games(str(tmp_path), "train")
    Path(tmp_path, "json_2.1.1", "train").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"valid_seen: download.*eval\.splits"):
        find_games(str(tmp_path), "valid_seen")
    with pytest.raises(FileNotFoundError, match=r"train/\*/\*/game.tw-pddl: download"):
        find_games(str(tmp_path), "train")
    write_game(tmp_path, "train", "juggle-Mug-None-Desk-301")
    with pytest.raises(ValueError, match=r"'juggle' in .*juggle-Mug"):
        find_games(str(tmp_path), "train")


# ---- playing: the real engine on houses of our own, and on published games


def need_engine():
    # importorskip would import alfworld, which sets ALFWORLD_DATA.
    if importlib.util.find_spec("alfworld") is None:
        pytest.skip("the extra `alfworld` is not installed")


@pytest.fixture(scope="module")
def houses(tmp_path_factory):
    """One small generated house of each kind of task."""
    need_engine()
    from reskill_jax.environments.alfworld.games import generate
    from reskill_jax.environments.alfworld.house_settings import HouseSettings

    root = tmp_path_factory.mktemp("houses") / "games"
    generate(root, HouseSettings(train=len(KINDS), valid_seen=0, valid_unseen=0))
    return {task.kind: task for task in find_games(str(root), "train")}


@pytest.fixture
def environment():
    need_engine()
    environment = AlfworldEnvironment()
    yield environment
    environment.close()


@pytest.fixture(scope="module")
def stock():
    need_engine()
    from reskill_jax.benchmarks.environments import StockEnvironment

    return StockEnvironment(facts=True)


def walkthrough(task):
    return json.loads(Path(task.source).read_text())["walkthrough"]


INVALID = ("", "help", "LOOK", " look ", "go to mug 1", "take {o} from {r}")


def assert_same_episode(ours, stock, task, *, steps, seed):
    """Play random, invalid and walkthrough commands on both engines."""
    rng = random.Random(seed)
    _, seen = started = ours.reset(task)
    assert started == stock.reset(task)
    for command in [*[None] * steps, *walkthrough(task)]:
        offered = INVALID if rng.random() < 0.2 else seen.actions
        action = command or rng.choice(offered)
        understood = action in seen.actions  # which the stock engine does not tell
        seen = ours.step(action)
        stocks = dataclasses.replace(stock.step(action), understood=understood)
        assert seen == stocks, action
        facts = ours.facts
        assert len(facts) == len(set(facts))
        assert set(facts) == set(stock.facts)
        if seen.done:
            return


@pytest.mark.parametrize("kind", KINDS)
def test_walkthroughs_win(houses, environment, kind):
    goal, seen = environment.reset(houses[kind])
    assert goal.endswith(".")
    assert seen.text.startswith("You are in the middle of a room.")
    assert (seen.reward, seen.done, seen.success) == (0.0, False, False)
    for command in walkthrough(houses[kind]):
        assert not seen.done
        assert command in seen.actions
        assert "help" not in seen.actions
        seen = environment.step(command)
        if command.startswith("take"):
            taken = command.removeprefix("take ").partition(" from ")[0]
            holds = [fact.names for fact in environment.facts if fact.name == "holds"]
            assert holds == [("agent1 ", taken)]
    assert (seen.reward, seen.done, seen.success) == (1.0, True, True)


@pytest.mark.parametrize("kind", KINDS)
def test_houses_play_as_in_the_stock_engine(houses, environment, stock, kind):
    for seed in range(2):  # the second time from what was remembered
        assert_same_episode(environment, stock, houses[kind], steps=12, seed=seed)


@pytest.mark.parametrize(
    "index", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_published_games_play_as_in_the_stock_engine(environment, stock, index):
    root = os.environ.get("ALFWORLD_DATA", "")
    if not Path(root, "json_2.1.1", "valid_seen").is_dir():
        pytest.skip(f"no published games to compare on: ALFWORLD_DATA is {root!r}")
    task = evenly_spaced(find_games(None, "valid_seen"), 3)[index]
    for seed in range(2):
        assert_same_episode(environment, stock, task, steps=8, seed=seed)


def test_environments_of_one_game_do_not_mix(houses, environment):
    task = houses["pick_two_obj_and_place"]

    def play(environment, seed):
        """Yield what a random episode shows, one step at a time."""
        rng = random.Random(seed)
        _, seen = environment.reset(task)
        for _ in range(20):
            yield seen
            seen = environment.step(rng.choice(seen.actions))

    alone = [list(play(environment, seed)) for seed in (1, 2)]
    other = AlfworldEnvironment()
    both = zip(play(environment, 1), play(other, 2), strict=True)
    assert [list(episode) for episode in zip(*both, strict=True)] == alone
    other.close()


def test_a_reset_forgets_the_episode_before(houses, environment):
    first, second = houses["look_at_obj_in_light"], houses["pick_and_place_simple"]
    begun, facts = environment.reset(first), set(environment.facts)
    for command in walkthrough(first)[:-1]:
        environment.step(command)
    assert set(environment.facts) != facts
    environment.reset(second)
    assert environment.reset(first) == begun
    assert set(environment.facts) == facts


def test_a_file_written_anew_is_another_game(houses, environment, tmp_path):
    task = houses["pick_and_place_simple"]
    text = Path(task.source).read_text()
    copy = tmp_path / "game.tw-pddl"
    moved = dataclasses.replace(task, source=str(copy))
    copy.write_text(text)
    goal, _ = environment.reset(moved)
    data = json.loads(text)
    data["grammar"] = data["grammar"].replace(goal, "do nothing.")
    copy.write_text(json.dumps(data))
    assert environment.reset(moved)[0] == "do nothing."


@pytest.mark.parametrize(
    "goal", ['put a "red" mug in it.', "put it down.\nThen heat it."]
)
def test_goals_with_escapes_are_those_of_the_stock_engine(
    houses, environment, stock, tmp_path, goal
):
    data = json.loads(Path(houses["pick_and_place_simple"].source).read_text())
    was = environment.reset(houses["pick_and_place_simple"])[0]
    escaped = json.dumps(goal)[1:-1]
    data["grammar"] = data["grammar"].replace(was, escaped)
    source = tmp_path / "game.tw-pddl"
    source.write_text(json.dumps(data))
    task = dataclasses.replace(houses["pick_and_place_simple"], source=str(source))
    assert_same_episode(environment, stock, task, steps=2, seed=0)
    assert environment.reset(task)[0] == goal.replace('"', "")


def test_only_listed_commands_are_understood(houses, environment):
    _, seen = environment.reset(houses["pick_and_place_simple"])
    for action in ("fly", *INVALID):
        assert not environment.step(action).understood
    for response in ("<action>LOOK</action>", "I think: <action> Look\n</action>"):
        action = ACTION_FORMAT.parse(response)
        assert action.well_formed
        assert environment.step(action.text).understood
    # Its admissible text at the end of an untagged response is played all the same.
    action = ACTION_FORMAT.parse("look")
    assert not action.well_formed
    assert environment.step(action.text) == environment.step("look")
    assert "look" in seen.actions


def test_the_end_of_the_turns_pays_nothing_and_ends_the_episode(houses, environment):
    task = houses["pick_and_place_simple"]
    start = environment.reset(task)
    environment.step(walkthrough(task)[0])
    seen = environment.finish()
    assert (seen.reward, seen.success, seen.done, dict(seen.scores)) == (
        0.0,
        False,
        True,
        {},
    )
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("look")
    assert environment.reset(task) == start


def test_libraries_are_reused_and_never_shared(houses):
    from reskill_jax.environments.alfworld import engine as alfworld_engine

    first, second = alfworld_engine.Player(), alfworld_engine.Player()
    assert first._library is not second._library
    released = first._library
    first.close()
    first.close()  # releases nothing twice
    third, fourth = alfworld_engine.Player(), alfworld_engine.Player()
    assert third._library is released
    assert len({id(p._library) for p in (second, third, fourth)}) == 3
    for player in (second, third, fourth):
        player.close()


def test_commands_outside_an_episode_are_refused(houses, environment):
    task = houses["pick_and_place_simple"]
    assert environment.facts == ()
    with pytest.raises(RuntimeError, match=r"step\('look'\).*call reset"):
        environment.step("look")
    environment.reset(task)
    for command in walkthrough(task):
        environment.step(command)
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("look")
    environment.reset(task)
    environment.close()
    environment.close()
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step("look")
    with pytest.raises(RuntimeError, match="closed"):
        environment.reset(task)


GOTO = "receptacleatlocation(r:receptacle, lend:location)"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (None, "No such file"),
        (lambda data: "{", "not JSON"),
        (lambda data: "[]", "JSON list"),
        (lambda data: {**data, "grammar": None}, "lacks the text of grammar"),
        (
            lambda data: {"grammar": data["grammar"]},
            "lacks the text of pddl_domain, pddl_problem",
        ),
        (lambda data: {**data, "pddl_problem": "(define"}, "broken.*Missing"),
        (
            lambda data: {
                **data,
                "pddl_problem": re.sub(
                    r"\(atLocation agent1 [^()]*\)", "", data["pddl_problem"]
                ),
            },
            "goal cannot be reached",
        ),
        (lambda data: {**data, "grammar": "action {"}, "no sentence 'Your task"),
        (
            lambda data: {
                **data,
                "grammar": data["grammar"].replace(GOTO, "opened(r:receptacle)"),
            },
            "command of action GotoLocation.*depends on opened",
        ),
        (
            lambda data: {
                **data,
                "grammar": data["grammar"].replace("\\n\\n#task#", " #task#"),
            },
            "introduction is not a greeting",
        ),
    ],
)
def test_broken_games_are_named(houses, environment, tmp_path, damage, message):
    path = tmp_path / "game.tw-pddl"
    if damage is not None:
        source = Path(houses["pick_and_place_simple"].source).read_text()
        content = damage(json.loads(source))
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    task = Task("train/broken", KINDS[0], SPLITS[0], str(path))
    with pytest.raises(ValueError, match=f"{path} of task train/broken: .*{message}"):
        environment.reset(task)


# ---- what the engine's packages would do to the process


def test_the_process_is_left_as_it_was(houses, tmp_path):
    source = houses["pick_and_place_simple"].source
    code = f"""
import os, sys
from reskill_jax.environments.alfworld.environment import AlfworldEnvironment, Task
before = list(sys.argv), sys.stdout
AlfworldEnvironment().reset(Task("a", "b", "c", {source!r}))
assert (sys.argv, sys.stdout) == before
print("ALFWORLD_DATA" in os.environ, os.listdir(os.environ["HOME"]))
"""
    environ = {k: v for k, v in os.environ.items() if k != "ALFWORLD_DATA"}
    environ |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, "argument"]
    printed = subprocess.run(command, env=environ, capture_output=True, check=True)
    assert printed.stdout == b"False []\n"


def test_a_missing_extra_is_named(monkeypatch):
    engine = "reskill_jax.environments.alfworld.engine"
    monkeypatch.delitem(sys.modules, engine, raising=False)
    monkeypatch.setitem(sys.modules, "fast_downward", None)
    with pytest.raises(ImportError, match=r"pip install 'reskill_jax\[alfworld\]'"):
        importlib.import_module(engine)


# ---- queries: TextWorld's own search is the oracle

NAMES = {"object": "abc", "receptacle": "rst", "location": "lmn"}
QUERIES = [
    "inreceptacle(o:object, r:receptacle)",
    "at(r:receptacle, l:location) & inreceptacle(o:object, r:receptacle)",
    "near(r:receptacle, q:receptacle) & at(q:receptacle, l:location)",
    "inreceptacle(o:thing, r:receptacle) & at(r:receptacle, l:location)",
]
FACTS = [
    (predicate, types, (first, second))
    for predicate, types in [
        ("inreceptacle", ("object", "receptacle")),
        ("at", ("receptacle", "location")),
        ("near", ("receptacle", "receptacle")),
    ]
    for first in NAMES[types[0]]
    for second in NAMES[types[1]]
]


@settings(max_examples=60, deadline=None)
@given(
    facts=st.sets(st.sampled_from(FACTS)),
    query=st.sampled_from(QUERIES),
    bound=st.sampled_from([None, "r", "s"]),
)
def test_queries_are_answered_as_by_textworld(facts, query, bound):
    need_engine()
    from textworld import logic
    from textworld.envs.pddl.textgen import ContextSensitiveGrammar

    from reskill_jax.environments.alfworld.engine import Narrator

    supertypes = {"thing": (), **dict.fromkeys(NAMES, ("thing",))}
    oracle = logic.GameLogic()
    oracle.types = logic.TypeHierarchy()
    for name, above in supertypes.items():
        oracle.types.add(logic.Type(name, above))
    propositions = [
        logic.Proposition(predicate, list(map(logic.Variable, names, types)))
        for predicate, types, names in facts
    ]
    mapping = {}
    if bound:
        receptacle = logic.Variable(bound, "receptacle")
        mapping = {logic.Placeholder("r", "receptacle"): receptacle}
    rule = logic.Rule.parse_conjunctive_query(query)
    expected = [
        {(key.name, key.type): value.name for key, value in answer.items()}
        for answer in logic.State(oracle, propositions).all_assignments(rule, mapping)
    ]

    @dataclasses.dataclass
    class Type:
        name: str
        supertype_names: tuple

    rows: dict = {}
    for predicate, types, names in sorted(facts):
        rows[predicate, types] = (*rows.get((predicate, types), ()), names)
    grammar = ContextSensitiveGrammar()  # without rules: only queries are asked
    narrator = Narrator(grammar, {}, [Type(*pair) for pair in supertypes.items()])
    binding = {("r", "receptacle"): bound} if bound else {}
    assert list(narrator._answers(query, binding, rows)) == expected
