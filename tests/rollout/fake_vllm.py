"""A server with the routes for weights of vLLM, whose workers join by a fake NCCL."""

import base64
import ctypes
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import jax.numpy as jnp
import numpy as np

from reskill_jax.rollout.nccl import UniqueId
from reskill_jax.rollout.vllm_api import _ROUTES

INIT, UPDATE = "/init_weight_transfer_engine", "/update_weights"
EMBEDDING = "model.embed_tokens.weight"


def score(embedding, tokens):
    """Stands for log-probs: they depend on weights that arrived."""
    mean = np.abs(np.asarray(embedding, np.float32)).mean()
    return np.full(len(tokens) - 1, -mean, np.float32)


class FakeVllm:
    """Answers as vLLM 0.32 with the backend `nccl` does; also a `Server` of ours.

    Attributes:
        weights: by rank of a worker, the tensors that it received last.
        asked: routes, in order.
        faults: by route, what happens at the next calls: "refuse", "silent", or a
            number of tensors after which an update fails; None for nothing.
        released: ends the silence.
    """

    log, pid = Path("log"), 0

    def __init__(self, library, ranks=1):
        self._library = ctypes.CDLL(str(library))
        self._ranks = ranks
        self.asked, self.faults = [], {}
        self.released, self._turn = threading.Event(), threading.Lock()
        self._port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        self._comms, self.weights = [], [{} for _ in range(self._ranks)]
        self._version, self._active, self._paused = "default", False, False
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                fake._handle(self, {})

            def do_POST(self):
                size = int(self.headers["Content-Length"])
                fake._handle(self, json.loads(self.rfile.read(size)))

            def log_message(self, *arguments):
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self._running = True

    def stop(self):
        self.released.set()
        if self._running:
            self._running = False
            self._http.shutdown()
            self._http.server_close()
            self._leave()

    def restart(self):
        self.stop()
        self.start()

    def ended(self):
        return not self._running

    def tail(self):
        return "the end"

    def _handle(self, request, body):
        route = urlsplit(request.path).path
        if route != "/health":
            self.asked.append(route)
        faults = self.faults.get(route, [])
        fault = faults.pop(0) if faults else None
        # Workers do one thing after the other.
        of_workers = route.endswith(("_engine", "_update", "_weights"))
        turn = self._turn if of_workers else nullcontext()
        try:
            with turn:
                if fault == "silent":
                    self.released.wait()
                if fault in ("refuse", "silent"):
                    raise RuntimeError(f"{route} fails")
                answer = self._answer(route, body, fault)
            status = 200
        except Exception as error:
            if route == UPDATE:
                self._active = False
            status, answer = 500, {"error": repr(error)}
        text = json.dumps(answer).encode()
        try:
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)
        except OSError:
            pass  # whoever asked has gone

    def _answer(self, route, body, fault):  # noqa: PLR0911, PLR0912
        match route:
            case "/openapi.json":
                return {"paths": dict.fromkeys(_ROUTES)}
            case "/v1/models":
                return {"data": [{"id": "policy"}]}
            case "/weight_info":
                return {"weight_version": self._version}
            case "/get_world_size":
                return {"world_size": self._ranks}
            case "/pause" | "/resume":
                self._paused = route == "/pause"
            case "/init_weight_transfer_engine":
                self._on_all_ranks(self._join, body["init_info"])
            case "/shutdown_weight_transfer_engine":
                assert not self._active, "during a weight update"
                self._leave()
            case "/start_weight_update":
                assert self._paused
                assert not self._active, "already active"
                self._active = True
                self.weights = [{} for _ in range(self._ranks)]  # emptied
            case "/update_weights":
                assert self._active, "no start"
                self._on_all_ranks(self._receive, body["update_info"], fault)
            case "/finish_weight_update":
                assert self._active
                self._active, self._version = False, body["weight_version"]
            case "/reset_prefix_cache":
                return {"success": True}
            case "/v1/completions":
                assert not self._paused, "it would wait for ever"
                tokens = body["prompt"]
                found = score(self.weights[0][EMBEDDING], tokens)
                pairs = zip(tokens[1:], found.tolist(), strict=True)
                entries = [{str(token): {"logprob": x}} for token, x in pairs]
                return {"choices": [{"prompt_logprobs": [None, *entries]}]}
            case _:
                assert route == "/health", route
        return {}

    def _on_all_ranks(self, act, *arguments):
        with ThreadPoolExecutor(self._ranks) as pool:
            list(pool.map(lambda rank: act(rank, *arguments), range(self._ranks)))

    def _join(self, rank, info):
        unique_id = base64.b64decode(info["nccl_unique_id_b64"], validate=True)
        assert len(unique_id) == 128
        assert info["world_size"] == 1 + self._ranks
        assert info["packed"] is False
        comm = ctypes.c_void_p()
        self._comms.append((rank, comm))
        self._call(
            "ncclCommInitRank",
            ctypes.byref(comm),
            info["world_size"],
            UniqueId.from_buffer_copy(unique_id),
            info["rank_offset"] + rank,
        )
        zero = np.zeros(1, np.float32)
        self._call("ncclAllReduce", *_buffers(zero), 7, 0, comm, None)

    def _receive(self, rank, info, fail_after):
        comm = dict(self._comms)[rank]
        lists = (info[key] for key in ("names", "dtype_names", "shapes"))
        for number, (name, dtype, shape) in enumerate(zip(*lists, strict=True)):
            if number == fail_after:
                raise RuntimeError(f"{name} does not load")
            tensor = np.empty(shape, jnp.dtype(dtype))
            code = {"float32": 7, "bfloat16": 9}[dtype]
            self._call("ncclBroadcast", *_buffers(tensor), code, 0, comm, None)
            self.weights[rank][name] = tensor

    def _leave(self):
        for _, comm in self._comms:
            self._call("ncclCommAbort", comm)
        self._comms = []

    def _call(self, name, *arguments):
        if result := getattr(self._library, name)(*arguments):
            raise RuntimeError(f"{name}: {result}")


def _buffers(x):
    """Where from, where to, and how many."""
    pointer = ctypes.c_void_p(x.ctypes.data)
    return pointer, pointer, ctypes.c_size_t(x.size)
