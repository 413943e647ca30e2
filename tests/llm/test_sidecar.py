"""How the creator asks the engine's servers, against scripted ones."""

import json
import time
from http.server import BaseHTTPRequestHandler

import pytest

pytest.importorskip("openai", reason="needs the extra llm: pip install '.[llm]'")
from openai import BadRequestError

from reskill_jax.benchmarks.llm_server import LlmServer, reply
from reskill_jax.llm.backends import ChatRequest, ChatResponse, Model
from reskill_jax.llm.retry import Failure, classify
from reskill_jax.llm.sidecar import Sidecar, TooLongError

SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "maxLength": 9}}}
REQUEST = ChatRequest("be brief", "how?", SCHEMA, "plan")


class Vllm(LlmServer):
    """A server that also tells the version of its weights, one after the other."""

    def __init__(self, *versions, **options):
        super().__init__(lambda stage, prompt: f'"{stage}"', **options)
        self.versions = list(versions)

        def tell_version(handler: BaseHTTPRequestHandler):
            assert handler.path == "/weight_info"
            version = self.versions.pop(0) if self.versions[1:] else self.versions[0]
            reply(handler, json.dumps({"weight_version": version}).encode())

        self._server.RequestHandlerClass.do_GET = tell_version

    @property
    def address(self):
        return self.url.removesuffix("/v1")


def make(*servers, **changes):
    model = Model("sidecar", "", **{"timeout_s": 5.0, **changes})
    return Sidecar(model, [server.address for server in servers])


def test_it_asks_for_the_schema_without_thinking_aloud():
    with Vllm("1") as server:
        assert make(server).complete(REQUEST) == ChatResponse('"plan"', 100, 1)
        (sent,) = server.requests
    assert sent["response_format"]["json_schema"]["schema"] == SCHEMA
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}
    assert sent["model"] == ""  # whatever is served


def test_servers_are_asked_in_turn():
    with Vllm("1") as one, Vllm("1") as other:
        sidecar = make(one, other)
        for _ in range(4):
            sidecar.complete(REQUEST)
        assert len(one.requests) == len(other.requests) == 2


def test_a_server_without_weights_is_waited_for():
    with Vllm("default", "default", "7") as server:
        make(server).complete(REQUEST)
        assert server.versions == ["7"]
        assert len(server.requests) == 1


def test_the_wait_ends_with_the_time_of_the_call():
    server = Vllm("default")
    started = time.monotonic()
    with server, pytest.raises(TimeoutError, match=r"has not been ready in 0\.2 s"):
        make(server, timeout_s=0.2).complete(REQUEST)
    assert time.monotonic() - started >= 0.2
    assert server.requests == []
    with pytest.raises(TimeoutError):  # nobody listens there any more
        make(server, timeout_s=0.2).complete(REQUEST)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (
            "This model's maximum context length is 512 tokens.",
            TooLongError,
            r"^max_tokens=99: prompt and answer exceed .*--max-model-len; .*512",
        ),
        (
            "max_completion_tokens=99 cannot be greater than max_model_len=64.",
            TooLongError,
            "larger --max-model-len; it says: .*max_model_len=64",
        ),
        ("no chat template", BadRequestError, "no chat template"),
    ],
)
def test_what_is_refused_is_not_asked_again(words, error, message):
    def refuse(handler):
        body = {"error": {"message": words, "type": "BadRequestError", "code": 400}}
        reply(handler, json.dumps(body).encode(), 400)
        return True

    server = Vllm("1", fault=refuse)
    with server, pytest.raises(error, match=message) as raised:
        make(server, max_tokens=99).complete(REQUEST)
    assert classify(raised.value) is Failure.REFUSED
