"""One question at a time: search as often as you like, then answer once."""

import re
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.search.client import Found
from reskill_jax.environments.search.panels import Source
from reskill_jax.environments.search.scoring import exact_match, f1
from reskill_jax.environments.search.wordings import REQUEST, TAGS
from reskill_jax.environments.task import Task
from reskill_jax.environments.untrusted import one_line, tagged_problem

Search = Callable[[str], Awaitable[Sequence[Found]]]

MAX_CHARACTERS = 500  # of a query or an answer; questions have 50
_ACTION = re.compile(rf"({'|'.join(TAGS)})\[(.*)\]", re.DOTALL)
_NOTHING_YET = "No results yet."
_NOTHING = "Nothing was found. Search for other words."


class SearchEnvironment:
    """Plays one question at a time; its methods are coroutines.

    Args:
        search: returns the passages for a query.
        passage_characters: longer ones are cut.
    """

    def __init__(self, search: Search, *, passage_characters: int = 1200):
        self._search = search
        self._passage_characters = passage_characters
        self._asked = Source("", ())
        self._searches = 0

    async def reset(self, task: Task) -> tuple[str, Observation]:
        """Ask the question of a task."""
        self._asked = msgspec.json.decode(task.source, type=Source)
        self._searches = 0
        return self._asked.question, Observation(_NOTHING_YET)

    async def step(self, action: str) -> Observation:
        """Search, or take the answer, which ends the episode."""
        read = _ACTION.fullmatch(action)
        text = read[2].strip() if read else ""
        problem = (
            tagged_problem(text, MAX_CHARACTERS) if read else f"Reply with {REQUEST}."
        )
        if read is None or problem:
            return Observation(f"Invalid. {problem}", understood=False)
        if read[1] == "answer":
            return self._answered(text)
        self._searches += 1
        return Observation(self._render(await self._search(text)))

    async def finish(self) -> Observation:
        """Score an episode without an answer: nothing."""
        return Observation("", done=True, scores=self._scores(answered=False, f1=0.0))

    def close(self) -> None:
        """Free nothing: connections belong to the client."""

    def _answered(self, text: str) -> Observation:
        right = exact_match(text, self._asked.answers)
        return Observation(
            "Answered.",
            reward=float(right),
            done=True,
            success=right,
            scores=self._scores(answered=True, f1=f1(text, self._asked.answers)),
        )

    def _scores(self, *, answered: bool, f1: float) -> dict[str, float]:
        return {
            "f1": f1,
            "answered": float(answered),
            "searches": float(self._searches),
        }

    def _render(self, passages: Sequence[Found]) -> str:
        lines = [
            f"({number}) {clean(passage.contents, self._passage_characters)}"
            for number, passage in enumerate(passages, 1)
        ]
        return "\n".join(lines) or _NOTHING


def clean(contents: str, limit: int) -> str:
    """Write a passage as one line: title, colon, text.

    It is untrusted: without line breaks and tags it can play neither the prompt nor
    the agent.

    Args:
        contents: in Search-R1's form, a title in quotes, a new line and the text; or
            any other text.
        limit: most characters; a longer one ends with dots, where a word ends.
    """
    title, _, text = contents[: 4 * limit].partition("\n")
    if not text:
        title, text = "", title
    whole = f"{title.strip().strip(chr(34))}: {text}" if title.strip() else text
    return one_line(whole, limit, TAGS)
