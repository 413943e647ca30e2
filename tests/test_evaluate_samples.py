"""Evaluation with samples beside greedy: figures, repetition, what is refused."""

import json
import re
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from corridor_runs import corridor_config
from programs import ROOT, deterministic, save_random_policy, written

from reskill_jax import evaluate as evaluation
from reskill_jax.environments.panels import TaskPanel
from reskill_jax.environments.task import Task
from reskill_jax.evaluate import Samples, evaluate, evaluate_run
from reskill_jax.report.metrics import read_metrics
from reskill_jax.report.show import show
from reskill_jax.report.statistics import share_of_tasks
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.episode import Episode
from reskill_jax.stored_config import get_config
from reskill_jax.termination import TerminatedError
from reskill_jax.train import train
from reskill_jax.validate import EVALUATION, validate
from reskill_jax.workdir import Workdir

SAMPLED = {"eval__samples": 4, "eval__temperature": 1.5}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return save_random_policy(tmp_path_factory.mktemp("policy"))


def run(place, policy, **changes):
    config = corridor_config(policy, num_steps=2, eval__every=1, **changes)
    workdir = Workdir(place)
    workdir.bind(config.to_dict())
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def plain(policy, tmp_path_factory):
    return run(tmp_path_factory.mktemp("plain"), policy)


@pytest.fixture(scope="module")
def sampled(policy, tmp_path_factory):
    return run(tmp_path_factory.mktemp("sampled"), policy, **SAMPLED)


def known(metrics):
    words = ("time/", "speed/", "phase", "step", "panels")
    return {k: v for k, v in metrics.items() if not k.startswith(words)}


def measured(workdir, step):
    lines = read_metrics(workdir.metrics)
    (line,) = [x for x in lines if x["phase"] == "eval" and x["step"] == step]
    return known(line)


