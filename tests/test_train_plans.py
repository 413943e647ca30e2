"""Whatever a strategy plans, a run that is killed at every step ends the same."""

import itertools
import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from corridor_runs import corridor_config, last_checkpoint
from corridor_strategies import Liberties
from killed_runs import KilledError, killed_at
from programs import deterministic, save_random_policy, written

from reskill_jax import train
from reskill_jax.build import learner, rollouts
from reskill_jax.checkpoint import Checkpointer
from reskill_jax.evaluate import evaluate, evaluate_run
from reskill_jax.policy.decoder import abstract_params
from reskill_jax.policy.decoder_config import load_config
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.show import show
from reskill_jax.rollout.context import open_context
from reskill_jax.termination import TerminatedError
from reskill_jax.workdir import Workdir

MODES = ("again", "pauses", "frozen", "parts", "again+pauses+frozen+parts")
STEPS = range(1, 7)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def config_of(policy, mode, overlap, **changes):
    # With every second step stored, a killed run begins two steps before.
    every = 1 + overlap
    return corridor_config(
        policy, mode, rollout__overlap=overlap, checkpoint__every=every, **changes
    )


@pytest.fixture(scope="module")
def straight(policy, tmp_path_factory):
    """Runs to their end, by mode and overlap, each made once."""
    made = {}

    def run(mode, overlap=0) -> Path:
        if (mode, overlap) not in made:
            place = tmp_path_factory.mktemp(f"{mode}-{overlap}")
            train.train(config_of(policy, mode, overlap), Workdir(place))
            made[mode, overlap] = place
        return made[mode, overlap]

    return run


def lines(place, step):
    text = (Workdir(place).episodes / f"train-{step:05d}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def trained(place):
    found = read_metrics(Workdir(place).metrics)
    return {line["step"]: line for line in found if line["phase"] == "train"}


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 1])
@pytest.mark.parametrize("mode", MODES)
def test_a_run_killed_at_every_step_ends_like_one_that_was_not(
    straight, policy, tmp_path, monkeypatch, mode, overlap
):
    wanted = straight(mode, overlap)
    config = config_of(policy, mode, overlap)
    for step in STEPS:
        killed_at(step, monkeypatch)
        with pytest.raises(KilledError):
            train.train(config, Workdir(tmp_path))
        monkeypatch.undo()
    train.train(config, Workdir(tmp_path))
    assert deterministic(tmp_path) == deterministic(wanted)
    assert written(tmp_path) == written(wanted)
    step, arrays, host = last_checkpoint(tmp_path, policy)
    wanted_step, wanted_arrays, wanted_host = last_checkpoint(wanted, policy)
    assert step == wanted_step == 6
    assert arrays == wanted_arrays
    assert host == wanted_host


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [0, 1])
def test_what_arms_are_expected_to_add_survives_a_kill(
    policy, tmp_path, monkeypatch, overlap
):
    changes = {"num_steps": 4, "grpo__estimator": "arm_adjusted"}
    config = config_of(policy, "arms", overlap, **changes)
    places = tmp_path / "straight", tmp_path / "killed"
    train.train(config, Workdir(places[0]))
    for step in (1, 2, 3):
        killed_at(step, monkeypatch)
        with pytest.raises(KilledError):
            train.train(config, Workdir(places[1]))
        monkeypatch.undo()
    train.train(config, Workdir(places[1]))
    assert deterministic(places[1]) == deterministic(places[0])
    assert last_checkpoint(places[1], policy) == last_checkpoint(places[0], policy)
    for step in range(1, 5):
        found = {(x["arm"], x["arm_effect"]) for x in lines(places[1], step)}
        assert found == {(0, 0.0), (1, step / 7)}


def test_turns_are_compared_and_groups_without_variance_dropped(policy, tmp_path):
    changes = {"grpo.estimator": "gigpo", "grpo.drop_zero_variance": True}
    config = corridor_config(policy, num_steps=1, eval__splits=())
    config.update_from_flattened_dict(changes)
    train.train(config, Workdir(tmp_path))
    metrics = trained(tmp_path)[1]
    assert metrics["adv/anchor_size"] >= 1
    assert 0 <= metrics["batch/dropped_groups"] <= 1
    assert ("grpo/loss" in metrics) == (metrics["batch/dropped_groups"] < 1)


def test_groups_may_have_other_sizes_than_configured(policy, tmp_path):
    config = corridor_config(policy, "sizes", num_steps=2, eval__splits=())
    train.train(config, Workdir(tmp_path))
    for step, size in ((1, 2), (2, 4)):
        groups = [line["group"] for line in lines(tmp_path, step)]
        assert groups == [group for group in range(3) for _ in range(size)]
        assert "grpo/loss" in trained(tmp_path)[step]


