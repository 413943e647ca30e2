"""Anthropic's and Amazon's SDKs against scripted HTTP: what is sent and understood."""

import json
import time
from http.server import BaseHTTPRequestHandler

import pytest

from reskill_jax.benchmarks.llm_server import LlmServer, reply
from reskill_jax.llm.backends import (
    ChatRequest,
    ChatResponse,
    Model,
    make_backend,
    read,
    usage,
)
from reskill_jax.llm.retry import Failure, classify

SCHEMA = {"type": "object", "properties": {"maxLength": {"type": "string"}}}
LIMITED = {
    "type": "object",
    "properties": {"maxLength": {"type": "string", "maxLength": 9}},
}
REQUEST = ChatRequest("be brief", "how?", LIMITED, "plan")


class Capturing:
    """Answers everything with one body and keeps path and headers."""

    def __init__(self, answer: dict):
        self.answer = answer
        self.path = ""
        self.headers: dict[str, str] = {}

    def __call__(self, handler: BaseHTTPRequestHandler) -> bool:
        self.path = handler.path
        self.headers = {k.lower(): v for k, v in handler.headers.items()}
        reply(handler, json.dumps(self.answer).encode())
        return True


def test_anthropic(monkeypatch):
    pytest.importorskip("anthropic", reason="needs the extra llm")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "the-key")
    tool = {"type": "tool_use", "id": "x", "name": "plan", "input": {"a": 1}}
    answer = {"content": [tool], "usage": {"input_tokens": 7, "output_tokens": 3}}
    capture = Capturing(answer)
    with LlmServer(lambda stage, prompt: "", fault=capture) as server:
        url = server.url.removesuffix("/v1")
        backend = make_backend(Model("anthropic", "m", url, timeout_s=60))
        assert backend.complete(REQUEST) == ChatResponse('{"a": 1}', 7, 3)
        answer["content"] = [{"type": "text", "text": "no tool"}]
        answer["stop_reason"] = "max_tokens"
        assert backend.complete(REQUEST) == ChatResponse("no tool", 7, 3, cut=True)
        answer["stop_reason"] = "refusal"
        assert backend.complete(REQUEST).blocked == "refusal"
        sent = server.requests[0]
    assert capture.path == "/v1/messages"
    # Older versions of the SDK send the one, newer ones the other.
    sent_key = {"x-api-key", "authorization"} & set(capture.headers)
    assert "the-key" in capture.headers[sent_key.pop()]
    assert sent["system"] == "be brief"
    assert sent["messages"] == [{"role": "user", "content": "how?"}]
    assert sent["tool_choice"] == {"type": "tool", "name": "plan"}
    assert sent["tools"][0]["input_schema"] == SCHEMA
    assert sent["temperature"] == 0.2


def test_bedrock(monkeypatch):
    pytest.importorskip("boto3", reason="needs the extra llm")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    content = [{"toolUse": {"toolUseId": "x", "name": "plan", "input": {"a": 1}}}]
    capture = Capturing(
        {
            "output": {"message": {"role": "assistant", "content": content}},
            "stopReason": "tool_use",
            "usage": {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10},
            "metrics": {"latencyMs": 1},
        }
    )
    with LlmServer(lambda stage, prompt: "", fault=capture) as server:
        url = server.url.removesuffix("/v1")
        backend = make_backend(Model("bedrock", "a.model", url, timeout_s=60))
        assert backend.complete(REQUEST) == ChatResponse('{"a": 1}', 7, 3)
        capture.answer["stopReason"] = "max_tokens"
        assert backend.complete(REQUEST).cut
        capture.answer["stopReason"] = "guardrail_intervened"
        assert backend.complete(REQUEST).blocked == "guardrail_intervened"
        sent = server.requests[0]
    assert capture.path == "/model/a.model/converse"
    assert sent["system"] == [{"text": "be brief"}]
    assert sent["inferenceConfig"] == {"maxTokens": 4096, "temperature": 0.2}
    spec = sent["toolConfig"]["tools"][0]["toolSpec"]
    assert spec["inputSchema"] == {"json": SCHEMA}


def test_openai_without_schema_or_temperature():
    pytest.importorskip("openai", reason="needs the extra llm")
    body = {"choices": [{"message": {"content": "hi"}}]}
    with LlmServer(lambda stage, prompt: "", fault=Capturing(body)) as server:
        model = Model(
            "openai", "m", server.url, "PATH", structured=False, temperature=-1
        )
        assert make_backend(model).complete(REQUEST) == ChatResponse("hi", 0, 0)
        assert "response_format" not in server.requests[0]
        assert "temperature" not in server.requests[0]


