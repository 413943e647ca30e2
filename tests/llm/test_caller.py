"""Faults over real HTTP: each has its name, its patience and its price."""

import json
import math
import os
import socket
import time
from email.utils import formatdate

import pytest

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")

from llm_cases import GOOD, caller, creator, evidence, script

from reskill_jax.benchmarks.llm_server import LlmServer, completion, reply
from reskill_jax.creator.schemas import Advice
from reskill_jax.llm.backends import MAX_BYTES, ChatRequest, ChatResponse, Model
from reskill_jax.llm.budget import Budget
from reskill_jax.llm.call_log import CallLog
from reskill_jax.llm.caller import Caller
from reskill_jax.llm.parsing import MAX_CHARACTERS
from reskill_jax.llm.retry import CallError, Failure, RetryPolicy, again_after
from reskill_jax.scrub import scrub

ANSWER = json.dumps(GOOD["advice"])


def half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"mess')
    handler.close_connection = True
    return True


def drip(handler):
    """Never silent for long, never done."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    try:
        for _ in range(100):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        pass
    return True


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True
    return True


def send(body, status=200):
    def fault(handler):
        reply(handler, body, status)
        return True

    return fault


FAULTS = {
    "429": (send(b'{"error": "slow"}', 429), Failure.RATE_LIMIT, 2),
    "500": (send(b"oops", 500), Failure.SERVER, 2),
    "401": (send(b'{"error": {"message": "bad key"}}', 401), Failure.REFUSED, 1),
    "400": (send(b"{}", 400), Failure.REFUSED, 1),
    "silence": (lambda handler: time.sleep(1.5) or True, Failure.TIMEOUT, 2),
    "drip": (drip, Failure.TIMEOUT, 2),
    "half": (half, Failure.UNREACHABLE, 2),
    "hang up": (hang_up, Failure.UNREACHABLE, 2),
    "no JSON": (send(b"<html>proxy</html>"), Failure.BAD_RESPONSE, 2),
    "no object": (send(b"[1, 2]"), Failure.BAD_RESPONSE, 2),
    "empty": (send(b""), Failure.BAD_RESPONSE, 2),
    "wrong shape": (send(b'{"choices": []}'), Failure.BAD_RESPONSE, 2),
    "no text": (send(b'{"choices": [{"message": null}]}'), Failure.BAD_RESPONSE, 2),
    "not UTF-8": (send(b'{"choices": "\xff\xfe"}'), Failure.BAD_RESPONSE, 2),
    "10 MB": (send(completion("x" * 10_000_000)), Failure.BAD_RESPONSE, 2),
    "garbage": (send(completion("\x00{{{[" * 99)), Failure.BAD_ANSWER, 2),
    "other shape": (send(completion('{"a": 1}')), Failure.BAD_ANSWER, 2),
    "too long": (send(completion("{" * 70_000)), Failure.BAD_ANSWER, 2),
    "deep": (send(completion('{"operations":' * 9_000)), Failure.BAD_ANSWER, 2),
}


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_named_counted_logged_and_tried_again(tmp_path, name):
    fault, failure, calls = FAULTS[name]
    log = tmp_path / "calls.jsonl"
    # Short only where it is to be met: on a busy machine, an answer takes its time.
    options = {"timeout": 0.5} if failure is Failure.TIMEOUT else {}
    with LlmServer(script, fault=fault) as server:
        asking = caller(server.url, log, retry=RetryPolicy(2, 0.0), **options)
        with pytest.raises(CallError) as error:
            asking.ask("system", "prompt", Advice)
        assert len(server.requests) == calls
    assert error.value.failure == failure
    metrics = asking.spending.take()
    assert metrics["calls"] == calls
    assert metrics[f"errors/{failure}"] >= 1
    assert len(log.read_text().splitlines()) == calls
    assert log.stat().st_size < 2 * MAX_BYTES


def test_thoughts_may_be_longer_than_an_answer_may(tmp_path):
    thoughts = "<think>" + "hm {} " * MAX_CHARACTERS + "</think>"
    fault = send(completion(thoughts + ANSWER))
    with LlmServer(script, fault=fault) as server:
        asking = caller(server.url, tmp_path / "calls.jsonl")
        assert asking.ask("system", "prompt", Advice) == Advice.model_validate(
            GOOD["advice"]
        )
    assert (tmp_path / "calls.jsonl").stat().st_size < MAX_CHARACTERS


def test_a_refused_connection_is_named(tmp_path):
    asking = caller("http://127.0.0.1:9/v1", tmp_path / "c", retry=RetryPolicy(2, 0.0))
    with pytest.raises(CallError, match="unreachable"):
        asking.ask("system", "prompt", Advice)


@pytest.mark.parametrize("name", ["429", "500", "half", "no JSON"])
def test_a_passing_fault_costs_attempts_and_nothing_else(tmp_path, name):
    faults = iter([FAULTS[name][0], FAULTS[name][0]])

    def fault(handler):
        return next(faults, lambda handler: False)(handler)

    with LlmServer(script, fault=fault) as server:
        made = creator(server.url, tmp_path / "c")
        assert made.propose(evidence()) is not None
    metrics = made.take_metrics()
    assert metrics["creator/calls"] == 6 + 2
    assert metrics["creator/errors"] == 2


class Scripted:
    """Answers or raises what a list says."""

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)
        self.prompts = []

    def complete(self, request: ChatRequest) -> ChatResponse:
        self.prompts.append(request.prompt)
        outcome = self.outcomes.pop(0) if self.outcomes else ANSWER
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, ChatResponse):
            return outcome
        return ChatResponse(outcome, 1000, 500)

    @property
    def asked(self):
        return len(self.prompts)


class Clock:
    def __init__(self):
        self.now, self.slept = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def scripted(tmp_path, *outcomes, **options):
    backend, clock = Scripted(*outcomes), Clock()
    asking = Caller(
        backend, CallLog(tmp_path / "c"), sleep=clock.sleep, clock=clock, **options
    )
    return asking, backend, clock


def test_an_answer_that_was_cut_is_said_to_be_too_long(tmp_path):
    whole = ChatResponse(ANSWER, 1000, 500, cut=True)  # its end did not matter
    asking, backend, _ = scripted(tmp_path, whole)
    asking.ask("s", "p", Advice)
    assert backend.asked == 1
    torn = ChatResponse(ANSWER[:5], 1000, 500, cut=True)
    asking, backend, _ = scripted(tmp_path / "b", torn, torn)
    with pytest.raises(CallError, match=r"cut after 500 tokens.*llm\.max_tokens"):
        asking.ask("s", "p", Advice)
    assert backend.asked == 2
    assert "was cut after 500 tokens" in backend.prompts[1]
    # A log says it again.
    again = Caller(None, CallLog(tmp_path / "c", tmp_path / "b" / "c"))
    with pytest.raises(CallError, match="cut after 500 tokens"):
        again.ask("s", "p", Advice)


def test_an_answer_that_a_filter_stopped_is_said_to_be(tmp_path):
    stopped = ChatResponse(ANSWER[:5], 1000, 500, blocked="content_filter")
    asking, _, _ = scripted(tmp_path, stopped, stopped)
    with pytest.raises(CallError, match=r"stopped the answer \(content_filter\)"):
        asking.ask("s", "p", Advice)
    again = Caller(None, CallLog(tmp_path / "d", tmp_path / "c"))
    with pytest.raises(CallError, match="content_filter"):
        again.ask("s", "p", Advice)


@pytest.mark.parametrize(
    "change",
    [
        {"tokens_in": -1_000_000},
        {"tokens_out": 10**400},
        {"seconds": math.nan},
        {"seconds": math.inf},
        None,
    ],
)
def test_what_budgets_cannot_count_is_no_recorded_answer(tmp_path, change):
    asking, _, _ = scripted(tmp_path, ChatResponse(ANSWER, 1000, 500))
    asking.ask("s", "p", Advice)
    log = tmp_path / "c"
    line = json.loads(log.read_text())
    damaged = "[" * 200_000 if change is None else json.dumps(line | change)
    log.write_text(f"{damaged}\n")
    again = Caller(None, CallLog(tmp_path / "again", log))
    with pytest.raises(CallError, match="the log has no answer"):
        again.ask("s", "p", Advice)


def test_pauses_double_up_to_the_longest_with_jitter(tmp_path):
    failures = [ConnectionError()] * 5
    retry = RetryPolicy(max_attempts=6, initial_delay_s=1.0, max_delay_s=4.0)
    asking, _, clock = scripted(tmp_path, *failures, retry=retry)
    asking.ask("s", "p", Advice)
    wanted = [1, 2, 4, 4, 4]
    ratios = [s / w for s, w in zip(clock.slept, wanted, strict=True)]
    assert all(0.5 <= ratio <= 1.5 for ratio in ratios)
    assert len(set(ratios)) > 1


IN_TEN_SECONDS = "ten seconds from now, as a date"


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "10"}, 10, 11),
        ({"Retry-After": "2.5"}, 2.5, 3.5),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5, 2.5),
        ({"Retry-After": IN_TEN_SECONDS}, 5, 11),  # a busy machine takes its time
        ({"Retry-After": "86400"}, 30, 31),  # no longer than the longest pause
        ({"Retry-After": "Mon, 01 Jan 2001 00:00:00 GMT"}, 0, 1),
        ({"Retry-After": "-5"}, 0, 1),
        ({"Retry-After": "nan"}, 0, 1),
        ({"Retry-After": "1e999"}, 0, 1),
        ({"Retry-After": "soon"}, 0, 1),
        ({"Retry-After": "1 Jan 99999"}, 0, 1),
        ({}, 0, 1),
    ],
)
def test_a_service_is_not_asked_before_the_time_that_it_tells(
    tmp_path, headers, least, most
):
    slow = iter([429, 503])

    def fault(handler):
        if not (status := next(slow, 0)):
            return False
        handler.send_response(status)
        for name, value in headers.items():
            date = formatdate(time.time() + 10, usegmt=True)
            handler.send_header(name, date if value == IN_TEN_SECONDS else value)
        handler.send_header("Content-Length", "2")
        handler.end_headers()
        handler.wfile.write(b"{}")
        return True

    slept: list[float] = []
    retry = RetryPolicy(initial_delay_s=0.2)
    with LlmServer(script, fault=fault) as server:
        log = tmp_path / "c"
        asking = caller(server.url, log, retry=retry, sleep=slept.append)
        asking.ask("system", "prompt", Advice)
        assert len(server.requests) == 3
    assert len(slept) == 2
    assert all(least <= seconds <= most for seconds in slept)


def test_bedrock_tells_the_time_in_its_own_place():
    told = {"ResponseMetadata": {"HTTPHeaders": {"retry-after": "7"}}}
    assert again_after(ClientError(told)) == 7
    for response in ({}, {"ResponseMetadata": {}}, None, "x"):
        assert again_after(ClientError(response)) == 0
    assert again_after(ConnectionError()) == 0


class ClientError(Exception):
    """As botocore raises it."""

    def __init__(self, response):
        super().__init__("throttled")
        self.response = response


def test_the_circuit_opens_probes_and_closes(tmp_path):
    retry = RetryPolicy(max_attempts=1, failure_threshold=3, cooldown_s=10.0)
    failures = [ConnectionError()] * 4
    asking, backend, clock = scripted(tmp_path, *failures, retry=retry)

    def failure(prompt):
        with pytest.raises(CallError) as error:
            asking.ask("s", prompt, Advice)
        return error.value.failure

    assert [failure(f"{i}") for i in range(3)] == [Failure.UNREACHABLE] * 3
    assert [failure(f"{i}") for i in range(5)] == [Failure.CIRCUIT_OPEN] * 5
    assert backend.asked == 3
    clock.now = 10.0
    assert failure("probe") == Failure.UNREACHABLE
    clock.now = 29.9  # twice as long
    assert failure("early") == Failure.CIRCUIT_OPEN
    clock.now = 30.1
    asking.ask("s", "healed", Advice)
    asking.ask("s", "closed", Advice)
    assert backend.asked == 6
    assert asking.spending.take()["errors/circuit_open"] == 6


def test_being_told_to_slow_down_opens_no_circuit(tmp_path):
    class SlowDownError(Exception):
        status_code = 429

    retry = RetryPolicy(max_attempts=9, failure_threshold=2, initial_delay_s=0.0)
    asking, backend, _ = scripted(tmp_path, *[SlowDownError()] * 8, retry=retry)
    asking.ask("s", "p", Advice)
    assert backend.asked == 9


@pytest.mark.parametrize(
    ("budget", "calls"),
    [
        (Budget(cycle_calls=2), 2),
        (Budget(cycle_tokens=1600), 2),  # known after the second: 3000
        (
            Budget(cycle_dollars=0.01, input_price=2.0, output_price=8.0),
            2,
        ),  # 0.6 cents each
        (Budget(run_calls=3), 3),
        (Budget(run_tokens=4500), 3),
    ],
)
def test_what_is_spent_is_counted_and_bounded(tmp_path, budget, calls):
    asking, backend, _ = scripted(tmp_path, budget=budget)
    asking.begin(1)
    for i in range(calls):
        asking.ask("s", f"{i}", Advice)
    with pytest.raises(CallError, match=r"budget\.\w+=[\d.]+ is spent"):
        asking.ask("s", "one more", Advice)
    assert backend.asked == calls
    of_run = budget.run_calls or budget.run_tokens
    asking.begin(2)
    if not of_run:
        asking.ask("s", "a fresh cycle", Advice)
        return
    restored, backend, _ = scripted(tmp_path / "b", budget=budget)
    restored.restore(json.loads(json.dumps(asking.state())))
    for again in (asking, restored):
        with pytest.raises(CallError, match="budget"):
            again.ask("s", "the same run", Advice)
    assert backend.asked == 0


def test_money_without_prices_is_refused():
    with pytest.raises(ValueError, match=r"^run_dollars=3 needs input_price and"):
        Budget(run_dollars=3)
    with pytest.raises(ValueError, match=r"^cycle_calls=-1: must be 0 or more"):
        Budget(cycle_calls=-1)


def test_the_log_keeps_everything_but_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_KEY", "hush-12345")

    def leak(handler):
        sent = handler.headers["Authorization"]
        assert "hush-12345" in sent
        reply(handler, json.dumps({"error": {"message": f"bad {sent}"}}).encode(), 401)
        return True

    from reskill_jax.llm.backends import make_backend

    with LlmServer(script, fault=leak) as server:
        model = Model("openai", "m", server.url, api_key_variable="TEST_KEY")
        log = tmp_path / "creator" / "calls.jsonl"
        asking = Caller(make_backend(model), CallLog(log), secrets=(model.key,))
        with pytest.raises(CallError) as error:
            asking.ask("the system", "the prompt", Advice)
    line = json.loads(log.read_text())
    assert "hush" not in log.read_text() + str(error.value)
    assert (line["system"], line["prompt"]) == ("the system", "the prompt")
    assert line["error"].startswith("refused: AuthenticationError")
    text = "sk-abcdefgh1234 AKIAABCDEFGHIJKLMNOP http://me:pass@host Bearer abc.def"
    assert scrub(text) == "*** *** http://me:***@host Bearer ***"


def test_recorded_answers_are_not_asked_for_again_even_after_a_torn_line(tmp_path):
    asking, _, _ = scripted(tmp_path)
    asking.begin(7)
    asking.ask("s", "p", Advice)
    with (tmp_path / "c").open("a") as file:
        file.write('{"cycle": 7, "resp')
    again, other, _ = scripted(tmp_path)
    again.begin(7)
    again.ask("s", "p", Advice)
    assert other.asked == 0
    assert again.state() == asking.state()
    again.begin(8)
    again.ask("s", "p", Advice)
    assert other.asked == 1
    third, last, _ = scripted(tmp_path)
    third.begin(8)
    third.ask("s", "p", Advice)
    assert last.asked == 0


def test_what_was_asked_twice_in_a_cycle_is_found_in_its_order(tmp_path):
    """EvolveR asks the same about two tasks with one principle; services sample."""
    other = json.dumps({"operations": []})
    asking, _, _ = scripted(tmp_path, ANSWER, other)
    asking.begin(1)
    answers = [asking.ask("s", "p", Advice) for _ in range(2)]
    assert answers[0] != answers[1]
    replay = Caller(None, CallLog(tmp_path / "replay", tmp_path / "c"))
    replay.begin(1)
    assert [replay.ask("s", "p", Advice) for _ in range(2)] == answers
    assert replay.state() == asking.state()
    with pytest.raises(CallError, match="the log has no answer"):
        replay.ask("s", "p", Advice)
    # One that was killed between the two asks for the second.
    first, *_ = (tmp_path / "c").read_text().splitlines()
    (tmp_path / "c").write_text(first + "\n")
    resumed, backend, _ = scripted(tmp_path, other)
    resumed.begin(1)
    assert [resumed.ask("s", "p", Advice) for _ in range(2)] == answers
    assert backend.asked == 1


def test_a_model_that_cannot_be_asked_is_told(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "OPENAI_API_KEY holds no key" in Model("openai", "m").problem()
    assert "name of a model" in Model("openai", "").problem()
    bad = Model("openai", "m", "http://me:secret@host", api_key_variable="PATH")
    assert "credentials" in bad.problem()
    assert os.environ["PATH"]
    assert Model("openai", "m", api_key_variable="PATH").problem() == ""
