"""A world of free text that asks back and pays at an end only. Importable by workers.

write WORDS     fills a page, letter by letter
erase           asks which page; the answer is its number
send            ends the episode
"""

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task

HINT = "You can: write WORDS, erase, send."


class Notebook:
    """Wants the words of its task, in the end; pays for each one that is there."""

    def __init__(self, hint: str = ""):
        self._hint = hint

    def reset(self, task: Task) -> tuple[str, Observation]:
        self._wanted = task.source.split()
        self._pages: list[str] = []
        self._asks = self._ended = False
        return f"note: {task.source}", self._see("empty")

    def step(self, action: str) -> Observation:
        if self._ended:
            raise RuntimeError("the notebook was sent")
        if self._asks and action.isdigit() and int(action) < len(self._pages):
            self._asks = False
            return self._see(f"erased {self._pages.pop(int(action))}")
        self._asks = action == "erase" and len(self._pages) > 0
        if self._asks:
            pages = tuple(map(str, range(len(self._pages))))
            return Observation("which page?", pages, question=True)
        if action.startswith("write "):
            self._pages.append(action.removeprefix("write "))
            return self._see(f"wrote {self._pages[-1]}")
        if action == "send":
            return self._score("sent")
        return Observation("?", hint=self._hint, understood=False)

    def finish(self) -> Observation:
        if self._ended:
            raise RuntimeError("the notebook was scored twice")
        return self._score("nobody sees this")

    def close(self) -> None:
        pass

    def _see(self, text: str) -> Observation:
        return Observation(text, hint=self._hint)

    def _score(self, text: str) -> Observation:
        self._ended = True
        share = sum(w in self._pages for w in self._wanted) / len(self._wanted)
        return Observation(
            text,
            reward=share,
            done=True,
            success=share == 1,
            scores={"share": share, "pages": float(len(self._pages))},
        )


def task(words: str) -> Task:
    return Task(f"train/{words}", "note", "train", words)
