"""The environment on the real simulator: texts, questions, scores, repeats."""

import gc
import importlib.util
import json
import random

import pytest

from reskill_jax.environments.scienceworld.environment import (
    UNKNOWN,
    ScienceWorldEnvironment,
)
from reskill_jax.environments.scienceworld.machine import Simulator, shared_machine
from reskill_jax.environments.scienceworld.tasks import VARIATIONS, panel

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("scienceworld") is None,
    reason="the extra `scienceworld` is not installed",
)
HEAP = 512
FORMS = (
    "focus on OBJ", "pick up OBJ", "look at OBJ", "open OBJ", "move OBJ to OBJ",
    "mix OBJ", "activate OBJ", "look around", "inventory", "wait", "wait1",
    "teleport to outside", "teleport to greenhouse", "reset task", "no such thing",
)  # fmt: skip


def tasks_of(*names, split="train", count=1):
    return [
        task
        for name in names
        for task in panel([name], (), split, count, simplifications="easy")
    ]


def environment():
    return ScienceWorldEnvironment(heap_mb=HEAP)


def objects(observation):
    return observation.hint.split("Objects: ")[1].split(", ")


def play(player, task, seed, turns=10):
    """Play at random; yield after every turn, and return what was seen."""
    rng = random.Random(seed)
    goal, now = player.reset(task)
    seen = [(goal, now)]
    while len(seen) < turns and not now.done:
        yield
        command = rng.choice([*now.actions, "99"]) if now.actions else rng.choice(FORMS)
        while "OBJ" in command:
            command = command.replace("OBJ", rng.choice(objects(now)), 1)
        now = player.step(command)
        seen.append((command, now))
    return seen


def alone(player, task, seed):
    turns = play(player, task, seed)
    while True:
        try:
            next(turns)
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def animals():
    return environment()


TASK = tasks_of("find-animal")[0]


def test_it_says_what_is_asked_seen_and_possible(animals):
    goal, first = animals.reset(TASK)
    assert goal.startswith("Your task is to find a(n) animal.")
    assert first.text.startswith("This room is called the hallway.")
    assert first.actions is None
    assert "Forms of commands: activate OBJ, close OBJ," in first.hint
    assert "reset task" not in first.hint
    assert "kitchen" in objects(first)
    moved = animals.step("TELEPORT to kitchen")
    assert moved.text == "You teleport to the kitchen."
    assert moved.understood
    assert moved.reward == 0


def test_what_is_no_command_is_not_understood_and_no_progress_can_be_reset(animals):
    animals.reset(TASK)
    hidden = ("reset  TASK", " reset task ", "reset the task", "A reset\tan task the")
    trimmed = ("\0reset task", "reset task\x1b")
    for command in ("fly to the moon", "", *hidden, *trimmed):
        answer = animals.step(command)
        assert not answer.understood
        assert answer.text == UNKNOWN
    assert animals.step("look around").understood


def test_half_a_character_is_no_command_and_harms_no_machine(animals):
    animals.reset(TASK)
    answer = animals.step("look at \ud800")
    assert not answer.understood
    assert answer.text == UNKNOWN
    assert animals.step("look around").understood


def test_a_question_is_answered_by_a_number(animals):
    animals.reset(TASK)
    animals.step("teleport to outside")
    asked = animals.step("look at door")
    assert asked.question
    assert asked.actions == ("0", "1", "2")
    assert asked.hint == ""
    assert "1:\tlook at door between" in asked.text
    answered = animals.step("1")
    assert answered.understood
    assert not answered.question
    assert "door" in answered.text
    animals.step("look at door")
    lost = animals.step("look around")  # cancels, and is itself not played
    assert not lost.understood
    assert lost.text.startswith("Unknown action.")


def test_a_question_stays_open_where_the_simulator_keeps_it_so(animals):
    animals.reset(TASK)
    animals.step("teleport to outside")
    asked = animals.step("look at door")
    for command in ("help", " Task ", "objects"):
        told = animals.step(command)
        assert told.question
        assert told.actions == asked.actions
        assert told.understood
    assert animals.step("1").text.startswith("A door to the greenhouse")
    assert animals.step("help").actions is None
    animals.step("look at door")
    _, anew = animals.reset(TASK)
    assert anew.actions is None
    assert animals.step("help").actions is None


def test_the_hidden_command_is_lost_as_an_answer_too(animals):
    animals.reset(TASK)
    animals.step("teleport to outside")
    assert animals.step("look at door").question
    lost = animals.step("reset task")
    assert not lost.understood
    assert not lost.question
    assert animals.step("look around").text.startswith("This outside location")


