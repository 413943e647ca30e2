"""MemRL's memory: experiences under keys, with a utility each.

A key is a text; an experience lies under one. Retrieval has two phases: the nearest
keys give candidates, then similarity and utility choose among all of them
(2601.03192, as its released code computes it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import Embedder, Lexical
from reskill_jax.memories.ranking import best
from reskill_jax.memories.retrieval import similarities
from reskill_jax.memories.settings import MemrlSettings
from reskill_jax.memories.texts import content_hash, item_id
from reskill_jax.rollout.context import Guide, StaticGuide, context_kind

WON = "What worked in similar tasks:"
LOST = "What failed in similar tasks:"


@dataclass(frozen=True)
class Experience:
    """One memory.

    Attributes:
        key: text that it is found by.
        text: script of a success, or lesson of a failure.
        success: which of both.
        trajectory: the episode, for those who show it.
        q: utility, -1 to 1.
        visits: updates of it.
        born: step that wrote it.
    """

    key: str
    text: str
    success: bool
    trajectory: str = ""
    q: float = 0.0
    visits: int = 0
    born: int = 0

    @property
    def id(self) -> str:
        """Content hash: what is shown to an episode is found again by it."""
        return item_id(self.key, self.text, str(self.success))


def standardised(values: Sequence[float], clip: float) -> list[float]:
    """Return z = (x - mean) / sd over the values, within +-clip; 0 where all agree."""
    array = np.asarray(values, float)
    sd = array.std() if len(values) else 0.0
    if sd < 1e-9:
        return [0.0] * len(values)
    return np.clip((array - array.mean()) / sd, -clip, clip).tolist()


def choose(
    similarity: Sequence[float], q: Sequence[float], settings: MemrlSettings
) -> list[int]:
    """Choose among candidates (phase two).

    score = (1 - weight) (sim - sim_mean) / sim_sd + weight z(q)

    Similarities are standardised with constants, without a bound; utilities over the
    candidates.

    Returns:
        Places of the candidates, best first.
    """
    z = standardised(q, settings.z_clip)
    scores = [
        (1 - settings.weight) * (s - settings.sim_mean) / settings.sim_sd
        + settings.weight * u
        for s, u in zip(similarity, z, strict=True)
    ]
    return best(scores, settings.shown)


@context_kind("memrl")
@dataclass(frozen=True)
class UtilityMemory:
    """Experiences, oldest first.

    Attributes:
        settings: of the method.
        items: the experiences.
        embedder: compares keys.
    """

    kind: ClassVar[str]
    settings: MemrlSettings
    items: tuple[Experience, ...] = ()
    embedder: Embedder = field(default_factory=Lexical, compare=False, repr=False)
    # What was retrieved, by key: the rollouts of a group all ask the same.
    _found: dict[str, list[Experience]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(self.to_json())

    def key(self, goal: str, observation: str) -> str:
        """Return the text that a task is looked up by."""
        if self.settings.keyed_by == "goal_and_room":
            return f"{observation}\n{goal}"
        return goal

    async def nearest(self, key: str) -> dict[str, float]:
        """Return the nearest keys and their similarity (phase one), nearest first."""
        keys = list(dict.fromkeys(item.key for item in self.items))
        scores = (await similarities(self.embedder, key, keys)).tolist()
        near = best(scores, self.settings.keys, self.settings.threshold)
        return {keys[place]: scores[place] for place in near}

    async def retrieve(self, key: str) -> list[Experience]:
        """Return what is shown for a key: both phases."""
        if key in self._found:
            return self._found[key]
        near = await self.nearest(key)
        candidates = [
            item
            for item in self.items
            if item.key in near and item.q >= self.settings.q_min
        ]
        similarity = [near[item.key] for item in candidates]
        chosen = choose(similarity, [item.q for item in candidates], self.settings)
        self._found[key] = [candidates[place] for place in chosen]
        return self._found[key]

    def rewarded(self, returns: Mapping[str, Sequence[float]]) -> "UtilityMemory":
        """Move utilities towards returns: q <- q + rate (r - q).

        Args:
            returns: by id, one return in [-1, 1] per group that was shown the
                experience: the mean of the group, so that a group counts once.
        """
        items = []
        for item in self.items:
            q = item.q
            for r in returns.get(item.id, ()):
                q += self.settings.rate * (r - q)
            visits = item.visits + len(returns.get(item.id, ()))
            items.append(replace(item, q=q, visits=visits))
        return replace(self, items=tuple(items))

    async def plus(self, item: Experience) -> "UtilityMemory":
        """Add an experience, beside all that lie under the same key.

        It is put under the nearest key, if that is near enough, else under its own. One
        with the same words under the same key is not added. Beyond the capacity the
        one of the least utility goes, of equal ones the oldest, never the new one.
        """
        near = await self.nearest(item.key)
        if near:
            key, similarity = next(iter(near.items()))
            if similarity >= self.settings.attach:
                item = replace(item, key=key)
        if not item.text or any(known.id == item.id for known in self.items):
            return self
        items = [*self.items]
        if len(items) >= self.settings.capacity:
            least = min(range(len(items)), key=lambda k: (items[k].q, items[k].born, k))
            del items[least]
        return replace(self, items=(*items, item))

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with what is retrieved: successes, then failures."""
        found = await self.retrieve(self.key(goal, observation.text))
        return StaticGuide(self.lay_out(found))

    def lay_out(self, found: Sequence[Experience]) -> str:
        """Return the text that is shown."""
        parts = []
        for title, success in ((WON, True), (LOST, False)):
            texts = [self._text(item) for item in found if item.success == success]
            if texts:
                parts.append("\n".join([title, *texts]))
        return "\n\n".join(parts)

    def _text(self, item: Experience) -> str:
        shown = f"- {item.text}"
        if self.settings.show == "trajectory" and item.trajectory:
            shown += f"\n{item.trajectory}"
        return shown

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.settings), encode(self.items)]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "UtilityMemory":
        """Make it again, with the same hash."""
        settings, items = document
        return cls(
            decode(MemrlSettings, settings),
            decode(tuple[Experience, ...], items),
            resources.get("embedder") or Lexical(),
        )
