"""SkillRL's library: what an episode is shown of it, and what may get into it."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from reskill_jax.codec import decode, encode
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.llm.embedders import Embedder, Lexical, embed_now
from reskill_jax.memories.retrieval import cosines, similarities, top
from reskill_jax.memories.settings import SkillrlSettings
from reskill_jax.memories.skill_entries import (
    GENERAL,
    MISTAKES,
    MOST_CATEGORY,
    MOST_TOKENS,
    Entry,
    EntryEdit,
    about,
    tokens,
)
from reskill_jax.memories.skill_files import save_entries
from reskill_jax.memories.texts import content_hash, section
from reskill_jax.rollout.context import Guide, StaticGuide, context_kind

_GENERAL = "General skills:"
_SPECIFIC = "Skills for this kind of task:"
_MISTAKES = "Mistakes to avoid:"


@context_kind("skill_library")
@dataclass(frozen=True)
class SkillLibrary:
    """All skills, oldest first; a snapshot, which reading does not change.

    Attributes:
        settings: of the method.
        entries: the skills and mistakes.
        embedder: compares tasks and skills.
    """

    kind: ClassVar[str]
    settings: SkillrlSettings
    entries: tuple[Entry, ...] = ()
    embedder: Embedder = field(default_factory=Lexical, compare=False, repr=False)

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return content_hash(self.to_json())

    def of(self, *categories: str) -> list[Entry]:
        """Return the entries of categories."""
        return [entry for entry in self.entries if entry.category in categories]

    async def retrieve(self, task: Task, query: str) -> list[Entry]:
        """Return the skills of the task's type that are similar to a query.

        TopK({s of the type: sim(query, s) > threshold}, K), the best first (paper).

        Raises:
            EpisodeLostError: the embedder's service does not answer.
        """
        own = [
            entry
            for entry in self.entries
            if entry.category not in (GENERAL, MISTAKES)
            and about(entry.category, task.kind)
        ]
        scores = await similarities(self.embedder, query, [e.text for e in own])
        ids = [entry.id for entry in own]
        chosen = top(scores, ids, self.settings.shown, self.settings.threshold)
        return [own[place] for place in chosen]

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Open with all general skills, those retrieved, and the first mistakes."""
        query = goal
        if self.settings.retrieve == "state":
            query = f"{goal}\n{observation.text}"
        specific = await self.retrieve(task, query)
        mistakes = self.of(MISTAKES)[: self.settings.mistakes]
        parts = (
            section(_GENERAL, [entry.line for entry in self.of(GENERAL)]),
            section(_SPECIFIC, [entry.line for entry in specific]),
            section(_MISTAKES, [entry.line for entry in mistakes]),
        )
        return StaticGuide("\n\n".join(part for part in parts if part))

    def admit(
        self, edits: Iterable[EntryEdit], kinds: Sequence[str], limit: int
    ) -> tuple["SkillLibrary", Counter[str]]:
        """Apply the edits that are fit, in order, until so many are.

        Args:
            edits: of a writer.
            kinds: types of tasks that there are.
            limit: edits that may be applied.

        Returns:
            The new library, and for each reason the number of edits refused:
            ``category``, ``empty``, ``too_long``, ``duplicate``, ``full``,
            ``target``, ``refine``; ``limit`` for fit ones that came too late.

        Raises:
            CallError: the embedder's service does not answer.
        """
        library, refused, applied = self, Counter[str](), 0
        for edit in edits:
            reason = next(library._problems(edit, kinds), "")
            if not reason and applied == limit:
                reason = "limit"
            if reason:
                refused[reason] += 1
            else:
                library, applied = library._changed(edit), applied + 1
        return library, refused

    def _problems(self, edit: EntryEdit, kinds: Sequence[str]) -> Iterator[str]:
        """Yield why an edit is refused."""
        entry, old = edit.entry, self._target(edit)
        if edit.op == "refine" and not self.settings.refine:
            yield "refine"
        if edit.op == "refine" and old is None:
            yield "target"
        known = entry.category in (GENERAL, MISTAKES, *kinds)
        if edit.op == "add" and not (known and len(entry.category) <= MOST_CATEGORY):
            yield "category"
        if not entry.title or not entry.principle:
            yield "empty"
        if tokens(f"{entry.title} {entry.principle} {entry.when}") > MOST_TOKENS:
            yield "too_long"
        full = len(self.of(entry.category)) >= self.settings.capacity
        if edit.op == "add" and full:
            yield "full"
        # What is shown together; a skill may be right for two types of tasks.
        category = old.category if old else entry.category
        rivals = [e for e in self.entries if _shown_together(e.category, category)]
        others = [other for other in rivals if other is not old]
        if others and self._nearest(entry, others) >= self.settings.duplicate:
            yield "duplicate"

    def _target(self, edit: EntryEdit) -> Entry | None:
        """Return the entry that an edit refines; None where there is none."""
        named = [entry for entry in self.entries if entry.id == edit.target]
        return named[0] if edit.op == "refine" and named else None

    def _changed(self, edit: EntryEdit) -> "SkillLibrary":
        """Apply an edit that has no problems; a refined entry keeps its category."""
        old = self._target(edit)
        if old is None:
            return replace(self, entries=(*self.entries, edit.entry))
        new = replace(edit.entry, category=old.category)
        entries = tuple(new if entry is old else entry for entry in self.entries)
        return replace(self, entries=entries)

    def _nearest(self, entry: Entry, others: Sequence[Entry]) -> float:
        """Return the highest cosine of an entry with others."""
        texts = [entry.text, *(other.text for other in others)]
        vectors: NDArray[np.float32] = embed_now(self.embedder, texts)
        return float(cosines(vectors[:1], vectors[1:]).max())

    def save(self, directory: Path) -> None:
        """Write it for people and other agents; see `skill_files`."""
        save_entries(self.entries, directory)

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        return [encode(self.settings), encode(self.entries)]

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "SkillLibrary":
        """Make it again, with the same hash."""
        settings, entries = document
        return cls(
            decode(SkillrlSettings, settings),
            decode(tuple[Entry, ...], entries),
            resources.get("embedder") or Lexical(),
        )


def _shown_together(first: str, second: str) -> bool:
    """Tell whether an episode may be shown skills of both categories as one list."""
    if MISTAKES in (first, second):
        return first == second
    return first == second or GENERAL in (first, second)