def played(path):
    """What was said, by task and number of the sample."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(e["task"], e["index"]): (e["responses"], e["success"]) for e in lines}


def newest(workdir):
    (folder,) = sorted(workdir.root.glob("evaluations/*"))[-1:]
    return folder


def test_what_is_greedy_stays_as_it_is_without_samples(plain, sampled):
    greedy, both = deterministic(plain.root), deterministic(sampled.root)
    assert [x | y for x, y in zip(both, greedy, strict=True)] == both
    (skills, episodes, trials), other = written(plain.root), written(sampled.root)
    assert (skills, trials) == (other[0], other[2])
    assert episodes.items() < other[1].items()
    more = {f"sampled-{step:05d}.jsonl" for step in range(3)}
    assert other[1].keys() - episodes.keys() == more


def test_figures_are_those_of_counting(sampled):
    metrics = measured(sampled, 2)
    episodes = played(sampled.episodes / "sampled-00002.jsonl")
    tasks = sorted({task for task, _ in episodes})
    won = np.array([[episodes[task, i][1] for i in range(4)] for task in tasks])
    assert 0 < won.mean() < 1
    assert (metrics["held_out/samples"], metrics["held_out/temperature"]) == (4, 1.5)
    assert metrics["held_out/mean@4"] == pytest.approx(won.mean())
    for k in (2, 4):
        subsets = list(combinations(range(4), k))
        chance = np.array([[row[list(s)].any() for s in subsets] for row in won])
        per_task = chance.mean(axis=1)
        share = share_of_tasks(per_task, 4)
        assert metrics[f"held_out/pass@{k}"] == pytest.approx(per_task.mean())
        assert metrics[f"held_out/pass@{k}_low"] == pytest.approx(share.low)
        assert metrics[f"held_out/pass@{k}_high"] == pytest.approx(share.high)
    by_kind = dict(zip(tasks, won.mean(axis=1), strict=True))
    for k in range(3):  # one task of each kind
        assert metrics[f"held_out/mean@4/from-{k}"] == by_kind[f"held_out/{k}"]
        low, high = (metrics[f"held_out/mean@4_{x}/from-{k}"] for x in ("low", "high"))
        assert low < by_kind[f"held_out/{k}"] < high
    ends = (by_kind["held_out/0"] + by_kind["held_out/2"]) / 2
    assert metrics["held_out/mean@4/ends"] == pytest.approx(ends)
    assert "held_out/mean@4/absent" not in metrics
    assert "held_out/pass@2/from-0" not in metrics


def test_samples_repeat_with_any_concurrency_panel_and_number(sampled):
    config = get_config(str(sampled.root))
    config.rollout.concurrency, config.env.workers = 1, 2
    assert known(evaluate_run(config, sampled)) == measured(sampled, 2)
    folder = newest(sampled)
    wanted = played(sampled.episodes / "sampled-00002.jsonl")
    assert played(folder / "sampled.jsonl") == wanted
    config.eval.max_tasks, config.eval.samples = 2, 2
    evaluate_run(config, sampled)
    fewer = played(newest(sampled) / "sampled.jsonl")
    assert len(fewer) == 4
    assert {task for task, _ in fewer} != {"held_out/0", "held_out/1"}  # other places
    assert fewer.items() < wanted.items()
    assert len({str(said) for said, _ in wanted.values()}) > 3  # they do differ


def test_they_stand_beside_the_greedy_figures(sampled, capsys):
    config = get_config(str(sampled.root))
    evaluate_run(config, sampled)
    found = measured(sampled, 2)
    mean, both = (f"{found[f'held_out/{x}']:.1%}" for x in ("mean@4", "pass@4"))
    said = capsys.readouterr().out
    assert f"held_out {found['held_out/success']:.1%}, at temperature 1.5" in said
    assert f" mean@4 {mean} [" in said
    assert f" pass@4 {both} [" in said
    document = json.loads((newest(sampled) / "metrics.json").read_text())
    assert document["metrics"]["held_out/mean@4"] == found["held_out/mean@4"]
    shown = show(sampled)
    assert "Sampled: 4 episodes per task at temperature 1.5" in shown
    assert mean in shown.partition("Sampled: 4")[2]


def test_an_evaluation_that_is_interrupted_is_made_again(
    sampled, policy, tmp_path, monkeypatch
):
    sample, calls = evaluation._sample, []

    def interrupted(*arguments):
        found = sample(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise TerminatedError("SIGTERM")
        return found

    monkeypatch.setattr(evaluation, "_sample", interrupted)
    with pytest.raises(TerminatedError):
        run(tmp_path, policy, **SAMPLED)
    steps = [x["step"] for x in read_metrics(Workdir(tmp_path).metrics)]
    assert steps == [0, 1]  # the evaluation after step 1 is missing
    run(tmp_path, policy, **SAMPLED)
    assert deterministic(tmp_path) == deterministic(sampled.root)
    assert written(tmp_path) == written(sampled.root)


class Script:
    """Plays what it is told to; keeps what it was asked for."""

    engine = SimpleNamespace(batch_invariant=True)

    def __init__(self, lost=0):
        self.lost, self.asked = lost, []

    async def collect(self, tasks, arms, contexts, **options):
        self.asked.append((arms.shape, options))
        lost = self.lost if options.get("by_task") else 0
        return [
            Episode(task, g, i, 0, "", lost="gone" if 8 * g + i < lost else "")
            for g, task in enumerate(tasks)
            for i in range(arms.shape[1])
        ]


PANEL = TaskPanel(tuple(Task(f"t/{k}", "look", "t", "") for k in range(5)))


def test_samples_have_the_sampling_of_training_but_for_the_temperature():
    script = Script()
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=7)
    samples = Samples(8, 0.7, seed=11)
    found = evaluate(script, {"t": PANEL}, EmptyContext(), sampling, 0.0, samples)
    assert [shape for shape, _ in script.asked] == [(5, 1), (5, 8)]
    greedy, sampled = (options["sampling"] for _, options in script.asked)
    assert greedy == Sampling(temperature=0.0, top_p=1.0, max_tokens=7)
    assert sampled == Sampling(temperature=0.7, top_p=0.9, max_tokens=7)
    assert [options["seed"] for _, options in script.asked] == [0, 11]
    assert (len(found.episodes), len(found.sampled)) == (5, 40)
    assert {f"t/pass@{k}" for k in (2, 4, 8)} < found.metrics.keys()


@pytest.mark.parametrize("lost", [4, 5])
def test_too_many_failures_of_samples_void_a_split(lost, capsys):
    found = evaluate(
        Script(lost), {"t": PANEL}, EmptyContext(), Sampling(), 0.1, Samples(8)
    )
    if lost == 4:  # a tenth of 40
        assert found.metrics["t/failed_samples"] == 4
        assert found.metrics["t/mean@8"] == 0
    else:
        assert found.metrics == {
            "t/failed_tasks": 0, "t/failed_samples": 5, "t/void": 1,
        }  # fmt: skip
        line = evaluation.summary(3, found.metrics, {"t": PANEL})
        assert "t void, 5 samples failed for good" in line


def test_greedy_samples_are_refused_with_the_way_out():
    config = corridor_config("random:tiny", eval__samples=4)
    message = r"config.eval.samples=4 of eval.temperature=0 would all be the greedy"
    with pytest.raises(ValueError, match=message):
        validate(config, EVALUATION)
    config.eval.temperature = 0.7
    validate(config, EVALUATION)


def test_the_documentation_lists_every_metric_of_rollouts_and_evaluations(sampled):
    text = (ROOT / "docs" / "metrics.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    names = re.findall(r"`([^`]+)`", "".join(rows))
    words = {"SPLIT": "held_out", "TYPE": "[^/]+", r"\*": ".+"}
    patterns = []
    for name in names:
        pattern = re.sub(r"@[kn]", r"@\\d+", re.escape(name))
        for word, meaning in words.items():
            pattern = pattern.replace(word, meaning)
        patterns.append(re.compile(pattern))
    found = {key for line in read_metrics(sampled.metrics) for key in line}
    mine = sorted(key for key in found if key.startswith(("rollout/", "held_out/")))
    assert len(mine) > 50
    missing = [k for k in mine if not any(p.fullmatch(k) for p in patterns)]
    assert not missing
