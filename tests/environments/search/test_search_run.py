"""Search QA as a run: configurations, and a whole training run on the sample."""

import asyncio
import json
import os
import runpy
import sys
from contextlib import ExitStack

import numpy as np
import pytest
from ml_collections import ConfigDict
from programs import CPU, ROOT, start
from report_checks import reported
from scripted_engine import ScriptedEngine

from reskill_jax.build import load_environment, make_players
from reskill_jax.environments.search.panels import REPORTED
from reskill_jax.policy.random_policy import random_policy
from reskill_jax.policy.tokenizer import Tokenizer
from reskill_jax.report.metrics import read_metrics
from reskill_jax.rollout.collector import Collector
from reskill_jax.rollout.context import EmptyContext
from reskill_jax.rollout.engine import Sampling
from reskill_jax.rollout.prompts import PromptBuilder
from reskill_jax.validate import validate
from reskill_jax.workdir import Workdir

SHIPPED = runpy.run_path(str(ROOT / "configs" / "search.py"))
get_config = SHIPPED["get_config"]


def config(**own):
    """Return the smoke configuration with own keys of the environment."""
    tree = get_config("smoke").to_dict()
    tree["env"] |= own
    return ConfigDict(tree)


def test_the_published_scale():
    for variant in ("", "paper", "official"):
        c = get_config(variant)
        assert (c.rollout.tasks_per_step, c.grpo.group_size) == (256, 5)
        assert (c.rollout.max_turns, c.env.top_k) == (30, 3)
        assert (c.prompt.max_tokens, c.rollout.max_tokens) == (4096, 512)
        assert (c.grpo.kl_coef, c.grpo.reward_scale) == (0.001, 1)
        assert c.eval.splits == REPORTED
    assert get_config("paper").env.retriever.startswith("http://")


def test_the_smoke_configuration_runs_as_it_is():
    validate(config())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("retriever", "google", "choose one of 'bm25', 'dense', or give an address"),
        ("top_k", 0, "must be 1 to 100"),
        ("passage_characters", 3, "must be 50 or more"),
        ("request_attempts", 0, "must be 1 or more"),
        ("request_timeout_s", 0.0, "must be a finite number above 0"),
    ],
)
def test_wrong_keys_are_named(key, value, message):
    with pytest.raises(ValueError, match="cannot run") as caught:
        validate(config(**{key: value}))
    assert f"\n  config.env.{key}={value!r}: {message}" in str(caught.value)


def play(responses, episodes, *, wording="full"):
    """Play episodes of one task, all at once, on the run's own retriever."""
    environment = load_environment(config())
    tokenizer = Tokenizer.load(random_policy("tiny", 0))
    engine = ScriptedEngine(tokenizer, responses)
    task = environment.panel("hotpotqa", 1).tasks[0]
    with ExitStack() as resources:
        collector = Collector(
            engine,
            make_players(config(), environment, resources),
            PromptBuilder(
                tokenizer,
                wording=environment.wordings[wording],
                layout="tree",
                max_tokens=4096,
                max_turns=4,
            ),
            environment.action_format,
            max_turns=4,
            concurrency=episodes,
        )
        played = asyncio.run(
            collector.collect(
                [task],
                np.zeros((1, episodes), int),
                [EmptyContext()],
                sampling=Sampling(),
                seed=0,
            )
        )
    return task, played, engine.prompts


def test_200_episodes_at_once_on_a_retriever_of_its_own_are_all_alike():
    task, played, prompts = play(
        ["<search>Kiri Westlake</search>", "no tag", "I know. <answer>?</answer>"], 200
    )
    assert len(played) == 200
    [actions] = {tuple(e.actions) for e in played}
    assert actions == ("search[Kiri Westlake]", "", "answer[?]")
    [observations] = {tuple(e.observations) for e in played}
    assert observations[1].startswith("(1) Kiri Westlake: Kiri Westlake (1891 to")
    assert observations[2].startswith("Invalid. Reply with one <search>")
    assert all([t.valid for t in e.turns] == [True, False, True] for e in played)
    # The agent reads its actions in the form that it is asked for.
    last = prompts["0/0/0"][-1]
    assert "Reply 1: <search>Kiri Westlake</search>\nResults: (1) Kiri West" in last
    assert last.count(json.loads(task.source)["question"]) == 2
    assert "search[" not in last


def test_smoke_trains_and_evaluates(tmp_path):
    done = start(
        *(sys.executable, "-m", "reskill_jax.main", "--config=configs/search.py:smoke"),
        f"--workdir={tmp_path}",
        env=os.environ | CPU,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    lines = read_metrics(Workdir(tmp_path).metrics)
    assert [line["step"] for line in lines if line["phase"] == "train"] == [1, 2, 3]
    last = lines[-1]
    for name in ("nq", "hotpotqa", "2wiki", "musique"):
        assert {f"{name}/success", f"{name}/f1", f"{name}/searches"} <= set(last)
    for name in ("popqa", "triviaqa", "bamboogle"):
        assert f"the file of questions has none of {name}: it is skipped" in done.stderr
        assert f"{name}/success" not in last
    reported(tmp_path)
