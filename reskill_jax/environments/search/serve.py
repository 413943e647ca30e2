"""Serves passages by the protocol of Search-R1, from a process of its own.

    python -m reskill_jax.environments.search.serve --passages=passages.jsonl.gz

    curl -d '{"queries": ["who wrote Dracula"], "topk": 3, "return_scores": true}' \
        http://127.0.0.1:8000/retrieve

Bad requests are answered with 400 to 422, never with 500, which asks for a repetition.
Everything is computed on CPUs.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import msgspec
from aiohttp import web

from reskill_jax.environments.search.client import ROUTE
from reskill_jax.environments.search.files import Passage, read_passages
from reskill_jax.environments.search.settings import LOCAL

MAX_QUERIES = 1000  # per request
MAX_TOP_K = 100
_MAX_CHARACTERS = 10_000  # of a query; the rest of a longer one is not looked at
_MAX_BYTES = 16_000_000  # of a request
_BACKLOG = 2048  # connections that wait to be accepted


class Retriever(Protocol):
    """Finds passages."""

    def search(self, query: str, top_k: int) -> list[tuple[int, float]]:
        """Return places of passages and scores, the best first; maybe none."""
        ...


class _Request(msgspec.Struct):
    queries: list[str]
    topk: int | None = None
    return_scores: bool = False


def make_app(
    retriever: Retriever,
    passages: Sequence[Passage],
    *,
    top_k: int = 3,
    latency_s: float = 0.0,
) -> web.Application:
    """Make the server.

    Args:
        retriever: over `passages`.
        passages: what it finds.
        top_k: passages per query where a request does not say how many.
        latency_s: seconds that every answer waits, to measure who asks.
    """
    # One thread: retrievers compute, and the loop goes on accepting.
    worker = ThreadPoolExecutor(1)

    def search(request: _Request) -> list[Any]:
        wanted = request.topk or top_k
        return [
            [
                _document(passages[place], score, request.return_scores)
                for place, score in retriever.search(query[:_MAX_CHARACTERS], wanted)
            ]
            if query.strip()
            else []
            for query in request.queries
        ]

    async def retrieve(http: web.Request) -> web.Response:
        try:
            request = msgspec.json.decode(await http.read(), type=_Request)
        except (ValueError, RecursionError) as error:  # also msgspec's
            return _refuse(str(error))
        if len(request.queries) > MAX_QUERIES:
            return _refuse(f"more than {MAX_QUERIES} queries")
        if request.topk is not None and not 1 <= request.topk <= MAX_TOP_K:
            return _refuse(f"topk={request.topk}: must be 1 to {MAX_TOP_K}")
        loop = asyncio.get_running_loop()
        await asyncio.sleep(latency_s)
        result = await loop.run_in_executor(worker, search, request)
        body = msgspec.json.encode({"result": result})
        return web.Response(body=body, content_type="application/json")

    async def health(http: web.Request) -> web.Response:
        return web.json_response({"passages": len(passages), "top_k": top_k})

    app = web.Application(client_max_size=_MAX_BYTES)
    app.router.add_post(ROUTE, retrieve)
    app.router.add_get("/health", health)
    return app


def _document(passage: Passage, score: float, with_score: bool) -> dict[str, Any]:
    document = {"id": passage.id, "contents": passage.contents}
    return {"document": document, "score": score} if with_score else document


def _refuse(detail: str) -> web.Response:
    return web.json_response({"detail": detail}, status=422)


def make_retriever(
    name: str, passages: Sequence[Passage], encoder: str = ""
) -> Retriever:
    """Make a retriever over passages.

    Args:
        name: bm25 or dense.
        passages: what is searched.
        encoder: directory of the model for dense; empty: that of the package.
    """
    contents = [passage.contents for passage in passages]
    if name == "bm25":
        from reskill_jax.environments.search.bm25 import Bm25  # noqa: PLC0415

        return Bm25(contents)
    # The only ones that need JAX.
    from reskill_jax.environments.search.dense import Dense  # noqa: PLC0415
    from reskill_jax.environments.search.encoder import (  # noqa: PLC0415
        package_directory,
    )

    return Dense(contents, Path(encoder) if encoder else package_directory())


async def _serve(app: web.Application, arguments: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site: web.BaseSite
    if arguments.socket:
        site = web.UnixSite(runner, arguments.socket, backlog=_BACKLOG)
    else:
        site = web.TCPSite(runner, arguments.host, arguments.port, backlog=_BACKLOG)
    await site.start()
    address = f"unix:{arguments.socket}" if arguments.socket else _address(runner)
    print(json.dumps({"url": address}), flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        await stop.wait()
    finally:
        await runner.cleanup()


def _address(runner: web.AppRunner) -> str:
    host, port = runner.addresses[0][:2]
    return f"http://{host}:{port}"


def _end_with_parent() -> None:
    """End this process when its standard input is closed, i.e. its parent has ended."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Load passages, make the index, serve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--passages", required=True, help="JSON lines; or sample")
    parser.add_argument("--retriever", choices=LOCAL, default="bm25")
    parser.add_argument("--encoder", default="", help="directory, for dense")
    parser.add_argument("--top_k", type=int, default=3, help="passages per query")
    parser.add_argument(
        "--latency_s", type=float, default=0.0, help="seconds that answers wait"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: a free one")
    parser.add_argument("--socket", default="", help="a Unix socket instead of a port")
    parser.add_argument(
        "--with_parent", action="store_true", help="end when standard input is closed"
    )
    arguments = parser.parse_args()
    if not 1 <= arguments.top_k <= MAX_TOP_K:
        parser.error(f"top_k={arguments.top_k}: must be 1 to {MAX_TOP_K}")
    logging.basicConfig(format="retriever: %(message)s")
    log = logging.getLogger(__name__)
    log.setLevel(logging.INFO)
    if arguments.with_parent:
        _end_with_parent()
    os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator is the trainer's
    try:
        passages = read_passages(arguments.passages)
        log.info("indexing %d passages (%s)", len(passages), arguments.retriever)
        retriever = make_retriever(arguments.retriever, passages, arguments.encoder)
    except (ValueError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")
    app = make_app(
        retriever, passages, top_k=arguments.top_k, latency_s=arguments.latency_s
    )
    try:
        asyncio.run(_serve(app, arguments))
    except (OSError, OverflowError) as error:  # nothing can listen there
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
