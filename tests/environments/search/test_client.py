"""The client against servers that are slow, dead or lie."""

import asyncio
import contextlib
import gc
import json
import time

import pytest

from reskill_jax.environments.search.client import Found, RetrieverClient
from reskill_jax.llm.retry import CallError

GOOD = {"result": [[{"document": {"id": "7", "contents": "text"}, "score": 1.5}]]}
FOUND = [Found("7", "text")]


def reply(body, status=200, head=""):
    """Return the bytes of a response."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    start = f"HTTP/1.1 {status} x\r\nContent-Length: {len(content)}\r\n{head}\r\n"
    return start.encode() + content


class Server:
    """Answers each request with the next of some bytes; the last one repeats.

    None is no answer at all; b"" closes the connection.
    """

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []
        self.connections = 0

    async def handle(self, reader, writer):
        self.connections += 1
        with (
            contextlib.closing(writer),
            contextlib.suppress(asyncio.IncompleteReadError, ConnectionError),
        ):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.split("content-length: ")[1].split("\r")[0])
                self.requests.append(json.loads(await reader.readexactly(length)))
                place = min(len(self.requests), len(self.answers)) - 1
                if self.answers[place] is None:
                    await asyncio.sleep(3600)
                writer.write(self.answers[place])
                await writer.drain()
                if not self.answers[place]:
                    break


def ask(server, *, times=1, together=1, attempts=3, timeout_s=20.0, top_k=3):
    """Search, `times` after each other in each of `together` tasks."""

    async def main():
        listening = await asyncio.start_server(
            server.handle, "127.0.0.1", 0, backlog=500
        )
        port = listening.sockets[0].getsockname()[1]
        client = RetrieverClient(
            f"http://127.0.0.1:{port}",
            timeout_s=timeout_s,
            attempts=attempts,
            first_pause_s=0.01,
        )

        async def one():
            return [await client.search("query", top_k) for _ in range(times)][-1]

        try:
            return (await asyncio.gather(*[one() for _ in range(together)]))[-1]
        finally:
            listening.close()

    return asyncio.run(main())


def test_a_search_sends_one_query_and_reads_contents():
    server = Server(reply(GOOD))
    assert ask(server, top_k=5) == FOUND
    assert server.requests == [{"queries": ["query"], "topk": 5, "return_scores": True}]


def test_documents_without_scores_are_read_too_and_no_more_than_asked_for():
    items = [{"id": i, "contents": str(i)} for i in range(9)]
    server = Server(reply({"result": [items]}))
    assert ask(server, top_k=2) == [Found("", "0"), Found("", "1")]


@pytest.mark.filterwarnings("error")  # of connections that are left open, too
def test_many_searches_share_connections_that_end_with_their_loop():
    server = Server(reply(GOOD))
    assert ask(server, times=3, together=50) == FOUND
    gc.collect()
    assert len(server.requests) == 150
    assert server.connections == 50


PASSING = {
    "status 500": reply({"detail": "?"}, 500),
    "status 503": reply(b"<html>busy</html>", 503),
    "status 429": reply(b"", 429),
    "not JSON": reply(b"<html>"),
    "half of JSON": reply(b'{"result": [['),
    "not text": reply(b"\xff\xfe\x00"),
    "deep JSON": reply(b"[" * 200_000),
    "no result": reply({"results": [[]]}),
    "a result of two queries": reply({"result": [[], []]}),
    "a result of no query": reply({"result": []}),
    "a result that is no list": reply({"result": ["text"]}),
    "a number for a document": reply({"result": [[1]]}),
    "contents that are no text": reply({"result": [[{"document": {"contents": 1}}]]}),
    "contents of nothing": reply({"result": [[{"document": {"id": "7"}}]]}),
    "null": reply(b"null"),
    "a closed connection": b"",
    "no HTTP": b"hello\r\n\r\n",
    "less than it says": b"HTTP/1.1 200 x\r\nContent-Length: 999\r\n\r\n{",
    "ten megabytes": reply(b"[" + b"1," * 5_000_000 + b"1]"),
}


@pytest.mark.parametrize("bad", PASSING.values(), ids=PASSING)
def test_what_may_pass_is_repeated(bad):
    server = Server(bad, reply(GOOD))
    # What says less than it has never ends; the limit is what ends it.
    assert ask(server, timeout_s=2.0) == FOUND
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("bad", "failure"),
    [
        ("status 500", "server: status 500: "),
        ("status 429", "rate_limit: status 429"),
        ("not JSON", "bad_response: not JSON: b'<html>'"),
        (
            "a result of two queries",
            "bad_response: one query was asked, and there is not",
        ),
        ("contents that are no text", "bad_response: a document without contents: {"),
        ("a closed connection", "unreachable: ServerDisconnectedError"),
        ("ten megabytes", "bad_response: an answer above 8000000 bytes"),
    ],
)
def test_what_does_not_pass_is_a_failure_with_a_name(bad, failure):
    server = Server(PASSING[bad])
    with pytest.raises(CallError) as caught:
        ask(server)
    assert str(caught.value).startswith(failure)
    assert len(server.requests) == 3
    [note] = caught.value.__notes__
    assert "was asked 3 times for 'query': is it up" in note


@pytest.mark.parametrize("status", [301, 400, 404, 422])
def test_a_refusal_is_not_repeated(status):
    head = "Location: http://127.0.0.1:1/\r\n" if status == 301 else ""
    server = Server(reply({"detail": "no"}, status, head))
    with pytest.raises(CallError, match=f"refused: status {status}: "):
        ask(server)
    assert len(server.requests) == 1


def test_a_silent_server_is_given_up_in_time():
    server = Server(None)
    started = time.monotonic()
    with pytest.raises(CallError, match=r"timeout: no answer in timeout_s=0\.2"):
        ask(server, timeout_s=0.2, attempts=2)
    assert time.monotonic() - started < 60  # not an hour
    assert len(server.requests) == 2


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "unix:/nowhere", "http://"])
def test_a_dead_server_is_unreachable(url):
    client = RetrieverClient(url, attempts=2, first_pause_s=0.01)
    with pytest.raises(CallError, match="unreachable: "):
        asyncio.run(client.search("query", 3))


def test_the_route_may_be_part_of_the_address():
    for url in ("http://h:1", "http://h:1/", "http://h:1/retrieve"):
        assert RetrieverClient(url)._address == "http://h:1/retrieve"
