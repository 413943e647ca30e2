"""Servers that are not what they should be, played by a small one of our own."""

import asyncio
import importlib.util
import json
import resource
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import jax
import numpy as np
import pytest
from programs import save_random_policy, start_two

pytest.importorskip("httpx", reason="needs the extra vllm: pip install '.[vllm]'")

from reskill_jax.policy.config import DecoderConfig
from reskill_jax.policy.decoder import init
from reskill_jax.rollout.types import Request, Sampling
from reskill_jax.rollout.vllm_api import _ROUTES
from reskill_jax.rollout.vllm_engine import VllmEngine
from reskill_jax.rollout.vllm_files import FilesTransfer

CONFIG = DecoderConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
)
FINISH = "/finish_weight_update"


class Scripted:
    """Speaks as vLLM does, unless `changes` tell another answer to a route.

    Attributes:
        asked: routes, in order.
        changes: by route, its answer (a document, or bytes) or the status of an error.
        version: that it says it serves.
        logprob: of every token, whatever it is told.
    """

    def __init__(self):
        self.asked: list[str] = []
        self.changes: dict = {}
        self.version, self.logprob = "default", -1.0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner._handle(self)

            def do_POST(self):
                owner._handle(self)

            def log_message(self, *arguments):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        serve = self._server.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, handler):
        route = urlsplit(handler.path).path
        body = json.loads(
            handler.rfile.read(int(handler.headers["Content-Length"] or 0)) or "{}"
        )
        self.asked.append(route)
        answer = self.changes.get(route)
        if answer is None:
            answer = self._answer(route, body)
        status, answer = (answer, b"no") if isinstance(answer, int) else (200, answer)
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    def _answer(self, route, body):
        if route == FINISH:
            self.version = body["weight_version"]
        if route == "/v1/completions":
            entries = [{str(t): {"logprob": self.logprob}} for t in body["prompt"][1:]]
            return {"choices": [{"prompt_logprobs": [None, *entries]}]}
        if route == "/inference/v1/generate":
            content = [{"logprob": self.logprob}]
            choice = {"token_ids": [7], "logprobs": {"content": content}}
            span = {"version": self.version, "start": 0, "end": 1}
            choice |= {"finish_reason": "length", "weight_versions": [span]}
            return {"choices": [choice]}
        return {
            "/openapi.json": {"paths": dict.fromkeys(_ROUTES)},
            "/version": {"version": "0.29.0"},
            "/v1/models": {"data": [{"id": "theirs"}]},
            "/weight_info": {"weight_version": self.version},
            "/reset_prefix_cache": {"success": True},
        }.get(route, {})


def weights(seed=0):
    return init(CONFIG, jax.random.key(seed))


def attach(server, tmp_path, expected=-1.0):
    """Use a server that somebody else runs; ours would compute `expected`."""
    return VllmEngine(
        CONFIG,
        weights(),
        servers=[server.url],
        transfer=FilesTransfer(CONFIG, tmp_path / "weights"),
        eos_id=1,
        score=lambda params, tokens: np.full(len(tokens) - 1, expected, np.float32),
        tolerance=1e-4,
        start_seconds=5.0,
    )


def ask(engine):
    request = Request("s", [1, 2, 3], Sampling(max_tokens=1), seed=0)
    return asyncio.run(engine.generate(request))


def test_a_server_that_is_one_is_used(tmp_path):
    with Scripted() as server:
        engine = attach(server, tmp_path)
        assert ask(engine).version == 0
        engine.push(weights(1), 1)
        assert ask(engine).version == 1
        engine.close()
    assert server.asked.count(FINISH) == 2
    assert list(tmp_path.iterdir()) == []


