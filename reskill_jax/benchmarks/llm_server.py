"""A server that speaks OpenAI's chat completions and answers by script.

It is what the creator is tried against where there is no language model: over real
HTTP, with real latency and, where a test wants it, real faults.
"""

import json
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

Script = Callable[[str, str], str]  # (stage, prompt) to the text of the answer


class LlmServer:
    """Serves on this machine while its `with` block lasts.

    Args:
        script: answers a prompt; the stage is the name of the schema asked for.
        latency: seconds that each answer takes.
        fault: called with the handler before the script; True if it has dealt with the
            request itself.
        port: to serve on; 0: a free one.
    """

    def __init__(
        self,
        script: Script,
        latency: float = 0.0,
        fault: Callable[[BaseHTTPRequestHandler], bool] | None = None,
        port: int = 0,
    ):
        self.requests: list[dict[str, Any]] = []
        self._lock = Lock()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner._answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Stay silent."""

        self._script = script
        self._latency = latency
        self._fault = fault
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        """The address for the SDK."""
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def stages(self) -> list[str]:
        """Return the stages that were asked for, in order."""
        return [stage_of(request) for request in self.requests]

    def __enter__(self) -> "LlmServer":
        """Begin to serve."""
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        request = json.loads(body)
        with self._lock:
            self.requests.append(request)
        time.sleep(self._latency)
        if self._fault is not None and self._fault(handler):
            return
        prompt = request["messages"][-1]["content"]
        reply(handler, completion(self._script(stage_of(request), prompt)))


def stage_of(request: dict[str, Any]) -> str:
    """Return the name of the schema that a request asks for."""
    return request["response_format"]["json_schema"]["name"]


def completion(text: str) -> bytes:
    """Write an answer as the service does; a token is four characters."""
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 100, "completion_tokens": len(text) // 4}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "scripted",
            "choices": [choice],
            "usage": usage,
        }
    ).encode()


def reply(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200) -> None:
    """Send a whole response."""
    try:
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)
    except (BrokenPipeError, ConnectionResetError):
        pass  # who asked has gone
