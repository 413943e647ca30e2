"""The page's data, from whatever a run has left behind."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import CONFIG, episode, write_lines, write_run

from reskill_jax.codec import encode
from reskill_jax.creator.proposal import Proposal
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.report.logbook import Logbook
from reskill_jax.report.page import write_report
from reskill_jax.report.page.data import evaluations, run_document
from reskill_jax.report.page.figures import (
    mean_interval,
    posterior,
    rate,
    within_groups,
)
from reskill_jax.report.page.html import page
from reskill_jax.report.page.library import words
from reskill_jax.report.page.played import Row, _advantages, read_played
from reskill_jax.report.page.reading import Candidate, EpisodeLine, Reader
from reskill_jax.report.page.trials import (
    bounds,
    trials_document,
    unexposed,
    win_loss,
)
from reskill_jax.report.panels import write_panels
from reskill_jax.rollout.context import BankContext, EmptyContext
from reskill_jax.skills.operations import Add, Delete, Modify
from reskill_jax.skills.skill import Skill, SkillBank, Trigger
from reskill_jax.strategies.base import Learned
from reskill_jax.trials import paired
from reskill_jax.workdir import Workdir


def document(workdir, *others):
    return run_document(workdir, others, lambda document: document, "today")


def test_a_run_without_steps_has_a_report(tmp_path):
    workdir = Workdir(tmp_path / "run")
    workdir.root.mkdir()
    workdir.config.write_text("{}")
    found = document(workdir)
    assert found["run"]["state"] == "stopped"
    assert (found["episodes"], found["evals"], found["training"]) == ([], [], [])
    assert write_report(workdir).exists()


def test_what_a_killed_run_left_torn_is_left_out_and_the_damaged_is_named(tmp_path):
    workdir = write_run(tmp_path / "run")
    for path in (workdir.metrics, workdir.trials):
        path.write_text(path.read_text() + '{"phase": "tr')
    with (workdir.episodes / "train-00001.jsonl").open("a") as file:
        file.write('[1]\n{"task": 3}\nnonsense\n')
    (workdir.root / "traceback.txt").write_text("Traceback\nValueError: no room")
    found = document(workdir)
    problems = "\n".join(found["run"]["problems"])
    assert len(found["run"]["problems"]) == 3
    assert problems.count("train-00001.jsonl, line ") == 3
    assert found["run"]["crash"] == "ValueError: no room"
    assert len(found["episodes"]) == 36
    assert len(found["trials"]["list"]) == 1


@pytest.mark.parametrize(
    "name",
    [
        "metrics.jsonl",
        "trials.jsonl",
        "trial.json",
        "panels.json",
        "episodes/train-00001.jsonl",
        "skills/other/SKILL.md",
        "traceback.txt",
    ],
)
def test_a_file_that_the_system_does_not_give_is_named(tmp_path, name):
    workdir = write_run(tmp_path / "run")
    path = workdir.root / name
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)  # root may read all files, but no directory as one
    assert write_report(workdir).exists()
    (problem,) = document(workdir)["run"]["problems"]
    assert "Is a directory" in problem
    assert path.name in problem


def test_a_column_has_an_interval_where_its_task_types_are_kept(tmp_path):
    workdir = write_run(tmp_path / "run")
    lines = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    for line in lines:
        if line["phase"] == "eval":  # of the one type "place", which was won
            line["seen/success/placing"] = 1.0
    write_lines(workdir.metrics, lines)

    def column():
        found = document(workdir)["evals"][-1]["splits"]["seen"]["columns"]["placing"]
        return found["n"], found.get("kinds")

    assert column() == (None, None)  # of a version that did not write them
    tasks = [Task(f"seen/{k}", k, "seen", "") for k in ("place", "pick")]
    write_panels({"seen": TaskPanel(tuple(tasks), {"placing": ("place",)})}, workdir)
    assert column() == (1, ["place"])
    workdir.panels.write_text('{"version": 1, "splits": []}')
    assert column() == (None, None)
    assert any("panels.json" in line for line in document(workdir)["run"]["problems"])


def test_a_run_at_work_is_told_from_one_that_stopped(tmp_path):
    workdir = write_run(tmp_path / "run")
    with workdir.lock():
        assert document(workdir)["run"]["state"] == "running"
    assert document(workdir)["run"]["state"] == "stopped"


def test_secrets_do_not_get_into_a_page(tmp_path, monkeypatch):
    secret = "a secret of this machine"
    monkeypatch.setenv("SOME_API_KEY", secret)
    workdir = write_run(tmp_path / "run", text=f"{secret} hf_abcdefghijklmnop")
    text = write_report(workdir).read_text()
    assert "*** ***" in text
    assert "secret" not in text.partition('id="data"')[2].partition("</script>")[0]
    assert "hf_abc" not in text


def test_without_room_evaluations_and_the_newest_steps_stay(tmp_path):
    workdir = write_run(tmp_path / "run", steps=6, groups=4)
    whole = read_played(Reader(workdir), {}, lambda step: True, lambda d: d)
    assert whole.left_out == 0
    size = sum(len(json.dumps(e)) for e in whole.shown)
    part = read_played(Reader(workdir), {}, lambda step: True, lambda d: d, size // 2)
    assert part.rows == whole.rows
    assert part.left_out == len(whole.shown) - len(part.shown) > 0
    assert sum(len(json.dumps(e)) for e in part.shown) <= size // 2
    kept = [(e["phase"], e["step"]) for e in part.shown]
    assert kept.count(("eval", 0)) == kept.count(("eval", 6)) == 2
    assert kept.count(("train", 6)) == 16
    assert 4 in {kept.count(("train", step)) for step in range(6)}  # a first group
    assert f"{len(part.shown):,} of {len(whole.rows):,}" in part.note


def test_advantages_are_those_of_the_update(tmp_path):
    workdir = write_run(tmp_path / "run", steps=1, groups=1, rollouts=2)
    lines = [episode(1, index=i, success=i == 1) for i in range(2)]
    write_lines(workdir.episodes / "train-00001.jsonl", lines)
    shown = document(workdir)["episodes"]
    lost, won = [e for e in shown if e["phase"] == "train"]
    assert [t["adv"] for t in won["turns"]] == pytest.approx(
        [2**-0.5, 2**-0.5 - 0.1, 2**-0.5], abs=1e-4
    )
    assert lost["turns"][0]["adv"] == pytest.approx(-(2**-0.5), abs=1e-4)
    evaluated = [e for e in shown if e["phase"] == "eval"]
    assert all("adv" not in turn for e in evaluated for turn in e["turns"])


def test_wins_are_counted_within_groups():
    def row(group, bank, success):
        return Row("train", 1, "train", "t", "kind", group, bank, success)

    rows = [row(0, "old", False), row(0, "new", True), row(0, "new", False)]
    rows += [row(1, "old", True), row(1, "new", True), row(2, "new", True)]
    rows += [row(3, "old", True), row(3, "new", False), row(3, "other", True)]
    found = win_loss(rows, "old", "new")
    assert [(g["group"], g["outcome"]) for g in found] == [
        (0, "win"),
        (1, "tie"),
        (3, "loss"),
    ]
    assert (found[0]["new"], found[0]["old"]) == ([1, 2], [0, 1])
    assert win_loss(rows, "old", "old") == []  # of a damaged file


def test_the_effect_within_groups_is_the_trials():
    groups = [(1, 2, 0, 1), (3, 4, 2, 4), (1, 1, 0, 0), (0, 2, 2, 2)]
    y = [[y0, y1] for y1, _, y0, _ in groups]
    n = [[n0, n1] for _, n1, _, n0 in groups]
    wanted = paired.effect_of_sums(paired.paired_sums(y, n)[0])
    assert within_groups(groups) == pytest.approx([float(v) for v in wanted], abs=1e-6)
    assert within_groups([(1, 1, 0, 0)]) is None


def test_episodes_in_which_nothing_could_differ_are_compared_by_themselves():
    def row(bank, success, *actions):
        return Row("train", 1, "train", "t", "kind", 0, bank, success, actions)

    rows = [row("old", True, "look"), row("new", False, "look", "x")]
    rows += [row("old", True, "go", "x"), row("new", True, "go", "x")]
    triggers = (Trigger("action_pattern", "^go"),)
    found = unexposed(rows, "old", "new", triggers)
    assert (found["effect"], found["episodes"]) == (-1.0, [1, 1])
    assert unexposed(rows, "old", "new", (Trigger(),))["effect"] is None
    assert unexposed(rows, "old", "new", None) is None


def test_stop_bounds_are_those_of_the_trial():
    rule = {
        "mode": "paired",
        "max_steps": 8,
        "early_accept": 0.9,
        "early_reject": 0.1,
        "accept_probability": 0.7,
    }
    limits = paired.Bounds(0, 8, 0, 0.9, 0.1, 0.7)
    for step, (low, high) in enumerate(bounds(rule, 8, deletes=False)):
        for chance, wanted in ((high + 1e-4, 1), (low - 1e-4, -1)):
            assert int(paired.verdict(chance, step, 99, limits)) == wanted
    assert bounds(rule | {"mode": "paper"}, 8, deletes=False) is None


@settings(deadline=None)
@given(st.floats(-1, 1), st.floats(0.01, 1), st.floats(0.01, 0.2))
def test_the_posterior_is_the_one_that_decides(effect, error, prior):
    mean, sd = posterior(effect, error, prior)
    chance = 0.5 * (1 + math.erf((mean - 0.01) / sd / 2**0.5))
    wanted = paired.probability_above(effect, error, prior, 0.01)
    assert chance == pytest.approx(float(wanted), abs=1e-4)


@given(st.integers(0, 50), st.integers(1, 50))
def test_intervals_hold_their_rate(won, played):
    found = rate(min(won, played), played)
    assert 0 <= found["low"] <= found["rate"] + 1e-12
    assert found["rate"] - 1e-12 <= found["high"] <= 1


@pytest.mark.parametrize(
    ("line", "splits"),
    [
        ({"valid/success": 37.0, "panels": {"valid": "32:a"}}, {"valid": 37.0}),
        ({"a/b/success": 0.5, "valid/success": 0.5}, {"valid": 0.5}),
        ({"valid/success": 0.5, "valid/success/success": 0.2}, {"valid": 0.5}),
        ({"valid/success": 0.5, "valid/mean@4": 0.5}, {"valid": 0.5}),
        ({"valid/success": 0.5, "panels": {"valid": "9" * 400}}, {"valid": 0.5}),
        ({"valid/success": 0.5, "panels": {"valid": "9" * 5000}}, {"valid": 0.5}),
    ],
)
def test_foreign_figures_of_evaluations_end_no_report(line, splits):
    (found,) = evaluations([{"phase": "eval", "step": 1} | line], [], {})
    shown = found["splits"]
    assert {split: value["rate"] for split, value in shown.items()} == splits
    assert all(value["low"] is None for value in shown.values())


def test_numbers_that_are_not_finite_or_have_no_end_end_no_report(tmp_path):
    workdir = write_run(tmp_path / "run")
    config = json.loads(workdir.config.read_text())
    workdir.config.write_text(json.dumps(config | {"trial": {"x": math.inf}}))
    trial = json.loads(workdir.trials.read_text())
    found = {"name": "first-look", "turns": 1, "mean": math.nan, "first": 0.5}
    trial["meter"] = [{**found, "verdict": "unclear"}]
    write_lines(workdir.trials, [trial])
    line = {"phase": "train", "step": 4, "time/step": 10**400}
    write_lines(
        workdir.metrics,
        [*map(json.loads, workdir.metrics.read_text().splitlines()), line],
    )
    assert write_report(workdir).exists()
    found = document(workdir)
    assert found["config"]["trial.x"] == "Infinity"
    assert found["library"]["changes"][0]["meter"][0]["mean"] is None
    assert found["metrics"]["names"]["time/step"][-1] is None


def test_episodes_with_a_number_out_of_range_are_shown_without_advantages():
    line = EpisodeLine(
        task="t", success=True, actions=("look",), reward=1.0, group=10**30
    )
    found, why = _advantages([line], {})
    assert found is None
    assert "out of range" in why


def test_a_running_trial_of_deletes_has_their_bounds():
    rule = {"mode": "paired", "max_steps": 8, "early_reject": 0.1}
    rule |= {"early_accept": 0.9, "accept_probability": 0.7}
    rule |= {"delete_early_accept": 0.99, "delete_accept_probability": 0.95}
    metrics = [{"phase": "train", "step": 1, "trial/probability": 0.5}]

    def drawn(*operations):
        why = ("r",) * len(operations)
        held = Candidate(
            start=1, proposal=Proposal(operations, why, (), "b"), candidate="c"
        )
        shown = trials_document((), {"settings": rule}, [], metrics, on_trial=[held])
        return shown["running"]["bounds"]

    add = Add(Skill("a", "d", "When.", "Do."))
    for deletes, operations in ((True, (Delete("a"),)), (False, (Delete("b"), add))):
        wanted = json.loads(json.dumps(bounds(rule, 1, deletes=deletes)))
        assert np.allclose(drawn(*operations), wanted, atol=1e-3)


def test_a_running_trial_shows_what_is_tried_and_its_cost():
    settings = {"mode": "paired", "cost_per_skill": 0.01, "delete_margin": 0.02}
    metrics = [{"phase": "train", "step": 1, "trial/probability": 0.5}]
    add = Add(Skill("a", "d", "When.", "Do."))

    def running(*bundles):
        held = [
            Candidate(start=1, proposal=Proposal(own, ("r",), (), "b"), candidate="c")
            for own in bundles
        ]
        found = trials_document((), {"settings": settings}, [], metrics, on_trial=held)
        return found["running"]["operations"], found["running"]["cost"]

    assert running((add,)) == ([["add a"]], 0.01)
    assert running((Delete("b"),)) == ([["delete b"]], -0.02)
    assert running((add,), (Delete("b"),)) == ([["add a"], ["delete b"]], None)
    assert running() == ([], None)


def test_small_samples_have_wide_intervals():
    assert mean_interval([0.5]) == {"mean": 0.5, "n": 1, "half": None}
    assert mean_interval([0.4, 0.6])["half"] == pytest.approx(1.2706, abs=1e-4)


def test_the_first_library_and_what_is_on_trial_are_on_the_timeline(tmp_path):
    """As a run writes them: by the logbook, while it goes on."""
    workdir = write_run(tmp_path / "run")
    words, reader = ("a", "b"), Reader(workdir)
    old, older = Skill("be-old", "An old one.", *words), Skill("be-gone", "x", *words)
    change = Proposal(
        (Modify("be-old", {"action": "c"}), Add(Skill("be-new", "y", *words))),
        ("why", "because"),
        ("seen", "heard"),
        "hash",
    )
    candidate = {"start": 2, "proposal": encode(change), "candidate": "next"}

    def spans():
        library = document(workdir)["library"]
        return {s["name"]: (s["lives"], s["events"]) for s in library["spans"]}

    assert spans() == {"first-look": ([[2, None]], [[2, "add", "accepted", 0]])}
    start = {"total": 4, "done": 3, "evaluated": True, "logprob_diff_warning": 1.0}
    first = BankContext(SkillBank((old, older)))
    with Logbook(workdir, **start, first=first) as logbook:
        logbook.step(4, {}, [], Learned(on_trial=(candidate,)), EmptyContext())
    found = document(workdir)
    assert found["run"]["problems"] == []
    assert spans()["be-gone"] == ([[0, None]], [])
    assert spans()["be-old"] == ([[0, None]], [[2, "modify", "on trial", None]])
    assert spans()["be-new"] == ([], [[2, "add", "on trial", None]])
    modify = found["library"]["changes"][1]
    assert not modify["unknown"]
    assert modify["diff"] == [{"field": "action", "parts": [("-", "b"), ("+", "c")]}]
    assert found["library"]["banks"][-1]["verdict"] == "on trial"
    # A kill may come between the line of a decision and this file.
    (past,) = reader.trials()
    assert reader.on_trial([replace(past, step=5)]) == []
    workdir.on_trial.write_text("[")
    assert "on_trial.json is not JSON" in document(workdir)["run"]["problems"][0]


@given(st.text(), st.text())
def test_word_diffs_hold_both_texts(old, new):
    parts = words(old, new)
    assert "".join(text for kind, text in parts if kind != "+") == old
    assert "".join(text for kind, text in parts if kind != "-") == new


@given(st.text())
def test_no_text_ends_the_data(text):
    html = page({"run": text})
    data = html.partition('id="data">')[2].partition("</script>")[0]
    assert json.loads(data) == {"run": text}


def test_methods_are_compared_on_the_same_tasks_only(tmp_path):
    ours = [write_run(tmp_path / f"a{s}", config=CONFIG | {"seed": s}) for s in (1, 2)]
    grpo = CONFIG | {"strategy": {"name": "grpo"}, "seed": 1}
    other = write_run(tmp_path / "g", config=grpo)
    evaluated = [episode(3, g, split="seen", success=True, arm=0) for g in range(2)]
    write_lines(other.episodes / "eval-00003.jsonl", evaluated)
    found = document(ours[0], ours[1], other)["comparison"]
    assert found["groups"] == ["strategy.name=reskill", "strategy.name=grpo"]
    assert (found["step"], found["splits"]) == (3, ["seen"])
    difference, *sampled = found["differences"]
    assert difference["figure"] == "greedy success"
    assert difference["tasks"]["mean"] == 0.5  # of two tasks, one is won by both
    assert difference["wins"] == [1, 1, 0]
    # All samples of ours win one task of two, in `grpo` one of two samples does.
    again = [e | {"index": i, "success": not i} for e in evaluated for i in range(2)]
    write_lines(other.episodes / "sampled-00003.jsonl", again)
    found = document(ours[0], ours[1], other)["comparison"]
    sampled = {d["figure"]: d["tasks"]["mean"] for d in found["differences"][1:]}
    assert sampled == {"mean@2": 0.0, "pass@2": 0.5}
    means = {m["figure"]: m["mean"] for m in found["means"] if m["n"] == 2}
    assert means == {"greedy success": 0.5, "mean@2": 0.55, "pass@2": 0.65}
    text = other.metrics.read_text()
    other.metrics.write_text(
        text.replace('"seen/temperature": 0.7', '"seen/temperature": 1')
    )
    found = document(ours[0], ours[1], other)["comparison"]
    assert [d["figure"] for d in found["differences"]] == ["greedy success"]
    text = other.metrics.read_text().replace("2:abcdef", "2:another")
    other.metrics.write_text(text)
    found = document(ours[0], other)["comparison"]
    assert (found["splits"], found["differences"]) == ([], [])
    assert "different tasks" in found["unlike"][0]


def test_a_trial_of_any_number_of_steps_is_shown(tmp_path):
    """A damaged line: nobody goes through a 10^18 steps."""
    workdir = write_run(tmp_path / "run")
    (line,) = map(json.loads, workdir.trials.read_text().splitlines())
    write_lines(workdir.trials, [line | {"start": -(10**18), "step": 10**18}])
    (shown,) = document(workdir)["trials"]["list"]
    assert shown["groups"]  # of the episodes that there are


def test_a_run_that_ended_early_is_named_where_it_holds_back_the_others(tmp_path):
    runs = [write_run(tmp_path / name, config=CONFIG) for name in "abc"]
    assert document(*runs)["comparison"]["behind"] == []
    first, *_ = runs[1].metrics.read_text().splitlines()
    runs[1].metrics.write_text(f"{first}\n")  # killed after the first evaluation
    found = document(*runs)["comparison"]
    assert found["step"] == 0
    (line,) = found["behind"]
    assert line.startswith("b was evaluated at step 0 last, others at step 3: ")
    runs[1].metrics.write_text("")  # or before it
    found = document(*runs)["comparison"]
    assert (found["step"], found["behind"]) == (None, [])
    assert "no step at which all of these runs" in found["unlike"][0]


def test_keys_that_came_after_a_run_began_are_no_other_method(tmp_path):
    old = write_run(tmp_path / "old")
    new = write_run(tmp_path / "new", config=CONFIG | {"seed": 8, "added": 1})

    def groups(**options):
        found = run_document(old, (new,), lambda x: x, "today", **options)
        return found["comparison"]["groups"]

    assert groups() == ["added=None", "added=1"]
    assert groups(complete=lambda stored: {"added": 1} | stored) == ["all runs"]


def test_samples_stand_beside_the_greedy_figures_and_change_none(tmp_path):
    found = document(write_run(tmp_path / "run"))
    seen = found["evals"][-1]["splits"]["seen"]
    assert (seen["n"], seen["kinds"]["place"]["n"]) == (2, 1)  # greedy episodes alone
    shown = seen["sampled"]
    assert (shown["samples"], shown["temperature"]) == (2, 0.7)
    assert list(shown["all"]) == ["mean@2", "pass@2"]
    assert shown["all"]["mean@2"] == {"rate": 0.55, "low": 0.35, "high": 0.75}
    assert list(shown["places"]) == ["place"]
    for path in (tmp_path / "run" / "episodes").glob("sampled-*"):
        path.unlink()
    again = document(Workdir(tmp_path / "run"))
    assert again["evals"] == found["evals"]
    assert len(found["episodes"]) - len(again["episodes"]) == 8


def test_the_best_checkpoint_is_named_if_it_is_there(tmp_path):
    workdir = write_run(tmp_path / "run")
    best = {"metric": "seen/mean@2", "step": 3, "value": 0.55}
    assert document(workdir)["run"]["best"] == best
    (workdir.checkpoints / "00000003").rmdir()
    assert document(workdir)["run"]["best"] is None