NO_DEV_MODE = {"paths": {"/v1/completions": {}, "/inference/v1/generate": {}}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"health": 404}, r"http://\S+ is no vLLM server, does something else listen"),
        ({"weight_info": b"<html>"}, r"does not take version 0 .* no JSON: '<html>'"),
        (
            {"weight_info": 404, "openapi.json": NO_DEV_MODE},
            r"vLLM 0\.29\.0 lacks .*/pause.*: start it with VLLM_SERVER_DEV_MODE=1",
        ),
        (
            {"openapi.json": {"paths": dict.fromkeys(_ROUTES[1:])}},
            r"lacks /inference/v1/generate: start it with .* --enable-scale-out",
        ),
        ({"start_weight_update": 404}, "/start_weight_update answered 404"),
        (
            {"weight_info": {"weight_version": "12"}},
            "version '12', not '0': does another run push to it",
        ),
        ({"reset_prefix_cache": {"success": False}}, r"/reset_prefix_cache .*False"),
    ],
    ids=["foreign", "pages", "no dev mode", "old", "newer", "shared", "busy"],
)
def test_a_server_that_is_none_for_us_is_refused(tmp_path, changes, message):
    with Scripted() as server:
        server.changes = {f"/{route}": answer for route, answer in changes.items()}
        with pytest.raises(RuntimeError, match=message):
            attach(server, tmp_path)
    assert ("/pause" in server.asked) == ("/resume" in server.asked)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_keeps_its_own_weights_is_noticed(tmp_path):
    """It takes updates, says that it serves them, and computes what it did before."""
    with Scripted() as server:
        engine = attach(server, tmp_path)
        server.logprob = -1.001
        with pytest.raises(
            RuntimeError, match=r"'theirs' version 1, but .* off the tra"
        ):
            engine.push(weights(1), 1)
        engine.close()


def test_weights_that_cannot_be_written_whole_are_not_sent(tmp_path):
    with Scripted() as server:
        engine = attach(server, tmp_path)
        asked = len(server.asked)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # less than weights
        try:
            with pytest.raises(
                OSError, match=r"engine\.vllm\.root='.*' did not take all"
            ):
                engine.push(weights(1), 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(server.asked) == asked
        assert [path.name for path in (tmp_path / "weights").iterdir()] == ["v0"]
        assert ask(engine).version == 0
        engine.push(weights(1), 1)
        assert ask(engine).version == 1
        engine.close()


def test_a_refused_push_leaves_the_old_version_and_the_next_one_counts(tmp_path):
    with Scripted() as server:
        engine = attach(server, tmp_path)
        server.changes = {"/update_weights": 500}
        with pytest.raises(
            RuntimeError, match=r"does not take version 1 .* answered 500"
        ):
            engine.push(weights(1), 1)
        assert server.asked[-1] == "/resume"
        assert ask(engine).version == 0
        server.changes = {}
        engine.push(weights(1), 2)
        assert ask(engine).version == 2
        assert [path.name for path in (tmp_path / "weights").iterdir()] == ["v2"]
        engine.close()


@pytest.mark.skipif(
    importlib.util.find_spec("alfworld") is None,
    reason="needs the extra alfworld: pip install '.[alfworld]'",
)
def test_a_push_that_fails_in_one_process_ends_the_other(tmp_path):
    """Both have a server, which gets all weights, though each has a part of them."""

    class Reading(Scripted):
        """Keeps the first weights; if it is stubborn, it takes no others."""

        first, stubborn = None, False

        def _answer(self, route, body):
            if route == "/update_weights" and self.first is None:
                path = Path(body["update_info"]["path"])
                self.first = (path / "model.safetensors").read_bytes()
                self.changes = {route: 500} if self.stubborn else {}
            return super()._answer(route, body)

    policy = save_random_policy(tmp_path / "policy")
    with Reading() as good, Reading() as bad:
        bad.stubborn = True
        changes = (
            "--config.engine.name=vllm",
            f"--config.engine.vllm.urls={(good.url, bad.url)!r}",
            f"--config.engine.vllm.root={tmp_path / 'weights'}",
            "--config.engine.vllm.tolerance=100",
        )
        processes = start_two(tmp_path / "w", policy, tmp_path, (changes, changes))
        assert all(process.wait(timeout=480) != 0 for process in processes)
    assert good.first == bad.first == (policy / "model.safetensors").read_bytes()
    told = [(tmp_path / f"{process}.err").read_text() for process in range(2)]
    assert f"{bad.url} does not take version 1 of the weights" in told[1]
    assert bad.url not in told[0]
    assert (good.version, bad.version) == ("1", "0")
    assert list((tmp_path / "weights").iterdir()) == []
