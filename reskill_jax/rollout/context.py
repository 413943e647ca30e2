"""What an agent sees beside its environment: contexts, and their guides.

A context is a value: hashable content, JSON in and out, so that several processes and
checkpoints hold the same thing, and every episode records the hash of the one it ran
on. At the start of an episode it gives a guide. What stays true for the episode
(retrieved skills, memories, instructions) is the guide's `opening` and is read once, in
the trunk; what matters at one turn only are its `notes`, in that turn's branch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

from reskill_jax.codec import decode, encode
from reskill_jax.environments.action_format import Action
from reskill_jax.environments.protocol import Observation
from reskill_jax.environments.task import Task
from reskill_jax.skills.skill import Skill, SkillBank

_T = TypeVar("_T", bound=type)
_KINDS: dict[str, Any] = {}  # context classes by kind


@dataclass(frozen=True)
class Note:
    """Text for one turn's branch that is not a skill.

    Attributes:
        name: stands in the turn's `active_skills`.
        text: shown as it is.
    """

    name: str
    text: str


class Guide(Protocol):
    """What a context says during one episode."""

    @property
    def opening(self) -> str:
        """Text for the trunk, after the goal and the first observation; "" for none."""
        ...

    @property
    def shows_skills(self) -> bool:
        """Whether prompts have a section for notes, and say so in the role."""
        ...

    @property
    def tags(self) -> Sequence[str]:
        """Action tags that `answer` replies to."""
        ...

    def notes(
        self, observation: Observation, previous_action: str | None
    ) -> Sequence[Skill | Note]:
        """Return what goes into this turn's branch; the previous action None at first.

        Called once per turn, in order.
        """
        ...

    async def answer(self, action: Action) -> str | None:
        """Reply in the environment's place, or None: the environment shall step.

        Raises:
            EpisodeLostError: see `Context.begin`.
        """
        ...


class Context(Protocol):
    """What an arm's episodes run on; its class is registered with `context_kind`."""

    kind: ClassVar[str]

    @property
    def hash(self) -> str:
        """Content hash."""
        ...

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Start an episode; retrieval happens here, once.

        Raises:
            EpisodeLostError: e.g. a service does not answer; then the episode is begun
                again or lost, as if its environment had failed.
        """
        ...

    def to_json(self) -> Any:
        """Return the content as a JSON document."""
        ...


def context_kind(kind: str) -> Callable[[_T], _T]:
    """Register a class of contexts, so that `open_context` can make them again.

    The class needs a class method ``from_json(content, resources)``.

    Raises:
        ValueError: another class has this kind.
    """

    def register(cls: _T) -> _T:
        known = _KINDS.get(kind, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"context kind {kind!r} is {known}: choose another name")
        _KINDS[kind] = cls  # the newest one, where its module is loaded again
        setattr(cls, "kind", kind)  # noqa: B010 (a class of any type)
        return cls

    return register


@dataclass(frozen=True)
class StaticGuide:
    """A guide that says the same in every episode and answers nothing.

    Attributes:
        opening: see `Guide`.
        bank: whose skills are the notes; None: prompts have no section for them.
        tags: none.
    """

    opening: str = ""
    bank: SkillBank | None = None
    tags: tuple[str, ...] = ()

    @property
    def shows_skills(self) -> bool:
        """Whether there is a bank, be it an empty one."""
        return self.bank is not None

    def notes(
        self, observation: Observation, previous_action: str | None
    ) -> tuple[Skill, ...]:
        """Return the bank's active skills."""
        return self.bank.active(previous_action) if self.bank is not None else ()

    async def answer(self, action: Action) -> str | None:
        """Leave it to the environment."""
        return None


@context_kind("empty")
@dataclass(frozen=True)
class EmptyContext:
    """Nothing beside the environment: prompts of plain GRPO."""

    kind: ClassVar[str]
    hash: str = "empty"

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Return a guide that says nothing."""
        return StaticGuide()

    def to_json(self) -> None:
        """Return the content: there is none."""

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "EmptyContext":
        """Make it again."""
        return cls()


@context_kind("bank")
@dataclass(frozen=True)
class BankContext:
    """A skill bank: its skills are shown at the turns that they are triggered at."""

    kind: ClassVar[str]
    bank: SkillBank

    @property
    def hash(self) -> str:
        """The bank's content hash."""
        return self.bank.hash

    async def begin(self, task: Task, goal: str, observation: Observation) -> Guide:
        """Return a guide whose notes are the active skills that such a goal is for."""
        return StaticGuide(bank=self.bank.about(goal))

    def to_json(self) -> Any:
        """Return the bank as a JSON document."""
        return encode(self.bank)

    @classmethod
    def from_json(cls, document: Any, resources: Mapping[str, Any]) -> "BankContext":
        """Make it again, with the same hash.

        Checkpoints of earlier versions lack fields that came later.
        """
        return cls(decode(SkillBank, document, fields="known"))


@runtime_checkable
class Readable(Protocol):
    """A context that people can read as files."""

    def save(self, directory: Path) -> None:
        """Write the content into a directory, in the place of what was there."""
        ...


def check_context(name: str, context: Any) -> None:
    """Refuse what cannot be played on.

    Args:
        name: of the context, for messages.
        context: of a module that may be somebody's own.

    Raises:
        TypeError: its class is not registered, or its hash is no text.
    """
    if getattr(context, "kind", None) not in _KINDS:
        raise TypeError(
            f"{name}={context!r:.80}: needs a context, of a class with @context_kind"
        )
    if not isinstance(context.hash, str):
        raise TypeError(f"{name}.hash={context.hash!r:.80}: needs a str")


def context_to_json(context: Context) -> dict[str, Any]:
    """Return a context as a JSON document that `open_context` reads."""
    return {"kind": context.kind, "content": context.to_json()}


def open_context(document: Mapping[str, Any], resources: Mapping[str, Any]) -> Context:
    """Make the context of a document of `context_to_json`.

    Args:
        document: of a checkpoint, or of the leader.
        resources: what contexts may need and JSON cannot hold, by name, e.g. an
            embedder or a retriever; given to the class's `from_json`.

    Raises:
        ValueError: no class of this kind is registered.
    """
    kind = document["kind"]
    if kind not in _KINDS:
        raise ValueError(f"context kind {kind!r} is unknown: choose from {[*_KINDS]}")
    return _KINDS[kind].from_json(document["content"], resources)
