"""How a statement is read from a response: exactly one pair of tags, as it is written.

Unlike words, SQL must keep its line breaks and runs of blanks: they end comments and
are part of quoted texts.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from reskill_jax.environments.action_format import Action
from reskill_jax.reasoning import answer_of

_FENCE = re.compile(r"```[a-z]*\s(.*?)\s?```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class SqlFormat:
    """The action is what stands in the only pair of tags of a response.

    Without a pair, or with further tags, the response is malformed and its action is
    empty, so that nothing is executed.

    Attributes:
        tag: of the environment.
    """

    tag: str = "sql"

    @property
    def request(self) -> str:
        """Name the tag."""
        return f"<{self.tag}>..</{self.tag}>"

    def parse(self, response: str, tags: Collection[str] = ()) -> Action:
        """Read what follows thoughts; a code fence around a statement is dropped."""
        response = answer_of(response)
        names = "|".join(map(re.escape, (self.tag, *tags)))
        marks = re.findall(rf"</?(?:{names})>", response, re.IGNORECASE)
        if len(marks) != 2:  # before the search, which takes long among many tags
            return Action("", "", well_formed=False)
        pair = rf"<({names})>(.*?)</\1>"
        found = re.search(pair, response, re.DOTALL | re.IGNORECASE)
        if found is None:
            return Action("", "", well_formed=False)
        text = found[2].strip()
        if fenced := _FENCE.fullmatch(text):
            text = fenced[1].strip()
        return Action(found[1].lower(), text, well_formed=True)
