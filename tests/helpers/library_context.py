"""A context of our own: a library that opens with a text, notes, and answers."""

from dataclasses import dataclass, field

from reskill_jax.rollout.context import Note, context_kind
from reskill_jax.skills.skill import Skill

OPENING = "Remember {this}: mugs are in cabinet 3 < 4."
SKILL = Skill("be-brief", "d", "Always.", "Be brief.")


@context_kind("test/library")
@dataclass
class Library:
    """Opens with a text, notes at even turns, and answers `<recall>`."""

    opening: str = OPENING
    shelf: dict = field(default_factory=dict)  # a resource
    begun: list = field(default_factory=list)
    heard: list = field(default_factory=list)

    @property
    def hash(self):
        return f"library of {len(self.opening)}"

    async def begin(self, task, goal, observation):
        self.begun.append((task, goal, observation.text))
        return LibraryGuide(self)

    def to_json(self):
        return {"opening": self.opening}

    @classmethod
    def from_json(cls, document, resources):
        return cls(document["opening"], resources["shelf"])


class LibraryGuide:
    shows_skills = False
    tags = ("recall", "pass")

    def __init__(self, library):
        self._library = library
        self.opening = library.opening
        self._turn = 0

    def notes(self, observation, previous_action):
        self._library.heard.append((observation.text, previous_action))
        self._turn += 1
        return [] if self._turn % 2 else [Note("even", "An even turn."), SKILL]

    async def answer(self, action):
        if action.tag == "recall":
            return f"recalled {action.text}"
        return None
