"""What a run tells people while it goes on."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.report.logbook import (
    Logbook,
    summary,
    write_episodes,
    write_evaluation,
)
from reskill_jax.report.metrics import read_metrics
from reskill_jax.rollout.context import BankContext, EmptyContext
from reskill_jax.rollout.episode import Episode, Turn
from reskill_jax.skills.skill import Skill, SkillBank
from reskill_jax.strategies.base import Learned
from reskill_jax.workdir import Workdir

TASK = Task("train/a", "kind", "train", "")
NOTHING = np.zeros(1, np.int32)

START = {"total": 2, "done": 0, "evaluated": True, "logprob_diff_warning": 0.02}


def episode(arm, success):
    turn = Turn(0, 0, NOTHING, NOTHING, NOTHING, 0, "You see a mug.", "", "look", True)
    return Episode(TASK, 0, 0, arm, "bank", "goal", [], [turn], success=success)


@pytest.mark.parametrize(("difference", "warned"), [(0.021, True), (0.019, False)])
def test_warns_where_sampler_and_trainer_differ(tmp_path, capsys, difference, warned):
    logbook = Logbook(
        Workdir(tmp_path), total=2, done=0, evaluated=True, logprob_diff_warning=0.02
    )
    metrics = {"rollout/logprob_diff": difference, "rollout/staleness": 0.0}
    episodes = [episode(0, True), episode(1, False)]
    logbook.step(1, metrics, episodes, Learned(), EmptyContext())
    logbook.close()
    shown = capsys.readouterr().out
    assert ("WARNING: log-probs of sampler and trainer differ" in shown) == warned
    assert "success old 100% new 0%" in shown
    assert (tmp_path / "episodes" / "train-00001.jsonl").read_text().count("mug") == 2


def test_says_that_what_was_learnt_since_is_part_of_the_difference(tmp_path, capsys):
    logbook = Logbook(
        Workdir(tmp_path), total=2, done=0, evaluated=True, logprob_diff_warning=0.02
    )
    metrics = {"rollout/logprob_diff": 0.03, "rollout/staleness": 1.0}
    logbook.step(1, metrics, [episode(0, True)], Learned(), EmptyContext())
    logbook.close()
    shown = capsys.readouterr().out
    assert "0.03 nats on average after 1 updates, above" in shown
    assert "| success 100% |" in shown  # there is no bank to compare


def test_it_is_told_once_that_openings_had_no_room(tmp_path, capsys):
    logbook = Logbook(Workdir(tmp_path), **START)
    for step, share in ((1, 0.0), (2, 0.25), (3, 1.0)):
        metrics = {"rollout/opening_cut": share}
        logbook.step(step, metrics, [], Learned(), EmptyContext())
    logbook.close()
    shown = capsys.readouterr().out
    assert shown.count("WARNING") == 1
    assert "step 2: WARNING: prompts had no room for all that opens an episode" in shown
    assert "in 25% of those" in shown


def test_a_step_leaves_what_was_learnt_and_the_accepted_bank(tmp_path, capsys):
    bank = SkillBank((Skill("look-first", "d", "Always.", "Look."),))
    workdir = Workdir(tmp_path)
    logbook = Logbook(
        workdir, total=2, done=0, evaluated=True, logprob_diff_warning=0.02
    )
    learned = Learned(
        events=("step 1: on trial",), decisions=({"step": 1},), status="3 memories"
    )
    logbook.step(1, {}, [episode(0, True)], learned, EmptyContext())
    assert not workdir.skills.exists()
    logbook.step(2, {"a": 1.0}, [], Learned(decisions=({"n": 2},)), BankContext(bank))
    logbook.close()
    shown = capsys.readouterr().out
    assert "step 1: on trial\n" in shown
    assert "| 3 memories |" in shown
    assert "success old - new -" in shown  # of the step that played nothing
    assert workdir.trials.read_text() == '{"step": 1}\n{"n": 2}\n'
    assert (workdir.skills / "look-first" / "SKILL.md").exists()
    assert (workdir.episodes / "train-00002.jsonl").read_text() == ""


def test_what_is_on_trial_is_kept_until_it_is_not(tmp_path):
    workdir, candidate = Workdir(tmp_path), {"candidate": "a"}
    with Logbook(workdir, **START, first=EmptyContext()) as logbook:
        logbook.step(1, {}, [], Learned(), EmptyContext())
        assert not workdir.on_trial.exists()  # nor the first bank: there is none
        assert not workdir.first_bank.exists()
        logbook.step(2, {}, [], Learned(on_trial=(candidate,)), EmptyContext())
    assert json.loads(workdir.on_trial.read_text())["candidates"] == [candidate]
    with Logbook(workdir, **START | {"done": 2}) as logbook:  # a resumed run
        logbook.step(3, {}, [], Learned(), EmptyContext())
    assert json.loads(workdir.on_trial.read_text()) == {"candidates": []}


def test_the_line_of_an_episode_tells_all_but_its_tokens(tmp_path):
    turns = [
        Turn(0, 3, np.arange(2), np.arange(5), np.zeros(5), 7, "o", "<a>x", "x", True,
             ("s",), 0.25, False),
        Turn(0, 6, np.arange(1), np.arange(4), np.zeros(4), 8, "p", "y", "y", False),
    ]  # fmt: skip
    played = Episode(
        TASK,
        3,
        1,
        2,
        "hash",
        "goal",
        [np.arange(9)],
        turns,
        "end",
        0.25,
        True,
        {"em": 0.5},
    )
    write_episodes(tmp_path / "e.jsonl", [played], 9)
    line = json.loads((tmp_path / "e.jsonl").read_text())
    assert line == {
        "task": "train/a",
        "kind": "kind",
        "split": "train",
        "goal": "goal",
        "bank": "hash",
        "step": 9,
        "success": True,
        "actions": ["x", "y"],
        "observations": ["o", "p", "end"],
        "active_skills": [["s"], []],
        "valid": [True, False],
        "arm": 2,
        "arm_effect": 0.0,
        "group": 3,
        "index": 1,
        "reward": 0.25,
        "scores": {"em": 0.5},
        "lost": "",
        "responses": ["<a>x", "y"],
        "rewards": [0.25, 0.0],
        "prompt_tokens": [5, 7],
        "response_tokens": [5, 4],
        "stopped": [False, True],
        "versions": [7, 8],
    }


def test_an_evaluation_by_itself_is_kept_with_its_panels(tmp_path):
    panel = TaskPanel((TASK,))
    metrics = {"train/success": 1.0}
    write_evaluation(
        Workdir(tmp_path), 4, metrics, [episode(0, True)], {"train": panel}
    )
    (folder,) = (tmp_path / "evaluations").iterdir()
    assert folder.name.endswith("-step-00004")
    assert json.loads((folder / "metrics.json").read_text()) == {
        "step": 4,
        "metrics": metrics,
        "panels": {"train": {"hash": panel.hash, "tasks": 1}},
    }
    (line,) = (folder / "episodes.jsonl").read_text().splitlines()
    assert json.loads(line)["step"] == 4


def test_evaluations_of_the_same_second_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    for value in (0.0, 1.0, 0.5):
        metrics = {"train/success": value}
        write_evaluation(Workdir(tmp_path), 4, metrics, [], {})
    folders = sorted((tmp_path / "evaluations").iterdir())
    texts = [(folder / "metrics.json").read_text() for folder in folders]
    found = [json.loads(text)["metrics"]["train/success"] for text in texts]
    assert found == [0.0, 1.0, 0.5]


def test_an_evaluation_is_told_by_split_with_its_panel():
    panels = {"a": TaskPanel((TASK,)), "b": TaskPanel((TASK, replace(TASK, id="2")))}
    metrics = {"a/success": 0.5, "a/success/look": 1.0, "b/success": 0.25}
    metrics |= {"a/batch_invariant": 1.0, "b/batch_invariant": 1.0}
    told = (
        f"evaluation after 7 steps: a 50.0% (1:{panels['a'].hash}), "
        f"b 25.0% (2:{panels['b'].hash})"
    )
    assert summary(7, metrics, panels) == told
    metrics["b/batch_invariant"] = 0.0
    assert summary(7, metrics, panels) == (
        f"{told}; the engine is not batch-invariant, so that a repeat may differ"
    )
    assert summary(7, {}, {}) == ""


def test_the_line_of_an_evaluation_has_its_panels(tmp_path, capsys):
    panel = TaskPanel((TASK,))
    logbook = Logbook(
        Workdir(tmp_path), total=2, done=0, evaluated=True, logprob_diff_warning=0.02
    )
    metrics = {"train/success": 1.0, "train/batch_invariant": 1.0}
    logbook.evaluation(0, metrics, [episode(0, True)], {"train": panel})
    logbook.evaluation(2, {}, [], {})
    logbook.close()
    first, last = read_metrics(tmp_path / "metrics.jsonl")
    assert first["panels"] == {"train": f"1:{panel.hash}"}
    assert last == {"phase": "eval", "step": 2}
    assert capsys.readouterr().out.count("evaluation after") == 1
