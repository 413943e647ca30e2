"""Embedders: vectors that repeat, shared answers, and nobody waits for others."""

import asyncio
import json
import socketserver
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.benchmarks.llm_server import LlmServer, reply
from reskill_jax.llm.embedders import Lexical, Threaded, embed_now, lexical
from reskill_jax.llm.embedding_service import EmbeddingService, Service, parse
from reskill_jax.llm.retry import CallError, Failure


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5))
def test_lexical_rows_have_length_one_and_do_not_depend_on_the_batch(texts):
    rows = lexical(texts)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    for row, text in zip(rows, texts, strict=True):
        np.testing.assert_array_equal(row, lexical([text])[0])


def test_lexical_is_the_same_in_other_processes():
    text = "Put a hot egg on the table."
    code = (
        "from reskill_jax.llm.embedders import lexical; import hashlib;"
        f"print(hashlib.sha256(lexical([{text!r}]).tobytes()).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1]


def test_words_count_by_the_root_of_their_number_and_small_words_do_not():
    egg, twice, other = lexical(["the egg", "egg and egg pan", "the lamp"])
    assert float(egg @ twice) == pytest.approx(np.sqrt(2) / np.sqrt(3), abs=1e-5)
    assert abs(float(egg @ other)) < 1e-6


def test_a_text_is_computed_once_for_all_who_ask_at_a_time():
    asked, go = [], threading.Event()

    def compute(texts):
        asked.append(list(texts))
        assert go.wait(30)
        return lexical(texts)

    async def ask():
        embedder = Threaded("counting", lambda: compute)
        both = [asyncio.create_task(embedder.embed(["a b", "c"])) for _ in range(8)]
        await asyncio.sleep(0)
        go.set()
        first, *others = await asyncio.gather(*both)
        again = await embedder.embed(["c", "a b"])
        for other in (*others, again[::-1]):
            np.testing.assert_array_equal(first, other)

    asyncio.run(ask())
    assert asked == [["a b", "c"]]


def test_a_slow_answer_stops_nobody_else():
    slow = threading.Event()

    def compute(texts):
        if "slow" in texts:
            assert slow.wait(30)
        return lexical(texts)

    async def play():
        embedder = Threaded("slow", lambda: compute)
        waiting = asyncio.create_task(embedder.embed(["slow"]))
        for number in range(40):  # more than there are threads
            await embedder.embed([f"fast {number}"])
        assert not waiting.done()
        slow.set()
        await waiting

    asyncio.run(play())


def test_a_failure_is_not_remembered():
    tries = []

    def compute(texts):
        tries.append(texts)
        if len(tries) == 1:
            raise CallError(Failure.TIMEOUT, "late")
        return 3 * lexical(texts)

    embedder = Threaded("once", lambda: compute)
    with pytest.raises(CallError, match="timeout: late"):
        embed_now(embedder, ["a"])
    np.testing.assert_allclose(embed_now(embedder, ["a"]), lexical(["a"]), atol=1e-6)
    assert embed_now(embedder, []).shape[0] == 0
    assert embed_now(Lexical(), ["a"]).shape == (1, 1024)


@pytest.mark.parametrize(
    "rows", [np.zeros((1, 3)), np.full((1, 3), np.nan), [[1.0]] * 2]
)
def test_what_is_no_vector_is_refused(rows):
    embedder = Threaded("wrong", lambda: lambda texts: np.asarray(rows, np.float32))
    with pytest.raises(ValueError, match="vectors"):
        embed_now(embedder, ["a"])


def test_a_service_that_changes_the_length_of_its_vectors_is_named():
    """Another model behind the same name; what is known already stays usable."""
    lengths = iter([3, 4, 3])
    embedder = Threaded("liar", lambda: lambda texts: np.ones((1, next(lengths))))
    embed_now(embedder, ["a"])
    with pytest.raises(CallError, match="of 4 numbers, those before had 3") as caught:
        embed_now(embedder, ["a", "b"])
    assert caught.value.failure is Failure.BAD_RESPONSE  # an episode's, not the run's
    assert embed_now(embedder, ["b", "a"]).shape == (2, 3)


class Embeddings:
    """A server's side: fails as often as it is told, then answers in reverse order."""

    def __init__(self, failures: int = 0, status: int = 503, answer=None):
        self.failures, self.status, self.answer = failures, status, answer
        self.calls = 0
        self.requests: list[dict] = []

    def __call__(self, handler) -> bool:
        self.calls += 1
        if self.calls <= self.failures:
            reply(handler, b'{"error": {"message": "busy"}}', status=self.status)
            return True
        data = [
            {"index": i, "embedding": [float(len(text)), 1.0]}
            for i, text in enumerate(self.requests[-1]["input"])
        ]
        answer = self.answer or {"data": data[::-1], "usage": {"prompt_tokens": 5}}
        reply(handler, json.dumps(answer).encode())
        return True


def service(url: str, **changes) -> EmbeddingService:
    """Ask a server without pauses."""
    options = {"api_key_variable": "PATH", "timeout_s": 30.0, **changes}
    return EmbeddingService(Service("a-model", url, **options), sleep=lambda s: None)


def ask(fault, texts=("ab", "c"), **changes):
    """Ask a scripted server; return the vectors and who asked."""
    pytest.importorskip("openai", reason="needs the extra llm")
    with LlmServer(lambda stage, prompt: "", fault=fault) as server:
        fault.requests = server.requests
        asking = service(server.url, **changes)
        return asking(texts), asking


def test_a_service_is_asked_again_and_its_order_does_not_matter():
    fault = Embeddings(failures=2)
    vectors, asking = ask(fault)
    np.testing.assert_array_equal(vectors, [[2, 1], [1, 1]])
    assert fault.calls == 3
    assert asking.spending.run["calls"] == 3
    assert asking.spending.run["tokens"] == 5


def test_many_texts_go_in_several_calls():
    texts = ["x" * (1 + n % 5) for n in range(130)]
    fault = Embeddings()
    vectors, _ = ask(fault, texts)
    np.testing.assert_array_equal(vectors[:, 0], [len(text) for text in texts])
    assert fault.calls == 3


def test_a_budget_ends_calls():
    with pytest.raises(CallError, match="budget: max_calls=1 is spent"):
        ask(Embeddings(), ["x"] * 65, max_calls=1)


def test_a_refusal_is_final_and_shows_no_key(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "sk-very-secret")
    fault = Embeddings(failures=9, status=401)
    with pytest.raises(CallError) as caught:
        ask(fault, api_key_variable="SOME_KEY")
    assert caught.value.failure is Failure.REFUSED
    assert fault.calls == 1
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize(
    "head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_a_service_that_hangs_is_given_up(head):
    """Before it says anything, or in the middle of its answer."""
    asked = []

    class Hanging(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.request.recv(65536))
            self.request.sendall(head)
            done.wait(60)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    pytest.importorskip("openai", reason="needs the extra llm")
    done = threading.Event()
    with Server(("127.0.0.1", 0), Hanging) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        try:
            with pytest.raises(CallError) as caught:
                service(url, timeout_s=0.2, max_attempts=2)(["a"])
        finally:
            done.set()
            server.shutdown()
    assert caught.value.failure is Failure.TIMEOUT
    assert len(asked) == 2


VECTOR = {"index": 0, "embedding": [1.0]}


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        [VECTOR, VECTOR | {"index": 2}],
        [VECTOR, VECTOR | {"embedding": [2.0]}],
        [VECTOR | {"embedding": ["1"]}],
        [VECTOR | {"embedding": []}],
        [VECTOR | {"embedding": [0.0]}],
        [VECTOR | {"embedding": [float("inf")]}],
        [VECTOR | {"embedding": [10**400]}],
        [VECTOR | {"index": True}],
        [7],
    ],
)
def test_answers_are_not_trusted(data):
    with pytest.raises(ValueError, match=r"embedding|entry|data"):
        parse({"data": data}, 1)
