"""Asks a retriever that speaks the protocol of Search-R1; trusts nothing that it says.

    POST /retrieve {"queries": [text], "topk": 3, "return_scores": true}
    -> {"result": [[{"document": {"id": "7", "contents": text}, "score": 1.0}, ..]]}

where the contents of a document are its title in quotes, a new line and its text.
A failed request is repeated with growing pauses where the next one may go better, then
the search fails with a name for what happened.
"""

import asyncio
import itertools
import json
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from reskill_jax.llm.retry import PASSING, CallError, Failure

ROUTE = "/retrieve"
_MAX_BYTES = 8_000_000  # of an answer; three passages have a few thousand
_MAX_SHOWN = 200  # characters of an answer that a message quotes
_RATE_LIMIT = 429
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0


@dataclass(frozen=True)
class Found:
    """One passage that a search returned.

    Attributes:
        id: of the server; "" where it gives none.
        contents: usually the title in quotes, a new line, the text.
    """

    id: str
    contents: str


@dataclass
class RetrieverClient:
    """A retriever, for many searches at once, of any number of event loops.

    Attributes:
        url: http://host:port, with or without the route; or unix:/path of a socket.
        timeout_s: seconds for one request.
        attempts: for one search.
        first_pause_s: seconds before the second attempt, doubled before each further.
    """

    url: str
    timeout_s: float = 20.0
    attempts: int = 4
    first_pause_s: float = _FIRST_PAUSE_S
    _sessions: dict[asyncio.AbstractEventLoop, "_Session"] = field(
        default_factory=dict, repr=False
    )

    async def search(self, query: str, top_k: int) -> list[Found]:
        """Return at most `top_k` passages, the best first.

        Raises:
            CallError: no attempt got a usable answer; its `failure` says why.
        """
        # Not tenacity: its bookkeeping of a search that succeeds at once is a tenth of
        # what an episode costs the trainer.
        for attempt in itertools.count(1):
            try:
                return await self._search(query, top_k)
            except CallError as error:
                if error.failure not in PASSING or attempt >= self.attempts:
                    error.add_note(
                        f"The retriever {self.url} was asked {attempt} times for "
                        f"{query!r:.100}: is it up, and does it speak the protocol of "
                        "Search-R1?"
                    )
                    raise
            pause = min(self.first_pause_s * 2 ** (attempt - 1), _LONGEST_PAUSE_S)
            await asyncio.sleep(pause + random.uniform(0, self.first_pause_s / 2))
        raise AssertionError

    async def _search(self, query: str, top_k: int) -> list[Found]:
        """Try once."""
        body = {"queries": [query], "topk": top_k, "return_scores": True}
        try:
            async with asyncio.timeout(self.timeout_s):
                status, answer = await self._post(body)
        except TimeoutError as error:
            raise CallError(
                Failure.TIMEOUT, f"no answer in timeout_s={self.timeout_s:g}"
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise CallError(
                Failure.UNREACHABLE, f"{type(error).__name__}: {error}"
            ) from error
        if status != 200:
            failure = (
                Failure.RATE_LIMIT
                if status == _RATE_LIMIT
                else Failure.SERVER
                if status >= 500
                else Failure.REFUSED
            )
            shown = answer[:_MAX_SHOWN].decode(errors="replace")
            raise CallError(failure, f"status {status}: {shown}")
        try:
            return parse(answer)[:top_k]
        except (ValueError, RecursionError) as error:
            raise CallError(Failure.BAD_RESPONSE, str(error)) from error

    async def _post(self, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return status and content, of which no more is read than may be there."""
        session = await self._session()
        post = session.post(self._address, json=body, allow_redirects=False)
        async with post as response:
            content = bytearray()
            async for part in response.content.iter_any():
                content += part
                if len(content) > _MAX_BYTES:
                    response.close()
                    raise CallError(
                        Failure.BAD_RESPONSE, f"an answer above {_MAX_BYTES} bytes"
                    )
            return response.status, bytes(content)

    @property
    def _address(self) -> str:
        if self.url.startswith("unix:"):
            return f"http://retriever{ROUTE}"
        return self.url.rstrip("/").removesuffix(ROUTE) + ROUTE

    async def _session(self) -> aiohttp.ClientSession:
        """Return the connections of the running loop, which ends them with itself.

        A loop that ends finishes the asynchronous generators that it has begun, so
        that connections are closed where they were opened.
        """
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            opened = self._open(loop)
            self._sessions[loop] = _Session(opened, await anext(opened))
        return self._sessions[loop].session

    async def _open(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[aiohttp.ClientSession, None]:
        socket = self.url.startswith("unix:")
        connector = (
            aiohttp.UnixConnector(self.url.removeprefix("unix:"), limit=0)
            if socket
            else aiohttp.TCPConnector(limit=0)
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept-Encoding": "identity"},
                auto_decompress=False,  # a small answer may unpack to a huge one
                # Our own limit is around everything.
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
            ) as session:
                yield session
        finally:
            del self._sessions[loop]


@dataclass(frozen=True)
class _Session:
    """Connections, and the generator that closes them."""

    opened: AsyncGenerator[aiohttp.ClientSession, None]
    session: aiohttp.ClientSession


def parse(answer: bytes) -> list[Found]:
    """Read the answer to one query.

    Raises:
        ValueError: it is not what the protocol says; the message tells what is wrong.
    """
    try:
        document = json.loads(answer)
    except ValueError as error:
        raise ValueError(f"not JSON: {answer[:_MAX_SHOWN]!r}") from error
    result = document.get("result") if isinstance(document, dict) else None
    if not isinstance(result, list) or len(result) != 1:
        raise ValueError("one query was asked, and there is not one result")
    if not isinstance(result[0], list):
        raise ValueError("the result of the query is not a list")
    return [_found(item) for item in result[0]]


def _found(item: Any) -> Found:
    inner = item.get("document", item) if isinstance(item, dict) else None
    contents = inner.get("contents") if isinstance(inner, dict) else None
    if not isinstance(contents, str):
        raise ValueError(f"a document without contents: {item!r:.{_MAX_SHOWN}}")
    name = inner.get("id", "")  # type: ignore[union-attr]  # it is a dict
    return Found(name if isinstance(name, str) else "", contents)