@pytest.mark.parametrize("limits", [False, True])
def test_openai_is_told_limits_if_asked_to_and_tells_what_was_cut(limits):
    pytest.importorskip("openai", reason="needs the extra llm")
    choice = {"message": {"content": "{"}, "finish_reason": "length"}
    with LlmServer(
        lambda stage, prompt: "", fault=Capturing({"choices": [choice]})
    ) as server:
        model = Model("openai", "m", server.url, "PATH", limits=limits)
        assert make_backend(model).complete(REQUEST) == ChatResponse("{", cut=True)
        choice["finish_reason"] = "content_filter"
        assert make_backend(model).complete(REQUEST).blocked == "content_filter"
        told = server.requests[0]["response_format"]["json_schema"]["schema"]
        assert told == (LIMITED if limits else SCHEMA)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        ([], ""),
        (["a", "b"], "ab"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": None}], "a"),
        (
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "draft"}]},
                {"type": "reasoning", "text": "draft"},
                {"type": "image_url", "image_url": {"url": "x"}},
                {"type": "output_text", "text": "{}"},
            ],
            "{}",
        ),
    ],
)
def test_openai_answers_in_parts(content, text):
    """The parts that are thoughts are not the answer."""
    pytest.importorskip("openai", reason="needs the extra llm")
    message = {"content": content, "reasoning_content": "draft"}
    usage = {"prompt_tokens": None, "completion_tokens": 3}
    body = {"choices": [{"message": message}], "usage": usage}
    with LlmServer(lambda stage, prompt: "", fault=Capturing(body)) as server:
        backend = make_backend(Model("openai", "m", server.url, "PATH"))
        assert backend.complete(REQUEST) == ChatResponse(text, 0, 3)


@pytest.mark.parametrize(
    "told",
    [
        "many",
        [1],
        *({"prompt_tokens": n} for n in (-5, float("inf"), "5", True, 10**400)),
    ],
)
def test_what_is_no_count_of_tokens_is_a_bad_response(told):
    """A budget is held by it: less than nothing would never be spent."""
    with pytest.raises(ValueError, match="the service sent") as error:
        usage({"usage": told}, "prompt_tokens")
    assert classify(error.value) is Failure.BAD_RESPONSE


def test_usage_that_is_not_told_counts_nothing():
    for answer in ({}, {"usage": None}, {"usage": {"b": None}}):
        assert usage(answer, "a", "b") == [0, 0]


@pytest.mark.parametrize("told", [{"message": "quota used", "code": 429}, "quota used"])
def test_an_error_with_the_status_of_an_answer_is_told(told):
    body = json.dumps({"error": told, "choices": None}).encode()
    with pytest.raises(
        ValueError, match=r"the service sent error=.*quota used"
    ) as error:
        read([body], time.monotonic() + 60)
    assert classify(error.value) is Failure.BAD_RESPONSE
    assert read([b'{"error": null}'], time.monotonic() + 60) == {"error": None}


def test_a_refusal_is_kept_in_place_of_an_answer():
    """The log would say nothing else of why there is none."""
    pytest.importorskip("openai", reason="needs the extra llm")
    body = {"choices": [{"message": {"content": None, "refusal": "I cannot."}}]}
    with LlmServer(lambda stage, prompt: "", fault=Capturing(body)) as server:
        backend = make_backend(Model("openai", "m", server.url, "PATH"))
        assert backend.complete(REQUEST) == ChatResponse("I cannot.")


def test_json_that_is_too_deep_is_a_bad_response():
    with pytest.raises(RecursionError) as error:
        read([b"[" * 100_000], time.monotonic() + 60)
    assert classify(error.value) is Failure.BAD_RESPONSE


@pytest.mark.parametrize("content", [5, {"text": "a"}, [5], [{"text": 5}]])
def test_openai_content_that_is_no_text_is_a_bad_response(content):
    pytest.importorskip("openai", reason="needs the extra llm")
    body = {"choices": [{"message": {"content": content}}]}
    with LlmServer(lambda stage, prompt: "", fault=Capturing(body)) as server:
        backend = make_backend(Model("openai", "m", server.url, "PATH"))
        with pytest.raises((ValueError, TypeError, AttributeError)) as error:
            backend.complete(REQUEST)
    assert classify(error.value) is Failure.BAD_RESPONSE