@pytest.mark.slow
def test_sigterm_ends_a_step_that_waits_for_its_strategy(
    straight, policy, tmp_path, monkeypatch
):
    """As one waits for a creator; nothing of the step remains."""
    config = corridor_config(policy, "again", checkpoint__every=100)
    observe = Liberties.observe

    def waiting(strategy, step, episodes):
        learned = observe(strategy, step, episodes)
        if step == 3:
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it should have been interrupted")
        return learned

    with monkeypatch.context() as patch:
        patch.setattr(Liberties, "observe", waiting)
        with pytest.raises(TerminatedError):
            train.train(config, Workdir(tmp_path))
    assert last_checkpoint(tmp_path, policy)[0] == 2
    train.train(config, Workdir(tmp_path))
    assert deterministic(tmp_path) == deterministic(straight("again"))
    assert written(tmp_path) == written(straight("again"))


def test_an_evaluation_may_be_ended_and_then_killed_before_it_is_stored(
    straight, policy, tmp_path, monkeypatch
):
    """The checkpoint is of a state that was not evaluated."""
    config = corridor_config(policy, "again", checkpoint__every=100)
    evaluated = []

    def ended(*arguments):
        evaluated.append(arguments)
        if len(evaluated) == 2:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(*arguments)

    class Logbook(train.Logbook):
        def evaluation(self, *arguments):
            super().evaluation(*arguments)
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(train, "evaluate", ended)
        with pytest.raises(TerminatedError):
            train.train(config, Workdir(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(train, "Logbook", Logbook)
        with pytest.raises(KilledError):
            train.train(config, Workdir(tmp_path))
    train.train(config, Workdir(tmp_path))
    assert deterministic(tmp_path) == deterministic(straight("again"))
    assert written(tmp_path) == written(straight("again"))


def test_unsolved_tasks_are_played_again_and_only_the_others_drawn(straight, policy):
    place = straight("again")
    played, drawn = [], 0
    for step in STEPS:
        now = lines(place, step)
        tasks = list(dict.fromkeys(line["task"] for line in now))
        unsolved = [
            task
            for task in dict.fromkeys(line["task"] for line in played)
            if not any(line["success"] for line in played if line["task"] == task)
        ]
        assert tasks[: len(unsolved)] == unsolved
        drawn += len(tasks) - len(unsolved)
        # The context tells of the last try, and is another one at every step.
        assert len({line["bank"] for line in now}) == 1
        assert all(task in now[0]["bank"] for task in unsolved)
        assert now[0]["bank"].count("train/") == len(unsolved)
        played = now
    _, _, host = last_checkpoint(place, policy)
    assert 3 < host["drawn"] == drawn < 18
    # Evaluation uses what the strategy has accepted.
    incumbent = open_context(host["incumbent"], {})
    (evaluated,) = {
        json.loads(line)["bank"]
        for line in (Workdir(place).episodes / "eval-00006.jsonl").open()
    }
    assert evaluated == incumbent.hash


@pytest.mark.parametrize("overlap", [0, 1])
def test_a_step_may_play_nothing(straight, policy, overlap):
    place = straight("pauses", overlap)
    metrics = trained(place)
    for step in STEPS:
        pause = step % 3 == 2
        assert (lines(place, step) == []) == pause
        assert ("grpo/loss" in metrics[step]) == (not pause)
        assert ("rollout/success" in metrics[step]) == (not pause)
    _, _, host = last_checkpoint(place, policy)
    assert host["drawn"] == 4 * 3


def test_a_run_whose_last_step_played_nothing_can_be_shown(policy, tmp_path):
    config = config_of(policy, "pauses", 0, num_steps=2)
    workdir = Workdir(tmp_path)
    workdir.bind(config.to_dict())
    train.train(config, workdir)
    text = show(workdir)
    assert "step 2 of 2" in text
    assert "Nothing was played at step 2" in text
    rate = trained(tmp_path)[1]["rollout/success"]  # of the one step that did
    assert f"     2 {rate:9.1%} " in text


def test_without_splits_nothing_is_evaluated_or_told(policy, tmp_path, capsys):
    config = config_of(policy, "again", 0, num_steps=2, eval__splits=(), eval__every=1)
    workdir = Workdir(tmp_path)
    workdir.bind(config.to_dict())
    assert train.train(config, workdir) == {}
    assert {line["phase"] for line in read_metrics(workdir.metrics)} == {"train"}
    assert not list(workdir.episodes.glob("eval-*"))
    assert "evaluation" not in capsys.readouterr().out
    assert "Greedy success" not in show(workdir)
    with pytest.raises(ValueError, match=r"config\.eval\.splits=\(\): nothing to eval"):
        evaluate_run(config, workdir)


@pytest.mark.parametrize(
    ("overlap", "versions", "pushed"),
    [
        (0, {1: 0, 2: 1, 3: 1, 4: 3, 5: 3, 6: 5}, [1, 3, 5]),
        # A batch is of the weights before the update that is made meanwhile.
        (1, {1: 0, 2: 0, 3: 1, 4: 1, 5: 3, 6: 3}, [1, 3, 5]),
    ],
)
def test_a_step_without_training_leaves_weights_and_engine_alone(
    straight, policy, tmp_path, monkeypatch, overlap, versions, pushed
):
    log = []

    class Engine(rollouts.JaxEngine):
        def push(self, params, version):
            log.append(version)
            super().push(params, version)

        def sleep(self):
            log.append("sleep")
            super().sleep()

    monkeypatch.setattr(rollouts, "JaxEngine", Engine)
    train.train(config_of(policy, "frozen", overlap), Workdir(tmp_path))
    assert [entry for entry in log if entry != "sleep"] == pushed
    # Without overlap the engine sleeps during the three updates, never else.
    assert log.count("sleep") == (0 if overlap else 3)
    metrics = trained(tmp_path)
    for step in STEPS:
        found = {v for line in lines(tmp_path, step) for v in line["versions"]}
        assert found == {versions[step]}
        assert ("grpo/loss" in metrics[step]) == (step % 2 == 1)
    assert written(tmp_path) == written(straight("frozen", overlap))


def test_weights_are_those_of_the_last_step_that_trained(policy, tmp_path):
    config = config_of(policy, "frozen", 0, checkpoint__keep=9)
    train.train(config, Workdir(tmp_path))
    decoder = load_config(policy)
    checkpointer = Checkpointer(Workdir(tmp_path).checkpoints, read_only=True)
    found = []
    for step in STEPS:
        template = {"params": abstract_params(decoder)}
        restored = checkpointer.restore(template, step, partial=True)
        leaves = jax.tree.leaves(restored.arrays)
        found.append(b"".join(np.asarray(x).tobytes() for x in leaves))
    checkpointer.close()
    same = [one == other for one, other in itertools.pairwise(found)]
    assert same == [True, False, True, False, True]


@pytest.mark.parametrize("overlap", [0, 1])
def test_groups_for_verification_and_rollouts_that_are_not_played(
    straight, policy, tmp_path, monkeypatch, overlap
):
    expected = written(straight("parts", overlap))
    learnt = []
    make_update = learner.make_update

    def watched(*arguments, **options):
        update = make_update(*arguments, **options)

        def note(state, reference, episodes, **options):
            learnt.append([(e.group, e.index) for e in episodes])
            return update(state, reference, episodes, **options)

        return note

    monkeypatch.setattr(learner, "make_update", watched)
    train.train(config_of(policy, "parts", overlap), Workdir(tmp_path))
    assert written(tmp_path) == expected
    for step, groups in zip(STEPS, learnt, strict=True):
        now = lines(tmp_path, step)
        places = [(line["group"], line["index"]) for line in now]
        played = [index for index in range(3) if index != step % 3]
        assert places == [(g, i) for g in range(3) for i in played]
        assert groups == [place for place in places if place[0] != step % 3]
        assert {line["arm"] for line in now if line["group"] == 0} == {1}
        hashes = {line["bank"] for line in now if line["arm"] == 1}
        assert hashes == {f"tries:{((now[0]['task'], f'step {step}'),)!r}"}
        assert {line["bank"] for line in now if line["arm"] == 0} == {"empty"}


@pytest.mark.slow
def test_a_run_that_is_made_longer_goes_on_as_it_began(straight, policy, tmp_path):
    config = config_of(policy, "again", 0)
    for steps in (3, 6):
        config.num_steps = steps
        train.train(config, Workdir(tmp_path))
    assert deterministic(tmp_path) == deterministic(straight("again"))
    assert written(tmp_path) == written(straight("again"))


def test_a_remote_world_is_played_like_the_same_one_in_processes(
    straight, policy, tmp_path
):
    config = config_of(policy, "again", 0, env__remote=True)
    train.train(config, Workdir(tmp_path))
    assert deterministic(tmp_path) == deterministic(straight("again"))
    assert written(tmp_path) == written(straight("again"))
