"""What is compared on the same held-out tasks, and that it can be made."""

import dataclasses
import json
import os
import sys

import numpy as np
import pytest
from programs import ROOT, start

from reskill_jax.benchmarks.reporting import report
from reskill_jax.codec import encode
from reskill_jax.creator.proposal import PastTrial, Proposal
from reskill_jax.experiments import (
    ablations,
    adaptation,
    adaptation_games,
    adaptation_scienceworld,
    causes,
    laboratory,
    unseen,
)
from reskill_jax.experiments.arms import ALONE, ARMS
from reskill_jax.experiments.attempt import Attempt, Size, course
from reskill_jax.experiments.comparison import compare, summary, table
from reskill_jax.report.metrics import MetricWriter
from reskill_jax.skills.operations import Delete
from reskill_jax.workdir import Workdir

SPLIT = "valid_unseen"
SMALL = Size(1, 1, tasks=3, samples=2, houses=72, dev=6, held_out=6)


def figures(*successes, panel="3:abc", trials=(), course=(0.1, 0.2)):
    return {
        "panel": panel,
        "samples": 4,
        "successes": list(successes),
        "course": list(course),
        "trials": [{"accepted": accepted} for accepted in trials],
    }


FOUND = {
    ALONE: {0: figures(0, 1, 2), 1: figures(1, 1, 1)},
    "reskill": {
        0: figures(2, 3, 4, trials=(True, False)),
        1: figures(3, 3, 3),
        2: figures(4, 4, 4),
    },
    "grpo trained": {0: figures(1, 1, 1), 1: figures(1, 1, 1)},
    "reskill trained": {
        seed: figures(1, 1, 1, course=(0.3 + 0.1 * seed, 0.4)) for seed in (0, 1)
    },
}


def test_arms_are_compared_on_seeds_that_both_have():
    gain = compare(FOUND, "reskill", ALONE)
    assert gain.mean == pytest.approx(0.5)
    assert compare(FOUND, "reskill", "expel") is None
    area = compare(FOUND, "reskill trained", "grpo trained", "course")
    assert area.mean == pytest.approx(np.mean([0.2, 0.25]))
    assert area.error == pytest.approx(0.025)


def test_other_tasks_are_not_compared():
    found = {"a": {0: figures(1, 2)}, "b": {0: figures(1, 2, panel="2:def")}}
    with pytest.raises(ValueError, match="a and b have not played the same tasks"):
        compare(found, "a", "b")


def test_the_table_has_gains_and_trials(capsys):
    rows = {row.split("  ")[0]: row for row in table(FOUND, ALONE).splitlines()[2:]}
    assert "25.0%" in rows[ALONE]
    assert "+50.0 [" in rows["reskill"]
    assert rows["reskill"].endswith("1 of 2")
    values, bars = summary(FOUND, unseen.EXPERIMENT)
    assert values["reskill/seeds"] == 3
    assert values["reskill trained/area"] == pytest.approx(0.375)
    assert bars["reskill over no skills"].met
    surely = "area under the curve, reskill trained over grpo trained, lower end"
    known = {name for name, bar in bars.items() if bar.known}
    assert known == {"reskill over no skills", surely}
    assert "reskill over remark, lower end" in bars  # it is promised, and not played
    assert bars[surely].value < values[surely.removesuffix(", lower end")]
    assert "area under the curve" in capsys.readouterr().out


def test_what_one_seed_cannot_tell_is_called_unknown(capsys):
    found = {name: {0: by_seed[0]} for name, by_seed in FOUND.items()}
    shown = table(found, "grpo trained")
    values, bars = summary(found, unseen.EXPERIMENT)
    report("unseen", values, bars)
    shown += capsys.readouterr().out
    assert "nan" not in shown.lower()
    assert "+20.0 [unknown]" in shown
    last = json.loads(shown.splitlines()[-1], parse_constant=pytest.fail)
    surely = "area under the curve, reskill trained over grpo trained, lower end"
    assert last["bars"][surely] == {"value": None, "target": 0.0, "met": False}
    assert f"{surely}: unknown, above 0: NOT KNOWN" in shown


def test_one_seed_promises_nothing_of_others_and_no_gain_is_none(capsys):
    one = {"reskill": {0: figures(4, 4, 3)}, "static": {0: figures(1, 1, 1)}}
    _, bars = summary(one, unseen.EXPERIMENT)
    assert not bars["reskill over static, lower end"].known
    assert "] of tasks" in table(one, "static")
    alike = {name: {s: figures(1, 1, 1) for s in (0, 1)} for name in one}
    _, bars = summary(alike, unseen.EXPERIMENT)
    bar = bars["reskill over static, lower end"]
    assert (bar.value, bar.met) == (0, False)
    capsys.readouterr()


def test_a_row_says_on_how_many_seeds_it_is_compared():
    found = {ALONE: {0: figures(0, 1, 2), 1: figures(1, 1, 1)}}
    found["reskill"] = {s: figures(2, 3, 4 - s) for s in range(3)}
    assert "(2 seeds)" in table(found, ALONE)
    values, _ = summary(found, unseen.EXPERIMENT)
    assert values["reskill/gain_seeds"] == 2
    assert values["reskill/seeds"] == 3


def test_an_arm_that_needs_training_before_is_refused_without():
    program = (sys.executable, "-m", "reskill_jax.experiments.adaptation")
    done = start(*program, "--arms=no skills after reskill", "--minutes=0.00001")
    assert done.returncode != 0
    assert "adaptation trains nothing before" in done.stderr + done.stdout


def test_a_table_of_nothing_has_a_header():
    assert table({}, ALONE).startswith("arm  seeds  success")


