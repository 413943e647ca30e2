"""The retriever of a run: a process of its own, with the protocol of Search-R1."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time

import aiohttp
import pytest
from programs import ROOT

from reskill_jax.environments.search import serve
from reskill_jax.environments.search.client import RetrieverClient
from reskill_jax.environments.search.files import read_passages
from reskill_jax.environments.search.server import RetrieverError, running


@pytest.fixture(scope="module")
def url():
    with running("bm25", "sample") as address:
        yield address


def post(url, *bodies, route="/retrieve"):
    """Return status and document of each request."""

    async def main():
        connector = aiohttp.UnixConnector(url.removeprefix("unix:"))
        async with aiohttp.ClientSession(connector=connector) as session:
            answers = []
            for body in bodies:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                async with session.post(f"http://r{route}", data=data) as answer:
                    answers.append((answer.status, await answer.text()))
            return answers

    return asyncio.run(main())


def test_it_finds_and_answers_in_both_forms(url):
    query = "which town is Ada Thornquist from"
    both = post(
        url,
        {"queries": [query, "river Ash"], "topk": 2, "return_scores": True},
        {"queries": [query], "topk": None},
    )
    assert [status for status, _ in both] == [200, 200]
    scored, plain = (json.loads(text)["result"] for _, text in both)
    assert [len(one) for one in scored] == [2, 2]
    first = scored[0][0]
    assert set(first) == {"document", "score"}
    assert first["document"]["contents"].startswith('"Ada Thornquist"\n')
    assert scored[0][0]["score"] > scored[0][1]["score"] > 0
    assert [len(one) for one in plain] == [3]
    assert plain[0][0] == first["document"]


def test_the_client_asks_it(url):
    found = asyncio.run(RetrieverClient(url).search("the Glass Orchard", 1))
    assert [one.contents.split("\n")[0] for one in found] == ['"The Glass Orchard"']


def test_queries_without_known_words_find_nothing(url):
    queries = ["", " ", "!!!", "the of and", "xyzzy", "\x00\x1b", "😀", "x" * 100_000]
    [(status, text)] = post(url, {"queries": queries})
    assert status == 200
    assert json.loads(text) == {"result": [[]] * len(queries)}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{", 422),
        (b"\xff", 422),
        (b"[" * 100_000, 422),
        ({}, 422),
        ({"queries": "text"}, 422),
        ({"queries": [1]}, 422),
        ({"queries": ["a"], "topk": 0}, 422),
        ({"queries": ["a"], "topk": 1000}, 422),
        ({"queries": ["a"], "topk": "3"}, 422),
        ({"queries": ["a"] * 1001}, 422),
        (b'{"queries": ["\\ud800"]}', 422),
        (b" " * 17_000_000, 413),
        ({"queries": []}, 200),
        ({"queries": ["a"], "unknown": 1}, 200),
    ],
)
def test_bad_requests_are_refused_and_never_an_error_of_the_server(url, body, status):
    [(given, _), (after, _)] = post(url, body, {"queries": ["river"]})
    assert (given, after) == (status, 200)


def test_other_routes_are_not_there(url):
    assert [status for status, _ in post(url, {}, route="/")] == [404]


def test_answers_do_not_depend_on_what_else_is_asked(url):
    queries = [p.title for p in read_passages("sample")]
    client = RetrieverClient(url)

    async def main(order):
        found = await asyncio.gather(*[client.search(queries[i], 3) for i in order])
        return dict(zip(order, found, strict=True))

    order = list(range(len(queries)))
    first = asyncio.run(main(order))
    random.Random(0).shuffle(order)
    assert asyncio.run(main(order)) == first


def test_a_retriever_that_cannot_start_says_why(tmp_path, capfd):
    with (
        pytest.raises(RetrieverError, match="retriever='bm25' did not start, status 1"),
        running("bm25", str(tmp_path / "none.jsonl")),
    ):
        pass
    assert "error: passages='" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--port={taken}", "error: .*address already in use"),
        ("--port=70000", "error: .*port must be 0-65535"),
        ("--socket=/none/at/all", "error: .*No such file or directory"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error_in_a_line(monkeypatch, flag, said):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    with socket.create_server(("127.0.0.1", 0)) as other:
        flag = flag.format(taken=other.getsockname()[1])
        monkeypatch.setattr(sys, "argv", ["serve", "--passages=sample", flag])
        with pytest.raises(SystemExit, match=said):
            serve.main()


def test_no_passages_per_query_are_refused(monkeypatch, capsys):
    flags = ["--passages=sample", "--top_k=0", "--port=70000"]  # it never listens
    monkeypatch.setattr(sys, "argv", ["serve", *flags])
    with pytest.raises(SystemExit):
        serve.main()
    assert "top_k=0: must be 1 to 100" in capsys.readouterr().err


PARENT = """
import time
from reskill_jax.environments.search.server import running
with running("bm25", "sample") as url:
    print(url, flush=True)
    time.sleep(600)
"""


def alive(path):
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(path)
        except OSError:
            return False
    return True


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_its_parent(number):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    path = parent.stdout.readline().strip().removeprefix("unix:")
    assert alive(path)
    os.kill(parent.pid, number)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while alive(path):
        assert time.monotonic() < deadline
        time.sleep(0.05)


BY_HAND = """
import sys
from reskill_jax.environments.search import serve
sys.argv[1:] = ["--passages=sample", "--port=0", "--with_parent"]
serve.main()
print("jax" in sys.modules)
"""


def test_by_hand_it_serves_a_port_and_for_words_it_needs_no_jax():
    with subprocess.Popen(
        [sys.executable, "-c", BY_HAND],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        url = json.loads(server.stdout.readline())["url"]
        assert url.startswith("http://127.0.0.1:")
        found = asyncio.run(RetrieverClient(url).search("Lanmoor", 3))
        assert '"Lanmoor"' in [one.contents.split("\n")[0] for one in found]
        server.send_signal(signal.SIGTERM)
        assert server.stdout.read() == "False\n"
        assert server.wait() == 0