def test_a_wrong_focus_ends_the_episode(animals):
    animals.reset(TASK)
    end = animals.step("focus on agent")
    assert end.done
    assert not end.success
    assert end.reward == 0
    assert end.scores == {"score": 0, "wrong_focus": 1}
    with pytest.raises(RuntimeError, match="outside of an episode"):
        animals.step("look around")
    with pytest.raises(RuntimeError, match="outside of an episode"):
        animals.finish()


def test_the_score_is_paid_at_the_end_if_it_passes_the_threshold(animals):
    animals.reset(TASK)
    assert animals.finish().scores == {"score": 8, "wrong_focus": 0}
    _, now = animals.reset(TASK)
    for command, score in (("focus on butterfly", 67), ("pick up butterfly", 75)):
        animals.reset(TASK)
        animals.step("teleport to outside")
        animals.step("focus on butterfly")
        if command != "focus on butterfly":
            now = animals.step(command)
            assert now.reward == 0
        end = animals.finish()
        assert end.done
        assert end.success == (score > 70)
        assert end.reward == end.success
        assert end.scores == {"score": score, "wrong_focus": 0}


def test_a_goal_that_is_reached_ends_and_pays(animals):
    animals.reset(TASK)
    for command in ("teleport to outside", "focus on butterfly", "pick up butterfly"):
        animals.step(command)
    animals.step("teleport to kitchen")
    end = animals.step("move butterfly to red box")
    assert end.done
    assert end.success
    assert end.reward == 1
    assert end.scores == {"score": 100, "wrong_focus": 0}


def test_a_task_that_is_none_is_refused(animals):
    with pytest.raises(ValueError, match="task 'fly', variation 0"):
        Simulator(shared_machine(HEAP)).load("fly", 0, "easy")


SOME = list(VARIATIONS)[::5]


def test_turns_and_tasks_hand_over_no_objects_of_java():
    machine = shared_machine(HEAP)
    simulator = Simulator(machine)
    source = tasks_of("find-animal")[0].source
    name, variation, simplifications = json.loads(source)
    simulator.load(name, variation, simplifications)
    handed_over = machine._gateway.java_gateway_server.getGateway().getBindings()
    gc.collect()
    gc.disable()  # it would give back what is handed over
    try:
        before = handed_over.size()
        for _ in range(2):
            simulator.load(name, variation, simplifications)
            text, _, done = simulator.step("look around")
            objects = simulator.objects
        assert handed_over.size() == before
    finally:
        gc.enable()
    assert text.startswith("This room is called the hallway.")
    assert not done
    assert objects == machine.strings(simulator._server.getPossibleObjects())


def test_episodes_that_take_turns_see_what_each_sees_alone():
    tasks = tasks_of(*SOME)
    player = environment()
    expected = [alone(player, task, seed) for seed, task in enumerate(tasks)]
    rng = random.Random(0)
    running = {seed: play(environment(), task, seed) for seed, task in enumerate(tasks)}
    ended = {}
    while running:
        seed = rng.choice(sorted(running))
        try:
            next(running[seed])
        except StopIteration as end:
            ended[seed] = end.value
            del running[seed]
    assert [ended[seed] for seed in range(len(tasks))] == expected


@pytest.mark.slow
def test_another_machine_sees_the_same():
    tasks = tasks_of(*VARIATIONS)
    first = environment()
    expected = [alone(first, task, seed) for seed, task in enumerate(tasks)]
    shared_machine(HEAP).process.kill()
    shared_machine(HEAP).process.wait()
    again = environment()
    assert again._simulator._machine is not first._simulator._machine
    assert [alone(again, task, seed) for seed, task in enumerate(tasks)] == expected


@pytest.mark.slow
def test_the_numbers_of_variations_are_the_simulator_s():
    simulator = Simulator(shared_machine(HEAP))
    for name, (train, dev, test) in VARIATIONS.items():
        simulator.load(name, 0, "easy")
        numbers = [simulator.variations(split) for split in ("Train", "Dev", "Test")]
        assert [number for split in numbers for number in split] == list(
            range(train + dev + test)
        )
        assert [len(split) for split in numbers] == [train, dev, test]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_gold_path_reaches_the_goal():
    """Two variations of each of the 30 tasks."""
    simulator = Simulator(shared_machine(HEAP))
    player = environment()
    scores = {}
    for task in tasks_of(*VARIATIONS, split="test", count=2):
        name, variation = task.id.split("/")
        simulator.load(name, int(variation), "easy", gold=True)
        path = simulator.gold_path
        player.reset(task)
        for command in path:
            now = player.step(command)
            if now.done:
                break
        scores[task.id] = now.scores.get("score"), now.success
    assert len(scores) == 60
    assert set(scores.values()) == {(100, True)}, scores