def test_an_arm_without_a_run_has_no_area():
    alone = {
        seed: {k: v for k, v in f.items() if k != "course"}
        for seed, f in FOUND[ALONE].items()
    }
    found = FOUND | {ALONE: alone}
    assert compare(found, "reskill", ALONE, "course") is None
    assert compare(found, "reskill", ALONE).mean == pytest.approx(0.5)
    assert "area" not in {
        name.split("/")[-1] for name in summary({ALONE: alone}, unseen.EXPERIMENT)[0]
    }


MODULES = [unseen, adaptation, laboratory, ablations, causes]
ELSEWHERE = [adaptation_games, adaptation_scienceworld]


@pytest.mark.parametrize("module", MODULES + ELSEWHERE)
def test_experiments_name_arms_that_there_are(module):
    experiment = module.EXPERIMENT
    assert module.__name__.endswith(experiment.name)
    assert set(experiment.arms) <= set(ARMS)
    claimed = {name for x in experiment.claims for name in (x.one, x.other)}
    assert claimed <= set(experiment.arms)


def test_reskill_is_compared_with_every_other_way_to_adapt(capsys):
    others = {"static", "auto_accept", "expel", "skillrl"}
    found = {name: {0: figures(0, 1, 2), 1: figures(1, 1, 1)} for name in others}
    values, _ = summary(FOUND | found, unseen.EXPERIMENT)
    said = capsys.readouterr().out
    for name in others:
        assert values[f"reskill over {name}"] == pytest.approx(0.5)
        assert f"reskill over {name}: +50.0 [" in said


def test_ablations_go_on_with_the_runs_of_the_laboratory():
    mine, theirs = (
        Attempt(module.EXPERIMENT, "reskill trained", 3, SMALL, SPLIT)
        for module in (ablations, laboratory)
    )
    assert (mine.title, mine.key) == (theirs.title, theirs.key)


def test_causes_are_looked_for_where_nothing_is_reported():
    looked, reported = causes.EXPERIMENT, laboratory.EXPERIMENT
    assert looked.splits == ("dev",)
    assert reported.splits[0] != "dev"
    assert not {*looked.seeds} & {*reported.seeds}
    own, other = (
        Attempt(x, "grpo trained", 100, SMALL, "dev") for x in (looked, reported)
    )
    assert own.title != other.title


def test_figures_depend_on_the_run_before_and_on_the_arm(monkeypatch):
    monkeypatch.chdir(ROOT)

    def key(name, seed=0, size=SMALL):
        return Attempt(unseen.EXPERIMENT, name, seed, size, SPLIT).key

    names = {key(name) for name in ARMS}
    assert len(names) == len(ARMS)
    assert key(ALONE, seed=1) not in names
    assert key(ALONE, size=dataclasses.replace(SMALL, first_steps=2)) not in names


def test_the_course_of_a_run_is_read(tmp_path):
    run = Workdir(tmp_path)
    writer = MetricWriter(run.metrics)
    writer.write(1, {"rollout/success": 0.25})
    writer.write(1, {"valid_unseen/success": 0.75}, phase="eval")
    writer.write(2, {"rollout/success": 0.5})
    writer.write(3, {"time/rollout": 1.0})  # all of its groups were lost
    assert course(run) == {"course": [0.25, 0.5], "trials": []}
    proposal = Proposal((Delete("a"),), ("idle",), (), "0123")
    past = PastTrial(2, proposal, "4567", (), accepted=False)
    run.trials.write_text(json.dumps(encode(past)) + "\n")
    expected = {
        "step": 2,
        "operations": ["delete a"],
        "accepted": False,
        "effect": None,
    }
    assert course(run)["trials"] == [expected]


@pytest.mark.slow
def test_arms_are_played_from_a_policy_that_was_trained_first(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    trained = ("reskill trained", "static trained", "reskill after reskill")
    for name in ("static", "reskill", "skillrl", *trained):
        found = Attempt(unseen.EXPERIMENT, name, 0, SMALL, SPLIT).play(tmp_path)
        assert len(found["successes"]) == 3
        assert all(kind.count("_then_") for kind in found["kinds"])
        assert ("course" in found) == (name != "static")
    policies = [path.name for path in tmp_path.glob("policy-*")]
    made = [
        f"{name}-0{end}" for name in ("policy", "policy-reskill") for end in ("", ".hf")
    ]
    assert sorted(policies) == made
    # A policy that was trained otherwise, or a run of another size, is not taken.
    longer = dataclasses.replace(SMALL, first_steps=2)
    with pytest.raises(ValueError, match=r"config.num_steps: 1 there, 2 now"):
        Attempt(unseen.EXPERIMENT, ALONE, 0, longer, SPLIT).play(tmp_path)
    more = dataclasses.replace(SMALL, houses=78)
    with pytest.raises(ValueError, match=r"config.env.houses_train: 72 there, 78 now"):
        Attempt(unseen.EXPERIMENT, "reskill", 0, more, SPLIT).play(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("module", ELSEWHERE)
def test_frozen_policies_adapt_elsewhere(module, tmp_path, monkeypatch):
    if module is adaptation_games and "ALFWORLD_DATA" not in os.environ:
        pytest.skip("needs the published games, at ALFWORLD_DATA")
    if module is adaptation_scienceworld:
        pytest.importorskip("scienceworld")
    monkeypatch.chdir(ROOT)
    experiment = module.EXPERIMENT
    found = Attempt(experiment, "reskill", 0, SMALL, experiment.splits[0]).play(
        tmp_path
    )
    assert len(found["successes"]) == SMALL.tasks
    assert len(found["course"]) == SMALL.steps
