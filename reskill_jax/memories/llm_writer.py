"""A writer that asks a language model, through the seam that creators use."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from absl import logging
from pydantic import BaseModel

from reskill_jax.creator import render
from reskill_jax.creator.prompting import Prompts
from reskill_jax.llm.caller import Caller, CallError
from reskill_jax.llm.json_schema import strict_schema
from reskill_jax.llm.sanitize import clean
from reskill_jax.memories.answers import (
    EDITS,
    Edits,
    Instructions,
    Lesson,
    Principle,
    Same,
    Script,
    Skills,
)
from reskill_jax.memories.rules import RuleEdit
from reskill_jax.memories.skill_entries import Entry, EntryEdit
from reskill_jax.skills.episode_record import EpisodeRecord

_Answer = TypeVar("_Answer", bound=BaseModel)


class LlmWriter:
    """Asks once per text; where there is no answer it has nothing to say.

    Args:
        caller: asks the model.
        prompts: what it is asked.
    """

    def __init__(self, caller: Caller, prompts: Prompts):
        self._caller = caller
        self._prompts = prompts

    def begin(self, step: int) -> None:
        """Begin the calls of a training step; the cycle's budget is whole again."""
        self._caller.begin(step)

    def lesson(self, record: EpisodeRecord, earlier: Sequence[str]) -> str:
        """Ask what a failed episode teaches."""
        answer = self._ask(
            "lesson",
            Lesson,
            task=render.task(record),
            episodes=render.episodes([record], record.bank),
            earlier=render.numbered(earlier),
        )
        return answer.lesson if answer else ""

    def script(self, record: EpisodeRecord) -> str:
        """Ask for the steps of a successful episode."""
        answer = self._ask(
            "script",
            Script,
            task=render.task(record),
            episodes=render.episodes([record], record.bank),
        )
        steps = answer.steps if answer else []
        return "; ".join(f"{n}. {step}" for n, step in enumerate(steps, 1))

    def principle(self, record: EpisodeRecord) -> str:
        """Ask what an episode teaches in general."""
        answer = self._ask(
            "principle",
            Principle,
            task=render.task(record),
            episodes=render.episodes([record], record.bank),
        )
        return answer.principle if answer else ""

    def same(self, first: str, second: str) -> bool:
        """Ask whether two principles mean the same; no answer means no."""
        answer = self._ask("same", Same, first=first, second=second)
        return answer.same if answer else False

    def edits(
        self,
        rules: Sequence[str],
        won: Sequence[EpisodeRecord],
        lost: Sequence[EpisodeRecord],
    ) -> tuple[RuleEdit, ...]:
        """Ask how the rules should change."""
        answer = self._ask(
            "edits",
            Edits,
            rules=render.numbered(rules),
            episodes=render.episodes([*won, *lost], ""),
            count=EDITS,
        )
        return tuple(edit.edit() for edit in answer.operations) if answer else ()

    def instructions(
        self, current: str, failures: Sequence[EpisodeRecord], count: int
    ) -> tuple[str, ...]:
        """Ask for better instructions."""
        answer = self._ask(
            "instructions",
            Instructions,
            current=current or "(none)",
            episodes=render.episodes(failures, ""),
            count=count,
        )
        texts = answer.instructions if answer else []
        return tuple(dict.fromkeys(text for text in texts if text))[:count]

    def skills(
        self,
        known: Sequence[Entry],
        won: Sequence[EpisodeRecord],
        lost: Sequence[EpisodeRecord],
        kinds: Sequence[str],
        count: int,
    ) -> tuple[EntryEdit, ...]:
        """Ask what the episodes teach; whole ones, each with its outcome and task."""
        listed = [
            f"[{entry.id}] {clean(entry.category, 80)}: {clean(entry.line, 400)}"
            for entry in known
        ]
        shown = [
            f"{render.task(record)}\n{render.episodes([record], '')}"
            for record in (*won, *lost)
        ]
        answer = self._ask(
            "skills",
            Skills,
            known="\n".join(listed) or "(none)",
            episodes="\n\n".join(shown),
            kinds=", ".join(clean(kind, 80) for kind in kinds),
            count=count,
        )
        return tuple(op.edit() for op in answer.operations[:count]) if answer else ()

    def take_metrics(self) -> dict[str, float]:
        """Return what was counted since the last call."""
        counted = self._caller.spending.take()
        return {f"writer/{name}": value for name, value in counted.items()}

    def state(self) -> dict[str, Any]:
        """Return what the run has spent."""
        return {"spent": dict(self._caller.state())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self._caller.restore(state["spent"])

    def _ask(
        self, stage: str, schema: type[_Answer], **values: object
    ) -> _Answer | None:
        values["schema"] = json.dumps(strict_schema(schema))
        system = self._prompts.fill("writer", {})
        try:
            return self._caller.ask(system, self._prompts.fill(stage, values), schema)
        except CallError as error:
            logging.warning("the writer has no %s this time: %s", stage, error)
            return None
