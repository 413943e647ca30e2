"""EvolveR's memory: principles that the policy may ask for, with a score each.

The score of a principle is (successes + 1) / (uses + 2) (2510.16079).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

from reskill_jax.codec import decode, encode
from reskill_jax.environments.action_format import Action
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import Embedder, Lexical
from reskill_jax.memories.ranking import best
from reskill_jax.memories.retrieval import similarities
from reskill_jax.memories.settings import EvolverSettings
from reskill_jax.memories.texts import content_hash, item_id
from reskill_jax.rollout.context import Guide, Note, context_kind

TAG = "search_experience"
_HOW = (
    "You can ask for principles from earlier tasks: instead of an action, write what "
    f"you want to know as <{TAG}>..</{TAG}>."
)
_FOUND = "Principles from earlier tasks:"
_NOTHING = "No principle is known about this."
# What begins a line of an answer: a principle's own text may hold such an id, too.
_ID = re.compile(r"^\[([0-9a-f]{12})\] (?:do|avoid) \(", re.MULTILINE)


@dataclass(frozen=True)
class Principle:
    """One principle.

    Attributes:
        text: what it says.
        guiding: from a success; else cautionary, from a failure.
        tasks: ids of the tasks that it came from, the newest ones.
        used: episodes that were shown it.
        won: those of them that count as won.
        born: step that wrote it.
    """

    text: str
    guiding: bool
    tasks: tuple[str, ...] = ()
    used: int = 0
    won: int = 0
    born: int = 0

    @property
    def id(self) -> str:
        """Content hash."""
        return item_id(self.text, str(self.guiding))

    @property
    def score(self) -> float:
        """(successes + 1) / (uses + 2)."""
        return (self.won + 1) / (self.used + 2)


@dataclass
class _Asking:
    """The guide of one episode."""

    memory: "Principles"
    opening: str
    shows_skills: bool = False
    tags: tuple[str, ...] = (TAG,)

    def notes(
        self, observation: Observation, previous_action: str | None
    ) -> Sequence[Note]:
        """Return nothing: what is said stays in the trunk."""
        return ()

    async def answer(self, action: Action) -> str | None:
        """Answer a query; never an action of the environment."""
        return await self.memory.answer(action.text)


@context_kind("principles")
@dataclass(frozen=True)
class Principles:
    """Principles, oldest first: a snapshot, which queries do not change.

    Attributes:
        settings: of the method.
        items: the principles.
        embedder: compares queries and principles.
    """

    kind: ClassVar[str]
    settings: EvolverSettings
    items: tuple[Principle, ...] = ()
    embedder: Embedder = field(default_factory=Lexical, compare=False, repr=False)

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(self.to_json())

    async def find(self, query: str) -> list[Principle]:
        """Return the principles nearest to a query; there is no threshold."""
        texts = [item.text for item in self.items]
        scores = (await similarities(self.embedder, query, texts)).tolist()
        return [self.items[place] for place in best(scores, self.settings.shown)]

    async def answer(self, query: str) -> str:
        """Return what a query is answered; every principle whole or not at all."""
        lines: list[str] = []
        room = self.settings.characters - len(_FOUND)
        for item in await self.find(query):
            line = (
                f"[{item.id}] {'do' if item.guiding else 'avoid'} "
                f"({item.score:.2f}): {item.text}"
            )
            if len(line) + 1 > room:
                break
            lines.append(line)
            room -= len(line) + 1
        return "\n".join([_FOUND, *lines]) if lines else _NOTHING

    def shown_in(self, text: str) -> set[str]:
        """Return the ids of principles that an answer in a text holds."""
        known = {item.id for item in self.items}
        return known & set(_ID.findall(text))

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Say how to ask; with `ask="goal"`, answer the goal as well."""
        return _Asking(self, await self.opening(goal))

    async def opening(self, goal: str) -> str:
        """Return the opening of an episode."""
        if self.settings.ask == "goal" and self.items:
            return f"{_HOW}\n{await self.answer(goal)}"
        return _HOW

    def credited(
        self, uses: Mapping[str, int], wins: Mapping[str, int]
    ) -> "Principles":
        """Count the episodes that were shown each principle, by id."""
        items = (
            replace(
                item,
                used=item.used + uses.get(item.id, 0),
                won=item.won + wins.get(item.id, 0),
            )
            for item in self.items
        )
        return replace(self, items=tuple(items))

    async def matches(self, new: Principle) -> list[Principle]:
        """Return the nearest principles of the same type that may be the same."""
        same = [item for item in self.items if item.guiding == new.guiding]
        texts = [item.text for item in same]
        scores = (await similarities(self.embedder, new.text, texts)).tolist()
        near = best(scores, self.settings.matches, self.settings.merge)
        return [same[place] for place in near]

    def merged(self, new: Principle, into: Principle) -> "Principles":
        """Link a new principle to the one that says the same already."""
        tasks = tuple(dict.fromkeys((*into.tasks, *new.tasks)))[-3:]
        items = tuple(
            replace(item, tasks=tasks) if item.id == into.id else item
            for item in self.items
        )
        return replace(self, items=items)

    def plus(self, new: Principle) -> "Principles":
        """Add one; beyond the capacity the one of the lowest score goes."""
        for item in self.items:
            if item.id == new.id:
                return self.merged(new, item)
        items = [*self.items]
        if len(items) >= self.settings.capacity:
            worst = min(
                range(len(items)), key=lambda k: (items[k].score, items[k].born, k)
            )
            del items[worst]
        return replace(self, items=(*items, new))

    def pruned(self) -> "Principles":
        """Drop what scores too low."""
        least = self.settings.prune_below
        kept = tuple(item for item in self.items if item.score >= least)
        return replace(self, items=kept)

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.settings), encode(self.items)]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "Principles":
        """Make it again, with the same hash."""
        settings, items = document
        return cls(
            decode(EvolverSettings, settings),
            decode(tuple[Principle, ...], items),
            resources.get("embedder") or Lexical(),
        )
