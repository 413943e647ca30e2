"""Servers with the routes of vLLM: a plain one, and one whose workers join by NCCL."""

import base64
import ctypes
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import jax.numpy as jnp
import numpy as np

from reskill_jax.rollout.vllm.api import _ROUTES, _SLEEP_ROUTES
from reskill_jax.rollout.vllm.nccl import UniqueId

INIT, UPDATE = "/init_weight_transfer_engine", "/update_weights"
FINISH, RELOAD = "/finish_weight_update", "/collective_rpc"
EMBEDDING = "model.embed_tokens.weight"


def score(embedding, tokens):
    """Stands for log-probs: they depend on weights that arrived."""
    mean = np.abs(np.asarray(embedding, np.float32)).mean()
    return np.full(len(tokens) - 1, -mean, np.float32)


class FakeVllm:
    """Answers as vLLM 0.32 does; also a `Server` of ours.

    Attributes:
        asked: routes, in order.
        changes: by route, its answer (a document, or bytes) or the status of an error.
        version: that it says it serves.
        logprob: of every token, whatever it is told.
        plugin: whether it was started with ours.
        sleep_mode: whether it was started with it; None: without the routes, too.
        asleep: what it has given back, "weights" and "kv_cache".
        salts: of the prefix cache, of the responses that it was asked for.
        reloaded: directories.
        sampling: parameters of the responses that it was asked for.
    """

    log, pid = Path("log"), 0

    def __init__(self, *, plugin=True, sleep_mode=None):
        self.asked, self.changes, self.reloaded, self.sampling = [], {}, [], []
        self.sleep_mode, self.salts = sleep_mode, []
        self.logprob, self.plugin = -1.0, plugin
        self._port = 0
        self.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._port}"

    def start(self):
        self.version, self.paused, self.asleep = "default", False, set()
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
        serve = self._http.serve_forever
        threading.Thread(target=serve, args=(0.02,), daemon=True).start()
        self._running = True

    def stop(self):
        if self._running:
            self._running = False
            self._http.shutdown()
            self._http.server_close()

    def restart(self):
        self.stop()
        self.start()

    def ended(self):
        return not self._running

    def tail(self):
        return "the end"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()

    def _handle(self, request, body):
        route = urlsplit(request.path).path
        options = parse_qs(urlsplit(request.path).query)
        tags = options.get("tags", [])
        if route != "/health":
            self.asked.append(" ".join([route, *tags]))
        status, answer = 200, self.changes.get(route)
        try:
            if isinstance(answer, int):
                status, answer = answer, b"no"
            elif answer is None:
                answer = self._answer(route, body | options)
        except Exception as error:
            status, answer = 500, {"error": repr(error)}
        text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        try:
            request.send_response(status)
            request.send_header("Content-Length", str(len(text)))
            request.end_headers()
            request.wfile.write(text)
        except OSError:
            pass  # the client has closed the connection

    def _answer(self, route, body):
        match route:
            case "/pause" | "/resume":
                assert route == "/pause" or not self.asleep, "no keys and values"
                self.paused = route == "/pause"
            case "/sleep":
                assert (body["level"], body["mode"]) == (["1"], ["wait"])
                self.asleep, self.paused = {"weights", "kv_cache"}, True
            case "/wake_up":
                self.asleep -= set(body["tags"])
                self.paused = bool(self.asleep)
            case "/init_weight_transfer_engine":
                if not self.plugin:
                    raise RuntimeError("Weight transfer not configured. Please set it")
            case "/start_weight_update" | "/update_weights":
                assert self.plugin
                assert "weights" not in self.asleep, "nothing to put them into"
            case "/finish_weight_update":
                self.version = body["weight_version"]
            case "/update_weight_version":
                self.version = body["new_version"]
            case "/collective_rpc":
                assert self.paused
                assert body["method"] == "reload_weights"
                self.reloaded.append(Path(body["kwargs"]["weights_path"]))
                return {"results": [None]}
            case "/v1/completions":
                assert not self.paused, "it would wait for ever"
                pairs = zip(
                    body["prompt"][1:], self._score(body["prompt"]), strict=True
                )
                entries = [{str(token): {"logprob": x}} for token, x in pairs]
                return {"choices": [{"prompt_logprobs": [None, *entries]}]}
            case "/inference/v1/generate":
                self.sampling.append(body["sampling_params"])
                self.salts.append(body.get("cache_salt"))
                content = [{"logprob": self.logprob}]
                choice = {"token_ids": [7], "logprobs": {"content": content}}
                span = {"version": self.version, "start": 0, "end": 1}
                choice |= {"finish_reason": "length", "weight_versions": [span]}
                return {"choices": [choice]}
        routes = _ROUTES + (_SLEEP_ROUTES if self.sleep_mode is not None else ())
        model = {"enable_sleep_mode": bool(self.sleep_mode)}
        return {
            "/openapi.json": {"paths": dict.fromkeys(routes)},
            "/server_info": {"vllm_config": {"model_config": model}},
            "/is_sleeping": {"is_sleeping": self.paused},
            "/version": {"version": "0.29.0"},
            "/v1/models": {"data": [{"id": "theirs"}]},
            "/weight_info": {"weight_version": self.version},
            "/reset_prefix_cache": {"success": True},
        }.get(route, {})

    def _score(self, tokens):
        return [self.logprob] * (len(tokens) - 1)


class FakeNcclVllm(FakeVllm):
    """Has the backend `nccl`.

    Attributes:
        weights: by rank of a worker, the tensors that it received last.
        faults: by route, what happens at the next calls: "refuse", "silent", or a
            number of tensors after which an update fails; None for nothing.
        released: ends the silence.
    """

    def __init__(self, library, ranks=1):
        self._library = ctypes.CDLL(str(library))
        self._ranks = ranks
        self.faults = {}
        self.released, self._turn = threading.Event(), threading.Lock()
        super().__init__()

    def start(self):
        self._comms, self.weights = [], [{} for _ in range(self._ranks)]
        self._active = False
        super().start()

    def stop(self):
        self.released.set()
        if self._running:
            super().stop()
            self._leave()

    def _answer(self, route, body):
        faults = self.faults.get(route, [])
        fault = faults.pop(0) if faults else None
        # Workers do one thing after the other.
        of_workers = route.endswith(("_engine", "_update", "_weights"))
        with self._turn if of_workers else nullcontext():
            if fault == "silent":
                self.released.wait()
            try:
                if fault in ("refuse", "silent"):
                    raise RuntimeError(f"{route} fails")
                self._work(route, body, fault)
            except Exception:
                if route == UPDATE:
                    self._active = False
                raise
        if route == "/get_world_size":
            return {"world_size": self._ranks}
        return super()._answer(route, body)

    def _work(self, route, body, fault):
        match route:
            case "/init_weight_transfer_engine":
                self._on_all_ranks(self._join, body["init_info"])
            case "/shutdown_weight_transfer_engine":
                assert not self._active, "during a weight update"
                self._leave()
            case "/start_weight_update":
                assert self.paused
                assert not self._active, "already active"
                self._active = True
                self.weights = [{} for _ in range(self._ranks)]  # emptied
            case "/update_weights":
                assert self._active, "no start"
                self._on_all_ranks(self._receive, body["update_info"], fault)
            case "/finish_weight_update":
                assert self._active
                self._active = False

    def _score(self, tokens):
        return score(self.weights[0][EMBEDDING], tokens).tolist()

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
