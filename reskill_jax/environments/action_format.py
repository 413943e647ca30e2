"""How a response is read: which part of it is the action."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from reskill_jax import reasoning


@dataclass(frozen=True)
class Action:
    """What a response asks for.

    Attributes:
        tag: the tag that it stood in; "" without one.
        text: what the environment gets.
        well_formed: whether the response had the form that was asked for.
    """

    tag: str
    text: str
    well_formed: bool


class ActionFormat(Protocol):
    """Reads responses, and says how to ask for them."""

    @property
    def request(self) -> str:
        """What a prompt says of the form, e.g. "<action>..</action>"."""
        ...

    def parse(self, response: str, tags: Collection[str] = ()) -> Action:
        """Read a response; `tags` are further tags that a context answers."""
        ...


@dataclass(frozen=True)
class TaggedFormat:
    """The action is the text of the first pair of known tags after the thoughts.

    What a response drafts in thoughts (`reasoning.answer_of`) is never its action.

    With one tag the environment gets that text; with several it gets ``tag[text]``,
    e.g. ``search[capital of France]``, so that action, log and triggers are one string.

    Attributes:
        tags: of the environment.
        lower_case: whether responses are lower-cased first.
        untagged_characters: so many characters at the end of an answer without tags
            are its action all the same; with 0 the action is empty.
        single: a response with further known tags, open or closed, is one without.
    """

    tags: tuple[str, ...] = ("action",)
    lower_case: bool = False
    untagged_characters: int = 0
    single: bool = False

    def __post_init__(self) -> None:
        """Refuse tags that models put around their thoughts."""
        if thoughts := {tag.lower() for tag in self.tags} & {*reasoning.TAGS}:
            raise ValueError(
                f"tags={self.tags}: {', '.join(sorted(thoughts))} would be read as "
                "thoughts, not as an action: choose other names"
            )

    @property
    def request(self) -> str:
        """Name the tags, e.g. "<search>..</search> or <answer>..</answer>"."""
        return " or ".join(f"<{tag}>..</{tag}>" for tag in self.tags)

    def parse(self, response: str, tags: Collection[str] = ()) -> Action:
        """Read a response; runs of blanks in an action become one."""
        answer = reasoning.answer_of(response)
        text = answer.lower() if self.lower_case else answer
        known = (*self.tags, *tags)
        found = _first_pair(text, known)
        if found is None or (self.single and len(_any_tag(known).findall(text)) != 2):
            start = len(text) - self.untagged_characters
            return Action("", text[max(start, 0) :].strip(), well_formed=False)
        tag, content = found[0], " ".join(found[1].split())
        plain = len(self.tags) == 1 or tag not in self.tags
        return Action(tag, content if plain else f"{tag}[{content}]", well_formed=True)


def _first_pair(text: str, tags: tuple[str, ...]) -> tuple[str, str] | None:
    """Return tag and content of the first pair, in time linear in the text."""
    never_closed: set[str] = set()
    for found in _any_tag(tags).finditer(text):
        tag = found[2]
        if found[1] or tag in never_closed:
            continue
        end = text.find(f"</{tag}>", found.end())
        if end >= 0:
            return tag, text[found.end() : end]
        never_closed.add(tag)
    return None


@cache
def _any_tag(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Match one of the tags: a slash if it is a closing one, and its name."""
    return re.compile(rf"<(/?)({'|'.join(map(re.escape, tags))})>")
