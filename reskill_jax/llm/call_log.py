"""Every call of a run, in one file: prompt, answer, usage, latency; never a key.

People read it to see prompts and answers; `replay` and a resumed run take answers from
it: a call is found again by its cycle, its text and its turn among equal ones.
"""

import hashlib
import json
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reskill_jax.codec import decode
from reskill_jax.llm.backends import ChatRequest, ChatResponse
from reskill_jax.scrub import scrub

_MOST = 2**53  # of what one call can take


@dataclass(frozen=True)
class Recorded:
    """An answer from a log, and the seconds that it took."""

    response: ChatResponse
    seconds: float


@dataclass(frozen=True)
class _Answered:
    """What is read of a line."""

    key: str
    response: str
    tokens_in: int
    tokens_out: int
    seconds: float
    cut: bool = False
    blocked: str = ""

    def __post_init__(self) -> None:
        """Refuse what budgets could not count."""
        counts = self.tokens_in, self.tokens_out, self.seconds
        if not all(0 <= count <= _MOST for count in counts):
            raise ValueError(f"tokens and seconds {counts}: not counts")


class CallLog:
    """Appends calls to a file and finds earlier ones.

    Args:
        path: JSON lines; made with the first call.
        earlier: another run's log to find calls in; by default the same file.
    """

    def __init__(self, path: Path, earlier: Path | None = None):
        self._path = path
        self._lock = threading.Lock()
        self._earlier = earlier or path
        self._answers: dict[str, list[Recorded]] | None = None
        self._found: Counter[str] = Counter()

    def find(self, cycle: int, request: ChatRequest) -> Recorded | None:
        """Return the recorded answer to the same request in the same cycle.

        Where it was asked several times, whose answers may differ, they are returned
        in their order, each once.
        """
        key = _key(cycle, request)
        with self._lock:
            if self._answers is None:
                self._answers = defaultdict(list)
                for of, answer in _read(self._earlier):
                    self._answers[of].append(answer)
            found = self._answers.get(key, [])[self._found[key] :][:1]
            self._found[key] += 1
            return found[0] if found else None

    def add(
        self,
        cycle: int,
        request: ChatRequest,
        outcome: ChatResponse | str,
        *,
        seconds: float,
        model: str,
        recorded: bool = False,
    ) -> None:
        """Append one call; `outcome` is the answer, or the error.

        Raises:
            OSError: the disk is full or not writable.
        """
        line: dict[str, Any] = {
            "cycle": cycle,
            "stage": request.name,
            "key": _key(cycle, request),
            "model": model,
            "seconds": round(seconds, 3),
            "recorded": recorded,
            "system": request.system,
            "prompt": request.prompt,
        }
        if isinstance(outcome, ChatResponse):
            line |= {
                "response": outcome.text,
                "tokens_in": outcome.tokens_in,
                "tokens_out": outcome.tokens_out,
                "cut": outcome.cut,
                "blocked": outcome.blocked,
            }
        else:
            line |= {"error": outcome}
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as file:
                # A killed process may have left a part of a line.
                torn = file.tell() > 0 and not _ends_with_newline(self._path)
                text = ("\n" if torn else "") + json.dumps(line) + "\n"
                file.write(text.encode())


def redact(text: str, *secrets: str) -> str:
    """Replace keys by ``***``: the given ones, and all that look like one."""
    return scrub(text, secrets)


def _key(cycle: int, request: ChatRequest) -> str:
    words = json.dumps([cycle, request.name, request.system, request.prompt])
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _read(path: Path) -> Iterator[tuple[str, Recorded]]:
    """Yield the answers of a log by key; a killed process may have left torn lines."""
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = decode(_Answered, json.loads(text), fields="any")
            except (ValueError, RecursionError):  # no JSON, or a call without an answer
                continue
            counts = line.tokens_in, line.tokens_out
            response = ChatResponse(line.response, *counts, line.cut, line.blocked)
            yield line.key, Recorded(response, line.seconds)
