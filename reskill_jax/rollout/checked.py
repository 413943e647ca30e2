"""Guides of somebody's own contexts, checked: what they get wrong names the context."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from reskill_jax.environments.action_format import Action
from reskill_jax.environments.protocol import EpisodeLostError, Observation
from reskill_jax.environments.task import Task
from reskill_jax.modules import is_ours, naming
from reskill_jax.rollout.context import Context, Guide, Note
from reskill_jax.skills.skill import Skill
from reskill_jax.storage import well_formed


async def begin(
    context: Context, task: Task, goal: str, observation: Observation
) -> Guide:
    """Start an episode on a context, see `Context.begin`.

    Raises:
        EpisodeLostError: as the context says.
        ModuleError: the context is of somebody's own class, and failed otherwise.
    """
    if is_ours(context):
        return await context.begin(task, goal, observation)
    kind = type(context)
    what = f"context {kind.__module__}.{kind.__qualname__}, task {task.id}"
    with _naming(f"{what}: begin"):
        guide = await context.begin(task, goal, observation)
        checked = _Guide(guide, what)
        _expect("opening", guide.opening, str)
        _expect("shows_skills", guide.shows_skills, bool)
        _expect("tags", guide.tags, list | tuple)
    return checked


class _Guide:
    """Hands on what a guide says, if it is what it should be."""

    def __init__(self, guide: Guide, what: str):
        self._guide = guide
        self._what = what

    @property
    def opening(self) -> str:
        with _naming(f"{self._what}: opening"):
            return well_formed(_expect("opening", self._guide.opening, str))

    @property
    def shows_skills(self) -> bool:
        with _naming(f"{self._what}: shows_skills"):
            return _expect("shows_skills", self._guide.shows_skills, bool)

    @property
    def tags(self) -> Sequence[str]:
        with _naming(f"{self._what}: tags"):
            return _expect("tags", self._guide.tags, list | tuple)

    def notes(
        self, observation: Observation, previous_action: str | None
    ) -> Sequence[Skill | Note]:
        with _naming(f"{self._what}: notes"):
            notes = self._guide.notes(observation, previous_action)
            for note in _expect("notes", notes, list | tuple):
                _expect("a note", note, Skill | Note)
                if isinstance(note, Note):
                    _expect("a note's name", note.name, str)
                    _expect("a note's text", note.text, str)
            return notes

    async def answer(self, action: Action) -> str | None:
        with _naming(f"{self._what}: answer"):
            return _expect("answer", await self._guide.answer(action), str | None)


def _naming(what: str) -> AbstractContextManager[None]:
    return naming(what, EpisodeLostError)


def _expect(name: str, value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        wanted = getattr(kind, "__name__", str(kind))
        raise TypeError(f"{name} is {value!r:.80}: needs {wanted}")
    return value
