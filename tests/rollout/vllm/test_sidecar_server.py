"""The creator asks the policy's own vLLM server, while the engine uses it too."""

import asyncio
import json
import os
import signal
import threading
from concurrent import futures
from typing import Literal

import pytest
from vllm_cases import ask, difference, requests, weights

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")
from pydantic import BaseModel, ConfigDict

from reskill_jax.llm.backends import Model, OpenAI
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.call_log import CallLog
from reskill_jax.llm.caller import Caller
from reskill_jax.llm.retry import CallError, Failure, RetryPolicy
from reskill_jax.llm.sidecar import Sidecar
from reskill_jax.rollout.vllm.api import Api

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]


class Choice(BaseModel):
    """An answer that even random weights give, if the server enforces its schema."""

    model_config = ConfigDict(extra="forbid")

    op: Literal["add", "modify", "delete"]
    certain: bool


def make(engine, log, **changes):
    model = Model("sidecar", "", **{"max_tokens": 64, "timeout_s": 15.0, **changes})
    return Caller(
        Sidecar(model, engine.urls),
        CallLog(log),
        retry=RetryPolicy(initial_delay_s=0.0, cooldown_s=0.0),
        budget=Budget(cycle_calls=0),  # on a busy machine a push outlasts 60 of them
    )


def recorded(log):
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_the_policy_answers_by_the_schema(fresh, tmp_path):
    log = tmp_path / "calls.jsonl"
    answer = make(fresh, log).ask("Be brief.", "What is to be done?", Choice)
    assert answer.op in ("add", "modify", "delete")
    (call,) = recorded(log)
    # In the policy's own chat template, whose tokens are those of the policy.
    assert 20 < call["tokens_in"] < 200
    assert 5 < call["tokens_out"] <= 64


def test_without_the_schema_random_weights_give_no_answer(fresh, tmp_path):
    caller = make(fresh, tmp_path / "calls.jsonl", structured=False)
    with pytest.raises(CallError) as error:
        caller.ask("Be brief.", "What is to be done?", Choice)
    assert error.value.failure is Failure.BAD_ANSWER


@pytest.mark.parametrize(
    ("words", "changes"), [(3000, {}), (3, {"max_tokens": 600})], ids=["prompt", "both"]
)
def test_what_is_too_long_says_what_to_change(fresh, tmp_path, words, changes):
    log = tmp_path / "calls.jsonl"
    with pytest.raises(CallError, match=r"max_tokens=.*a larger --max-model-len"):
        make(fresh, log, **changes).ask("Be brief.", "cabinet " * words, Choice)
    assert len(recorded(log)) == 1  # it is not asked again


def test_creator_and_engine_share_a_server(fresh, model, tmp_path):
    """It asks all the time, while episodes are played and weights come."""
    caller = make(fresh, tmp_path / "calls.jsonl")
    retried, stop = fresh.counters["retried"], threading.Event()

    def keep_asking(number):
        answers = 0
        while not stop.is_set():
            caller.ask("Be brief.", f"{number}: what of {answers}?", Choice)
            answers += 1
        return answers

    with futures.ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(keep_asking, number) for number in range(3)]
        try:
            for seed in (1, 0, 2):
                version = fresh._weights[1] + 1
                fresh.push(weights(model[1], seed), version)
                asked = requests(model, 4, length=150)
                for request, completion in zip(asked, ask(fresh, asked), strict=True):
                    assert completion.version == version
                    own = weights(model[1], seed)
                    assert difference(model, own, request, completion) < 1e-4
        finally:
            stop.set()
    assert all(answers.result() > 0 for answers in asking)
    assert fresh.counters["retried"] == retried
    assert fresh._replica_of.keys() == {request.session for request in asked}
    for request in asked:
        fresh.release(request.session)


def test_a_server_that_dies_in_a_push_loses_nothing(
    fresh, model, tmp_path, monkeypatch
):
    """Neither of the engine nor of the creator, both of which wait for its answers."""
    log = tmp_path / "calls.jsonl"
    caller = make(fresh, log, timeout_s=180.0)
    restarted, version = fresh.counters["restarted"], fresh._weights[1] + 1
    played = requests(model, 4)
    asked, waiting = threading.Event(), []
    really_ask, really_post = OpenAI._ask, Api._post

    def ask_and_tell(self, *arguments, **options):
        asked.set()
        return really_ask(self, *arguments, **options)

    async def die(self, route, *arguments, **options):
        if route == "/update_weights" and not waiting:
            question = ("Be brief.", "What now?", Choice)
            waiting.append(threads.submit(caller.ask, *question))
            waiting.append(threads.submit(ask, fresh, played))
            assert await asyncio.to_thread(asked.wait, 60)
            await asyncio.sleep(0.5)  # it is paused: there are no answers
            os.killpg(fresh._replicas[0].server.pid, signal.SIGKILL)
        return await really_post(self, route, *arguments, **options)

    monkeypatch.setattr(OpenAI, "_ask", ask_and_tell)
    monkeypatch.setattr(Api, "_post", die)
    with futures.ThreadPoolExecutor(2) as threads:
        fresh.push(weights(model[1], 1), version)
        answer, completions = (future.result() for future in waiting)
    assert fresh.counters["restarted"] == restarted + 1
    assert answer.op in ("add", "modify", "delete")
    lost, found = recorded(log)
    assert lost["error"].startswith(Failure.UNREACHABLE)
    assert found["response"]
    own = weights(model[1], 1)
    for request, completion in zip(played, completions, strict=True):
        assert completion.version == version
        assert difference(model, own, request, completion) < 1e-4
        fresh.release(request.session)
